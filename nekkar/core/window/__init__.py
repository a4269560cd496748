"""The algorithm, pure: no clock, no cache, no lock, no sleep."""
