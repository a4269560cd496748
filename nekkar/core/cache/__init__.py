"""Caches: where a limit's log lives. Any of them is safe to share between threads.

A cache is four methods over ``str`` keys and values (``BaseCache``). Some can also compare and swap: read a value with
a token, and write it back only if nobody else has written since (``SwapCache``). Such a cache holds a limit in one
value; any other cache holds it as numbered versions (store.py). If the cache's server tells the time (``TellsTime``),
all processes that share the limit use that clock. Every method blocks for at most the cache's timeout, and raises
CacheError if the cache is away; no method guesses an answer after an error.
"""

from typing import TYPE_CHECKING

from nekkar.core.cache.base import UNREAD, BaseCache, SwapCache, TellsTime
from nekkar.core.lazy import lazy

if TYPE_CHECKING:
    from nekkar.core.cache.memcached import MemcachedCache
    from nekkar.core.cache.memory import MemoryCache
    from nekkar.core.cache.sqlite import SqliteCache
    from nekkar.core.cache.url import from_url
else:
    __getattr__ = lazy(
        __name__,
        {
            "nekkar.core.cache.memcached": ("MemcachedCache",),
            "nekkar.core.cache.memory": ("MemoryCache",),
            "nekkar.core.cache.sqlite": ("SqliteCache",),
            "nekkar.core.cache.url": ("from_url",),
        },
    )

__all__ = ["UNREAD", "BaseCache", "MemcachedCache", "MemoryCache", "SqliteCache", "SwapCache", "TellsTime", "from_url"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
