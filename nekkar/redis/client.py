"""From an address, a URL or a client of redis-py or valkey to what opens a connection.

No password, and no part of a URL that could hold one, comes into an error or a place's name.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from nekkar.core.cache.memcached.meta import BadAnswer
from nekkar.core.errors import ConfigurationError, shown
from nekkar.core.quota import whole
from nekkar.redis.wire import bounded

_SCHEMES = {"redis": "redis", "rediss": "redis", "unix": "redis", "valkey": "valkey", "valkeys": "valkey"}
_CLIENTS = {"redis": "Redis", "valkey": "Valkey"}
_EXPECTED = "give redis://[user:password@]host:6379/0, rediss:// for TLS, or unix:///path/to/socket?db=0"
_THEIRS = ("maint_", "orig_", "oss_", "cache", "client_cache")  # what binds a connection to its own client


def made(host: Any, port: int, db: int, options: dict[str, Any]) -> Any:
    """Return the client that is given, or make one of a URL or an address; it connects nowhere."""
    given = sorted({"socket_timeout", "socket_connect_timeout"} & set(options))
    if given:
        raise ConfigurationError(f"{given[0]}={shown(options[given[0]])} has no effect; give timeout=SECONDS")
    plain = isinstance(host, str) and "://" not in host
    if not plain and (port, db) != (6379, 0):
        raise ConfigurationError(f"port={shown(port)}, db={shown(db)} beside a URL or a client; give them in it")
    if not isinstance(host, str):
        if options:
            raise ConfigurationError(f"{sorted(options)[0]}= beside a client has no effect; give it to the client")
        return host
    return _by_address(host, port, db, options) if plain else _by_url(host, options)


def _by_address(host: str, port: int, db: int, options: dict[str, Any]) -> Any:
    if not host:
        raise ConfigurationError("Redis host '' is no host name; give a host name, a URL or a client")
    if isinstance(db, bool) or not isinstance(db, int) or db < 0:
        raise ConfigurationError(f"Redis db {shown(db)} is no database; give a whole number from 0")
    port = whole(port, "Redis port", 65_535)
    try:
        return library("redis").Redis(host=host, port=port, db=db, **options)
    except TypeError as cause:
        raise ConfigurationError(f"Redis options {sorted(options)}: {cause}; give those of redis.Redis") from None


def _by_url(url: str, options: dict[str, Any]) -> Any:
    scheme, colon, rest = url.partition(":")
    name = _SCHEMES.get(scheme.lower())
    if name is None or not _reads(url):
        raise ConfigurationError(f"Redis URL {redacted(url)!r} is none; {_EXPECTED}")
    kind = getattr(library(name), _CLIENTS[name])
    try:
        return kind.from_url(scheme.lower() + colon + rest, **options)
    except (ValueError, TypeError):
        raise ConfigurationError(f"Redis URL {redacted(url)!r} can't be read; {_EXPECTED}") from None


def _reads(url: str) -> bool:
    """Whether every part of a URL means something: the library passes over some that don't."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    if parts.fragment or "#" in url or "socket_timeout=" in parts.query:
        return False
    if parts.scheme == "unix":
        return len(parts.path) > 1 and port is None
    return bool(parts.hostname) and port != 0 and re.fullmatch(r"/?[0-9]*", parts.path) is not None


def split_timeout(host: Any, timeout: float) -> tuple[Any, float]:
    """Take ``?timeout=SECONDS`` out of a URL."""
    if not isinstance(host, str) or "timeout=" not in host:
        return host, timeout
    address, _, query = host.partition("?")
    pairs = query.split("&")
    own = [pair for pair in pairs if pair.startswith("timeout=")]
    rest = "&".join(pair for pair in pairs if pair not in own)
    try:
        [seconds] = [float(pair.removeprefix("timeout=")) for pair in own] or [timeout]
    except ValueError:
        raise ConfigurationError(f"Redis URL {redacted(host)!r}: give ?timeout=SECONDS, once") from None
    return address + ("?" + rest if rest else ""), seconds


def redacted(url: str) -> str:
    """Return a URL without its user, password and options' values."""
    return re.sub(r"=[^&]*", "=***", re.sub(r"(?<=://).*@", "***@", url, flags=re.DOTALL))


def library(name: str) -> Any:
    """Import the library ``name``, ``redis`` or ``valkey``."""
    try:
        return import_module(name)
    except ImportError:
        raise ConfigurationError(f"{name} is not installed; run: pip install 'nekkar[{name}]'") from None


def library_of(client: Any) -> Any:
    """Return the library that ``client`` is of; ConfigurationError where it is no client, or an async one."""
    modules = [base.__module__ for base in type(client).__mro__]
    if any(".asyncio." in module for module in modules):
        kind = type(client).__name__
        raise ConfigurationError(f"{kind} is an async client; give the sync one, async limits call it in a thread")
    for module in modules:
        name = module.partition(".")[0]
        if name in _CLIENTS and (hasattr(client, "connection_pool") or is_cluster(client)):
            return library(name)
    raise ConfigurationError(
        f"Redis client {shown(type(client))} is none; give a URL, a host, or a client of redis-py or valkey"
    )


def failures(library: Any) -> tuple[type[BaseException], ...]:
    """Return what is raised where a server is away, refuses, or answers what is no answer."""
    named = ("RedisError", "ValkeyError", "RedisClusterException", "ValkeyClusterException")
    own = [getattr(library.exceptions, name, OSError) for name in named]
    return (BadAnswer, OSError, ValueError, LookupError, *own)


def is_cluster(client: Any) -> bool:
    """Whether ``client`` is a cluster's."""
    return hasattr(client, "get_node_from_key")


def settings(client: Any, timeout: float) -> tuple[Any, dict[str, Any]]:
    """Return what makes a connection of ``client``'s kind, and with which arguments: raw, bounded, trying once.

    An address of several has half of the time: to connect is one round trip, and a command is another at least.
    """
    if is_cluster(client):
        _check_cluster(client)
        return None, {}
    pool = client.connection_pool
    kept = {name: value for name, value in pool.connection_kwargs.items() if not name.startswith(_THEIRS)}
    own: dict[str, Any] = {"socket_timeout": timeout, "socket_connect_timeout": timeout / 2, "health_check_interval": 0}
    own |= {"retry": None, "retry_on_error": [], "retry_on_timeout": False}
    own |= {"decode_responses": False, "encoding": "utf-8", "encoding_errors": "strict"}
    try:
        pool.connection_class(**(kept | own))
    except TypeError as cause:
        raise ConfigurationError(
            f"Redis options of {place(client)}: {cause}; leave out what it does not know"
        ) from None
    return bounded(pool.connection_class), kept | own


def _check_cluster(client: Any) -> None:
    if client.get_encoder().decode_responses:
        raise ConfigurationError("the cluster's client has decode_responses=True; give one without, logs are bytes")
    if client.get_connection_kwargs().get("socket_timeout") is None:
        raise ConfigurationError("the cluster's client has no socket_timeout; make it with socket_timeout=1")


def place(client: Any) -> str:
    """Return where a client's server is, for errors: host:port/db, a socket's path, a service's name."""
    if is_cluster(client):
        node = client.get_default_node()
        return f"the cluster of {node.host}:{node.port}"
    pool = client.connection_pool
    known = pool.connection_kwargs
    if "path" in known or hasattr(pool, "service_name"):
        return str(known.get("path") or pool.service_name)
    return f"{known.get('host', 'localhost')}:{known.get('port', 6379)}/{known.get('db', 0)}"
