"""The core: it knows callers, caches and time, and nothing of HTTP."""
