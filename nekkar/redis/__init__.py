"""Redis and Valkey: a cache of a fleet on several machines."""

from nekkar.redis.cache import RedisCache

__all__ = ["RedisCache"]
