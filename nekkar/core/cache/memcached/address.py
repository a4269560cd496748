"""Addresses of memcached servers, and which of several servers stores a key.

Each key has one fixed server, without failover: a key on another server would start with an empty window. Rules:

- The server is chosen by rendezvous hashing: each server's name is hashed with the key, and the highest hash wins. So
  all processes choose the same server, in any order of the list, and adding or removing a server moves only its own
  share of the keys.
- A name is ``host:port`` as it was written, in lower case, or the path of a Unix socket. Host names are not resolved,
  so all processes must write the servers in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from nekkar.core.cache.redaction import is_host, is_path, port_of, redacted_host
from nekkar.core.errors import ConfigurationError, kind_of

PORT = 11211

_NAMED = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]/@\s]*))(?::([0-9]*))?")


@dataclass(frozen=True, slots=True)
class Address:
    """A host and its port, or the path of a Unix socket and None."""

    host: str
    port: int | None

    def __str__(self) -> str:
        if self.port is None:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def name(self) -> str:
        """The name to hash and to compare; a host is in lower case."""
        return str(self) if self.port is None else str(self).lower()


def address(server: Any) -> Address:
    """Read a server as pymemcache takes it: ``("host", 11211)``, "host:11211", "host", "[::1]:11211", "/a/socket"."""
    if isinstance(server, Address):
        return server
    if isinstance(server, str):
        return _named(server)
    if isinstance(server, tuple | list) and len(server) == 2:
        return at(*server)
    raise ConfigurationError(
        f"memcached server must be ('host', 11211), 'host', 'host:11211' or '/a/socket', got {kind_of(server)}"
    )


def at(host: Any, port: Any) -> Address:
    """Return the address of a host and a port; for a path, the port is ignored."""
    if not isinstance(host, str):
        raise ConfigurationError(f"memcached host must be a str, a host name or a socket path, got {kind_of(host)}")
    if not (is_path(host) if host.startswith("/") else is_host(host)):
        raise ConfigurationError(
            f"memcached host {redacted_host(host)} is not a host name or a socket path; give one such as 'localhost',"
            " its port beside it, or give a URL to Nekkar(url)"
        )
    port = port_of(port, "memcached port")
    return Address(host, None if host.startswith("/") else port)


def addresses(servers: Any) -> tuple[Address, ...]:
    """Read a list of servers: at least one, and none twice."""
    if isinstance(servers, str) or not isinstance(servers, Sequence) or not servers:
        what = "an empty list" if isinstance(servers, list | tuple) else kind_of(servers)
        raise ConfigurationError(f"memcached servers must be a list of servers such as ['h1', 'h2'], got {what}")
    found = tuple(map(address, servers))
    names = [each.name for each in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ConfigurationError(f"memcached server {twice!r} is listed twice; name each once")
    return found


def pick_server(servers: Sequence[Address], key: str) -> Address:
    """Return the server that stores ``key``."""
    return max(servers, key=lambda server: _weight(server, key)) if len(servers) > 1 else servers[0]


def ranked(servers: Sequence[Address], key: str) -> list[Address]:
    """Return all servers, the one that stores ``key`` first; every process gets the same order."""
    return sorted(servers, key=lambda server: _weight(server, key), reverse=True)


def _weight(server: Address, key: str) -> bytes:
    return blake2b(f"{server.name} {key}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _named(server: str) -> Address:
    path = server.removeprefix("unix:")
    if path.startswith("/"):
        return at(path, PORT)
    found = _NAMED.fullmatch(server)
    if not found:
        raise ConfigurationError(
            f"memcached server {redacted_host(server)} is not host:port; write IPv6 in brackets, '[::1]:{PORT}'"
        )
    return at(found[1] or found[2], int(found[3][:6]) if found[3] else PORT)
