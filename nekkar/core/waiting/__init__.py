"""The callers of one process: they queue, one books for all, each starts at its slot."""
