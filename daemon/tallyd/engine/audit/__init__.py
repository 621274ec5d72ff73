"""The audit: recomputing the books from the events as sent, with sums of its own. `auditor` is the way in."""
