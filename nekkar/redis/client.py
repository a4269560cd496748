"""From an address, a URL or a client of redis-py or valkey to what opens a connection.

Rules:

- No password, and no part of a URL that could hold one, comes into an error or a place's name (redaction.py). What a
  library raises about a URL or an option is not passed on, not even as a cause: it repeats what it was given.
- TLS verifies the certificate and the name of the host, in whatever version of either library, unless the user's own
  options say otherwise. The libraries' defaults differ: valkey's ``valkeys://`` takes a certificate of any host.
"""

from __future__ import annotations

import re
from importlib import import_module
from ssl import CERT_NONE
from typing import Any
from urllib.parse import urlsplit

from nekkar.core.cache.memcached.meta import ProtocolError
from nekkar.core.cache.redaction import is_host, is_well_formed, near_scheme, parts_of, port_of, redacted, redacted_host
from nekkar.core.errors import ConfigurationError, kind_of
from nekkar.redis.wire import bounded

_SCHEMES = {"redis": "redis", "rediss": "redis", "unix": "redis", "valkey": "valkey", "valkeys": "valkey"}
_CLIENTS = {"redis": "Redis", "valkey": "Valkey"}
_EXPECTED = "give redis://[user:password@]host:6379/0, rediss:// for TLS, or unix:///path/to/socket?db=0"
_UNVERIFIED = (None, "none", CERT_NONE)
_UNUSABLE = (TypeError, ValueError, LookupError, AttributeError)
_THEIRS = ("maint_", "orig_", "oss_", "cache", "client_cache")  # what binds a connection to its own client


def made(host: Any, port: int, db: int, options: dict[str, Any]) -> Any:
    """Return the client that is given, or make one of a URL or an address; it connects nowhere."""
    given = sorted({"socket_timeout", "socket_connect_timeout"} & set(options))
    if given:
        raise ConfigurationError(f"{given[0]}= has no effect; give timeout=SECONDS")
    plain = isinstance(host, str) and "://" not in host
    if not plain and (port, db) != (6379, 0):
        raise ConfigurationError(
            f"port={kind_of(port)}, db={kind_of(db)} beside a URL or a client; give them in it, and a password by name"
        )
    if not isinstance(host, str):
        if options:
            raise ConfigurationError(f"{sorted(options)[0]}= beside a client has no effect; give it to the client")
        return host
    return _by_address(host, port, db, options) if plain else _by_url(host, options)


def _by_address(host: str, port: int, db: int, options: dict[str, Any]) -> Any:
    if not is_host(host):
        raise ConfigurationError(
            f"Redis host {redacted_host(host)} is not a host name{near_scheme(host)}; give a host name, a URL or a"
            " client"
        )
    if isinstance(db, bool) or not isinstance(db, int) or db < 0:
        raise ConfigurationError(f"Redis db must be a whole number from 0, got {kind_of(db)}; give a password by name")
    port = port_of(port, "Redis port")
    if options.get("ssl") and options.get("ssl_cert_reqs", "required") not in _UNVERIFIED:
        options = {"ssl_check_hostname": True} | options
    try:
        return library("redis").Redis(host=host, port=port, db=db, **options)
    except _UNUSABLE as error:
        fault = _fault(error, options)
    raise ConfigurationError(f"Redis options {sorted(options)}: {fault}; give those of redis.Redis")


def _by_url(url: str, options: dict[str, Any]) -> Any:
    scheme, colon, rest = url.partition(":")
    name = _SCHEMES.get(scheme.lower())
    if name is None:
        raise ConfigurationError(f"Redis URL {redacted(url)} is of no known scheme{near_scheme(url)}; {_EXPECTED}")
    if fault := _unread(url):
        raise ConfigurationError(f"Redis URL {redacted(url)} {fault}; {_EXPECTED}")
    kind = getattr(library(name), _CLIENTS[name])
    try:
        client = kind.from_url(scheme.lower() + colon + rest, **options)
    except _UNUSABLE as error:
        fault = _fault(error, options)
    else:
        _verify_host(client.connection_pool, library(name))
        return client
    raise ConfigurationError(f"Redis URL {redacted(url)} can't be read: {fault}; {_EXPECTED}")


def _verify_host(pool: Any, library: Any) -> None:
    """Have TLS check the host's name, unless the options turn that off, or the check of the certificate with it."""
    known = pool.connection_kwargs
    if not issubclass(pool.connection_class, library.connection.SSLConnection):
        return
    check = known.get("ssl_check_hostname")
    if isinstance(check, str):  # valkey, and redis-py before 6, leave it as it stands in the URL
        check = check.lower() not in ("0", "f", "false", "n", "no")
    is_verified = known.get("ssl_cert_reqs", "required") not in _UNVERIFIED
    known["ssl_check_hostname"] = is_verified and check is not False


def _fault(error: BaseException, options: dict[str, Any]) -> str:
    """Say what a library found wrong with options; of names only one that the caller wrote as an argument."""
    name = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if name is None:
        return f"{type(error).__name__}, an option has a value that it can't have"
    return f"there is no option {name[1]!r}" if name[1] in options else "an option of the URL is not known"


def _unread(url: str) -> str:
    """Say what of a URL means nothing, which the library would pass over; "" where all of it means something."""
    if not is_well_formed(parts_of(url)):
        return "is not such a URL; percent-encode all but letters and digits in a password"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "has an invalid host or port"
    if "socket_timeout=" in parts.query:
        return "has the option socket_timeout, which has no effect; give ?timeout=SECONDS"
    return "has an invalid port" if port == 0 or (parts.scheme == "unix" and port is not None) else ""


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
        pass  # raised below, where its text, which repeats the value, is not its context
    else:
        return address + ("?" + rest if rest else ""), seconds
    raise ConfigurationError(f"Redis URL {redacted(host)}: give ?timeout=SECONDS, once")


def library(name: str) -> Any:
    """Import the library ``name``, ``redis`` or ``valkey``."""
    try:
        return import_module(name)
    except ImportError:
        raise ConfigurationError(f"{name} is not installed; run: pip install 'nekkar[{name}]'") from None


def library_of(client: Any) -> Any:
    """Return the library of ``client``; raise ConfigurationError for anything but a sync client."""
    modules = [base.__module__ for base in type(client).__mro__]
    if any(".asyncio." in module for module in modules):
        kind = type(client).__name__
        raise ConfigurationError(f"{kind} is an async client; give the sync one, async limits call it in a thread")
    for module in modules:
        name = module.partition(".")[0]
        if name in _CLIENTS and (hasattr(client, "connection_pool") or is_cluster(client)):
            return library(name)
    raise ConfigurationError(
        f"Redis client must be a URL, a host, or a client of redis-py or valkey, got {kind_of(client)}"
    )


def failures(library: Any) -> tuple[type[Exception], ...]:
    """Return what the library raises when a server is away, refuses a command, or sends an invalid answer."""
    named = ("RedisError", "ValkeyError", "RedisClusterException", "ValkeyClusterException")
    own = [getattr(library.exceptions, name, OSError) for name in named]
    return (ProtocolError, OSError, ValueError, LookupError, *own)


def is_cluster(client: Any) -> bool:
    """Whether ``client`` is a cluster's."""
    return hasattr(client, "get_node_from_key")


def settings(client: Any, timeout: float, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
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
    unusable: tuple[type[Exception], ...] = (*_UNUSABLE, *failures(library_of(client)))
    try:
        pool.connection_class(**(kept | own))
    except unusable as error:
        fault = _fault(error, options)
    else:
        return bounded(pool.connection_class), kept | own
    raise ConfigurationError(f"Redis options of {place(client)}: {fault}; leave out or correct it")


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
