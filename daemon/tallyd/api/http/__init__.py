"""HTTP: the native API (Tanso's contract) and the Dodo and Retempo dialects, one module each."""
