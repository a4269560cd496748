"""The caches, each by itself and against one suite."""
