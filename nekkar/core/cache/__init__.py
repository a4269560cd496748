"""Caches: where a limit's log lives. Any of them is safe to share between threads.

A cache is four methods over ``str`` keys and values (``BaseCache``). One that can also swap, that
is, read a value with a token and write it back only if nobody else wrote since (``SwapCache``),
carries a limit in one value; any other does by versions (store.py). A swap that won tells its token, or
``UNREAD`` where the cache can't. Where its server tells the time (``TellsTime``), all who share the limit go by
that clock. Every method blocks for at most the cache's timeout and raises CacheError where the cache is away;
none guesses an answer from an error.
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
