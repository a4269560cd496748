"""From a URL to a cache."""

from __future__ import annotations

from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from nekkar.core.cache.base import BaseCache
from nekkar.core.cache.memcached import MemcachedCache
from nekkar.core.cache.memory import MemoryCache
from nekkar.core.cache.sqlite import SqliteCache
from nekkar.core.errors import ConfigurationError, shown

_KNOWN = (
    "memory:, sqlite:///file.db, sqlite:////folder/file.db, memcached://host:11211, memcached:///path/to/socket,"
    " redis://host:6379/0"
)
_REDIS = ("redis://", "rediss://", "unix://", "valkey://", "valkeys://")


def from_url(url: str) -> BaseCache:
    """Return the cache that ``url`` names; ConfigurationError where it names none.

    ``?timeout=SECONDS`` sets the timeout of a memcached, SQLite or Redis cache.
    """
    if not isinstance(url, str):
        raise ConfigurationError(f"cache URL {shown(url)} is no text; use one of {_KNOWN}")
    if url.lower().startswith(_REDIS):
        return _redis(url)
    makers = {"memory": _memory, "sqlite": _sqlite, "memcached": _memcached}
    try:
        parts = urlsplit(url)
        make = makers[parts.scheme]
        if make is not _memory and not url[len(parts.scheme) :].startswith("://"):
            raise ConfigurationError(f"'//' is missing behind '{parts.scheme}:'; use one of {_KNOWN}")
        return make(parts, _options(parts))
    except KeyError:
        raise ConfigurationError(f"cache URL {shown(url)} names no known cache; use one of {_KNOWN}") from None
    except ConfigurationError as cause:
        raise ConfigurationError(f"cache URL {shown(url)}: {cause}") from None
    except ValueError as cause:
        raise ConfigurationError(f"cache URL {shown(url)}: {cause}; use one of {_KNOWN}") from cause


def _memory(parts: SplitResult, options: dict[str, Any]) -> BaseCache:
    if parts.netloc or parts.path or options:
        raise ConfigurationError("a memory cache has no address and no options; write 'memory:'")
    return MemoryCache()


def _sqlite(parts: SplitResult, options: dict[str, Any]) -> BaseCache:
    if parts.netloc or len(parts.path) < 2:
        raise ConfigurationError("write sqlite:///file.db, or sqlite:////folder/file.db for a path from the root")
    return SqliteCache(unquote(parts.path[1:]), **options)


def _memcached(parts: SplitResult, options: dict[str, Any]) -> BaseCache:
    if not parts.netloc and len(parts.path) > 1:
        return MemcachedCache(unquote(parts.path), **options)
    if "," in parts.netloc or parts.path.strip("/") or parts.username is not None:
        raise ConfigurationError("a memcached cache is one server, host:port, with no path and no user")
    return MemcachedCache(parts.hostname or "", 11211 if parts.port is None else parts.port, **options)


def _redis(url: str) -> BaseCache:
    from nekkar.redis import RedisCache  # needs its extra, and errors of its own that keep passwords out

    return RedisCache(url)


def _options(parts: SplitResult) -> dict[str, Any]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    if parts.fragment or [name for name, _ in pairs] not in ([], ["timeout"]):
        raise ConfigurationError("the only option is ?timeout=SECONDS, once")
    return {name: float(value) for name, value in pairs}
