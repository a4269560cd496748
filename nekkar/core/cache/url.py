"""Make a cache from a URL: one function per scheme, which gets the URL's parts and options."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, unquote

from nekkar.core.cache.base import BaseCache
from nekkar.core.cache.memcached import MemcachedCache
from nekkar.core.cache.memcached.address import address
from nekkar.core.cache.memory import MemoryCache
from nekkar.core.cache.redaction import SCHEMES, Parts, is_path, near_scheme, parts_of, redacted
from nekkar.core.cache.sqlite import SqliteCache
from nekkar.core.errors import ConfigurationError, kind_of

_KNOWN = (
    "memory:, sqlite:///file.db, sqlite:////folder/file.db, memcached://host:11211, memcached://host1,host2:11212,"
    " memcacheds://host (TLS), memcached:///path/to/socket, redis://host:6379/0"
)


def from_url(url: str) -> BaseCache:
    """Return the cache that ``url`` names; raise ConfigurationError if it does not name one.

    One of ``memory:``, ``sqlite:///file.db``, ``memcached://host1:11211,host2``, ``memcached:///path/to/socket``,
    ``memcacheds://host``, ``redis://host:6379/0``, ``rediss://``, ``unix://``, ``valkey://``, ``valkeys://``.
    ``?timeout=SECONDS`` sets the timeout of a memcached, SQLite or Redis cache. ``memcacheds`` is memcached over TLS,
    trusting what the system trusts.
    """
    if not isinstance(url, str):
        raise ConfigurationError(f"cache URL must be a str, got {kind_of(url)}; use one of {_KNOWN}")
    parts = parts_of(url)
    if parts.scheme not in SCHEMES:
        raise ConfigurationError(
            f"cache URL {redacted(url)} (shown without what may hold a password) names no known cache"
            f"{near_scheme(url)}; use one of {_KNOWN}"
        )
    if parts.scheme != "memory" and not parts.slashes:
        raise ConfigurationError(
            f"cache URL {redacted(url)}: '//' is missing behind '{parts.scheme}:'; use one of {_KNOWN}"
        )
    if parts.scheme not in _MAKERS:
        return _redis(url)
    try:
        return _MAKERS[parts.scheme](parts, _options(parts))
    except ConfigurationError as error:
        fault = str(error)
    raise ConfigurationError(f"cache URL {redacted(url)}: {fault}")


def _memory(parts: Parts, options: dict[str, Any]) -> BaseCache:
    if parts.authority or parts.path or options:
        raise ConfigurationError("a memory cache has no address and no options; write 'memory:'")
    return MemoryCache()


def _sqlite(parts: Parts, options: dict[str, Any]) -> BaseCache:
    if parts.authority or len(parts.path) < 2:
        raise ConfigurationError("write sqlite:///file.db, or sqlite:////folder/file.db for a path from the root")
    if not is_path(parts.path[1:]):  # it would be in every message of the cache
        raise ConfigurationError("its path has ':' and '@' in it, as a password has; write %40 for an '@' of its own")
    return SqliteCache(unquote(parts.path[1:]), **options)


def _memcached(parts: Parts, options: dict[str, Any], tls_context: bool | None = None) -> BaseCache:
    if not parts.authority and len(parts.path) > 1:
        return MemcachedCache(unquote(parts.path), tls_context=tls_context, **options)
    if "@" in parts.authority or parts.path.strip("/"):
        raise ConfigurationError("a memcached cache is servers, host:port, separated by ',', with no path and no user")
    try:
        servers = [address(server) for server in parts.authority.split(",")]
    except ConfigurationError as cause:
        raise ConfigurationError(f"{cause}; use one of {_KNOWN}") from None
    return MemcachedCache(servers=servers, tls_context=tls_context, **options)


def _redis(url: str) -> BaseCache:
    from nekkar.redis import RedisCache  # needs its extra, and errors of its own that keep passwords out

    return RedisCache(url)


def _options(parts: Parts) -> dict[str, Any]:
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    if parts.fragment or [name for name, _ in pairs] not in ([], ["timeout"]):
        raise ConfigurationError("the only option is ?timeout=SECONDS, once")
    try:
        return {name: float(value) for name, value in pairs}
    except ValueError:
        raise ConfigurationError("its timeout is not a number; give ?timeout=SECONDS, such as ?timeout=0.5") from None


_MAKERS: dict[str, Callable[[Parts, dict[str, Any]], BaseCache]] = {
    "memory": _memory,
    "sqlite": _sqlite,
    "memcached": _memcached,
    "memcacheds": partial(_memcached, tls_context=True),
}
