"""Cache URLs and addresses without secrets, for messages.

In a misspelt URL a user name, a password or a token can be anywhere: before a missing "@", in place of a port, in an
option. So nothing is removed from a URL. Instead a new text is made of the parts known to be harmless:

- the scheme, if it is a known one;
- the hosts with their ports, the path of a file or socket, and the number of a database, if the whole URL except for
  its user info and its options is valid.

tests/caches/test_secrets.py misspells URLs at random, and looks for the secret in everything raised, logged or
printed.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from ipaddress import ip_address
from typing import Any, NamedTuple, SupportsIndex

from nekkar.core.errors import ConfigurationError, kind_of
from nekkar.core.quota import whole

HIDDEN = "***"
SCHEMES = ("memory", "sqlite", "memcached", "memcacheds", "redis", "rediss", "unix", "valkey", "valkeys")

_URL = re.compile(r"([^:/?#]*):(//)?([^/?#]*)([^?#]*)(?:\?([^#]*))?(#.*)?", re.DOTALL)  # RFC 3986, appendix B
_HOST = re.compile(r"[\w.-]+")
_PORT = re.compile(r"(?::[0-9]{0,5})?")
_NOT_A_PATH = re.compile(r"^//|:.*@|:/|[?;].*=")


class Parts(NamedTuple):
    """A URL's parts as they stand. ``slashes``: "//" or ""; ``authority``: the user info, the hosts and the ports."""

    scheme: str
    slashes: str
    authority: str
    path: str
    query: str
    fragment: str

    @property
    def hosts(self) -> str:
        """The authority without the user info, which ends at the last "@"."""
        return self.authority.rpartition("@")[2]


def parts_of(url: str) -> Parts:
    """Split a URL as RFC 3986 does. The standard library refuses a list of IPv6 hosts."""
    found = _URL.fullmatch(url)
    scheme, *rest = found.groups(default="") if found else ("",) * 6
    return Parts(scheme.lower(), *rest)


def redacted(url: str) -> str:
    """Return a cache URL without secrets, such as ``redis://cache:6379/0``, ``redis://***`` or ``***``."""
    parts = parts_of(url)
    if parts.scheme not in SCHEMES:
        return HIDDEN if url else "''"
    if not is_well_formed(parts):
        return f"{parts.scheme}://{HIDDEN}"
    return f"{parts.scheme}:{parts.slashes}{parts.hosts}{parts.path}"


def is_well_formed(parts: Parts) -> bool:
    """Return whether hosts and path are valid for the scheme, and none of them could be part of a password."""
    if parts.fragment or "@" in parts.query or bool(parts.slashes) == (parts.scheme == "memory"):
        return False
    hosts, path = parts.hosts.split(",") if parts.hosts else [], parts.path
    if parts.scheme == "memory":
        return not hosts and not path
    if parts.scheme in ("sqlite", "unix") or (parts.scheme == "memcached" and not hosts):
        return not hosts and is_path(path[parts.scheme == "sqlite" :]) and path != "/"
    if not hosts or not all(map(is_server, hosts)):
        return False
    if parts.scheme.startswith("memcached"):
        return path in ("", "/")
    return len(hosts) == 1 and re.fullmatch(r"/?[0-9]*", path) is not None


def is_host(text: str) -> bool:
    """Return whether a text is a host name or an IP address, and nothing more."""
    if _HOST.fullmatch(text):
        return True
    try:
        return bool(ip_address(text))
    except ValueError:
        return False


def is_path(text: str) -> bool:
    """Return whether a text is the path of a file or socket, and not perhaps a user, a password and a host."""
    return bool(text) and text.isprintable() and not _NOT_A_PATH.search(text)


def is_server(text: str) -> bool:
    """Return whether a text is a host and perhaps a port: ``h``, ``h:1``, ``[::1]:1``."""
    bracketed = re.fullmatch(r"\[([^\[\]]*)\](.*)", text, re.DOTALL)
    host, port = bracketed.groups() if bracketed else re.fullmatch(r"([^:]*)(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
    return is_host(host) and _PORT.fullmatch(port) is not None


def redacted_host(text: str) -> str:
    """Return a host as it was written if it is a host and perhaps a port, else ``***``."""
    return repr(text) if not text or is_server(text) or is_host(text) else HIDDEN


def is_cache_url(text: str) -> bool:
    """Return whether a text begins like the URL of a cache."""
    parts = parts_of(text.strip())
    return parts.scheme in SCHEMES and bool(parts.slashes)


def port_of(value: Any, what: str) -> int:
    """Return a port; raise ConfigurationError if it is invalid. A str is not shown: it may be a password."""
    if not isinstance(value, SupportsIndex):
        raise ConfigurationError(f"{what} must be an int from 1 to 65535, got {kind_of(value)}")
    return whole(value, what, 65_535)


def near_scheme(url: str) -> str:
    """Return a hint at the nearest scheme, such as " (did you mean redis://?)"; "" if none is near."""
    word = re.split(r"[^a-z]", url.strip().lower(), maxsplit=1)[0]
    near = get_close_matches(word, SCHEMES, 1)
    return f" (did you mean {near[0]}:{'' if near[0] == 'memory' else '//'}?)" if near else ""
