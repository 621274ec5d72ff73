"""The Trio shell around the pure engine: one actor per customer, and the little that all of them share."""
