"""The callers of one process."""
