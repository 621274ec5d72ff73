"""Subscriptions and invoices: what a subscription owes, and when. One page: README.md."""
