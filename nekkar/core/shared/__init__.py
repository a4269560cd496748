"""One limit's state in one cache: read it, change it, swap it."""
