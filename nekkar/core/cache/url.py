"""From a URL to a cache: one function for each scheme, of the URL's parts and its options."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote

from nekkar.core.cache.base import BaseCache
from nekkar.core.cache.memcached import MemcachedCache
from nekkar.core.cache.memcached.address import address
from nekkar.core.cache.memory import MemoryCache
from nekkar.core.cache.sqlite import SqliteCache
from nekkar.core.errors import ConfigurationError, shown

_KNOWN = (
    "memory:, sqlite:///file.db, sqlite:////folder/file.db, memcached://host:11211, memcached://host1,host2:11212,"
    " memcacheds://host (TLS), memcached:///path/to/socket, redis://host:6379/0"
)
_URL = re.compile(r"([^:/?#]*):(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)  # RFC 3986, appendix B
_REDIS = ("redis://", "rediss://", "unix://", "valkey://", "valkeys://")


def from_url(url: str) -> BaseCache:
    """Return the cache that ``url`` names; ConfigurationError where it names none.

    One of ``memory:``, ``sqlite:///file.db``, ``memcached://host1:11211,host2``, ``memcached:///path/to/socket``,
    ``memcacheds://host``, ``redis://host:6379/0``, ``rediss://``, ``unix://``, ``valkey://``, ``valkeys://``.
    ``?timeout=SECONDS`` sets the timeout of a memcached, SQLite or Redis cache. ``memcacheds`` is memcached over TLS,
    trusting what the system trusts.
    """
    if not isinstance(url, str):
        raise ConfigurationError(f"cache URL {shown(url)} is no text; use one of {_KNOWN}")
    if url.lower().startswith(_REDIS):
        return _redis(url)
    try:
        parts = _split(url)
        make = _MAKERS[parts.scheme]
        if make is not _memory and not url[len(parts.scheme) :].startswith("://"):
            raise ConfigurationError(f"'//' is missing behind '{parts.scheme}:'; use one of {_KNOWN}")
        return make(parts, _options(parts))
    except KeyError:
        raise ConfigurationError(f"cache URL {shown(url)} names no known cache; use one of {_KNOWN}") from None
    except ConfigurationError as cause:
        raise ConfigurationError(f"cache URL {shown(url)}: {cause}") from None
    except ValueError as cause:
        raise ConfigurationError(f"cache URL {shown(url)}: {cause}; use one of {_KNOWN}") from cause


def without_secrets(url: str) -> str:
    """Return a cache URL without a user's name and password, to show."""
    return re.sub(r"(?<=://)[^/?#]*@", "", url, count=1)


def _memory(parts: SplitResult, options: dict[str, Any]) -> BaseCache:
    if parts.netloc or parts.path or options:
        raise ConfigurationError("a memory cache has no address and no options; write 'memory:'")
    return MemoryCache()


def _sqlite(parts: SplitResult, options: dict[str, Any]) -> BaseCache:
    if parts.netloc or len(parts.path) < 2:
        raise ConfigurationError("write sqlite:///file.db, or sqlite:////folder/file.db for a path from the root")
    return SqliteCache(unquote(parts.path[1:]), **options)


def _memcached(parts: SplitResult, options: dict[str, Any], tls_context: bool | None = None) -> BaseCache:
    if not parts.netloc and len(parts.path) > 1:
        return MemcachedCache(unquote(parts.path), tls_context=tls_context, **options)
    if "@" in parts.netloc or parts.path.strip("/"):
        raise ConfigurationError("a memcached cache is servers, host:port, parted by ','; with no path and no user")
    try:
        servers = [address(server) for server in parts.netloc.split(",")]
    except ConfigurationError as cause:
        raise ConfigurationError(f"{cause}; use one of {_KNOWN}") from None
    return MemcachedCache(servers=servers, tls_context=tls_context, **options)


def _split(url: str) -> SplitResult:
    """Split as the standard library does, which refuses a list of IPv6 hosts."""
    found = _URL.fullmatch(url)
    scheme, *parts = found.groups(default="") if found else ("", "", "", "", "")
    return SplitResult(scheme.lower(), *parts)


def _redis(url: str) -> BaseCache:
    from nekkar.redis import RedisCache  # needs its extra, and errors of its own that keep passwords out

    return RedisCache(url)


def _options(parts: SplitResult) -> dict[str, Any]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    if parts.fragment or [name for name, _ in pairs] not in ([], ["timeout"]):
        raise ConfigurationError("the only option is ?timeout=SECONDS, once")
    return {name: float(value) for name, value in pairs}


_MAKERS: dict[str, Callable[[SplitResult, dict[str, Any]], BaseCache]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "memcached": _memcached,
    "memcacheds": partial(_memcached, tls_context=True),
}
