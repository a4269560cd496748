"""The algorithm, pure."""
