"""memcached: the cache of a fleet on several machines."""

from nekkar.core.cache.memcached.cache import MemcachedCache

__all__ = ["MemcachedCache"]
