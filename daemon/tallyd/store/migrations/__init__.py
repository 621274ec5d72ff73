"""Each step from one version of the tables to the next. Never edited once released; only added to."""
