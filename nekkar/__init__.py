"""nekkar: one exact rate limit, shared by a whole fleet."""
