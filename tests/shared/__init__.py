"""One limit's state in one cache."""
