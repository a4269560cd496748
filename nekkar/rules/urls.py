"""A URL split into the parts that rules compare.

Two spellings of the same address give the same parts, so no spelling escapes a rule:

- A URL is split as HTTP libraries split it: a backslash ends the host, tabs and newlines are dropped, the fragment and
  the user info are ignored.
- Hosts are lower case, percent-decoded, in their ASCII (punycode) form, without a trailing dot; IP
  addresses are in their shortest form.
- Path segments are percent-decoded one by one, so ``%2F`` stays inside its segment; then ``.`` and ``..``
  are resolved as in RFC 3986, 5.2.4. An empty segment (``//``) is kept.

Nothing here raises: a text that no library would send is read as far as possible. Everything takes time in
proportion to the URL's length.
"""

from __future__ import annotations

import re
import socket
import unicodedata
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import TypeVar
from urllib.parse import unquote, unquote_plus

T = TypeVar("T")
Param = tuple[str, str | None]
Address = tuple[str, tuple[str, ...], int | None, tuple[str, ...], str]

NO_PARAMS: frozenset[Param] = frozenset()
DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

# Most URLs: except for dot segments, such a URL has only one spelling, so splitting it is enough.
_PLAIN = re.compile(
    r"(https?|wss?)://([a-z][a-z0-9_-]*(?:\.[a-z0-9_-]+)*)(?::([1-9][0-9]{0,3}))?(/[!$&->@-\[\]-~]*)?(?:\?([!$-~]*))?"
)
_HEAD = re.compile(r"(https?|wss?):[\\/]*|([a-z][a-z0-9+.\-]*)://|[\\/]{2}", re.IGNORECASE)
_PATH = re.compile(r"[\\/]")
_DROPPED = str.maketrans("", "", "\t\n\r")
_ENDS = "".join(map(chr, range(33)))
_IGNORED = re.compile(  # the code points that UTS 46 maps to nothing, but for the two joiners
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u2060-\u2064\u206a-\u206f\u3164\ufe00-\ufe0f\ufeff"
    "\uffa0\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0100-\U000e01ef]+"
)
_LONGEST_HOST = 1024  # of a host beyond ASCII: DNS allows 253 characters, and NFKC can shorten a text
_NUMERIC = re.compile(r"[0-9][0-9a-fx.]*")


def address(url: str) -> Address:
    """Return a URL's scheme, host (its last label first), port, path and query, in any spelling."""
    plain = _PLAIN.fullmatch(url)
    if plain is None or "/." in url:
        return _address(url)
    scheme, host, port, path, query = plain.groups()
    number = int(port) if port else DEFAULT_PORTS[scheme]
    return scheme, tuple(host.split(".")[::-1]), number, tuple(path.split("/")[1:]) if path else ("",), query or ""


def _address(url: str) -> Address:
    scheme, authority, path, query = _cut(url)
    host, port = host_and_port(authority)
    return scheme, labels(host), port_number(port, scheme), segments(path, decoded), query


def _cut(url: str) -> tuple[str, str, str, str]:
    """Return scheme (lower case), authority, path and query, each empty where the URL has none."""
    text, _, query = url.translate(_DROPPED).strip(_ENDS).partition("#")[0].partition("?")
    head = _HEAD.match(text)
    rest = text[head.end() :] if head else text
    scheme = (head[1] or head[2] or "").lower() if head else ""
    found = _PATH.search(rest)
    end = found.start() if found else len(rest)
    path = rest[end:]
    return scheme, rest[:end], f"/{path}" if path.startswith("\\") else path, query


def host_and_port(authority: str) -> tuple[str, str | None]:
    """Split ``user@host:port``; the port is None without a colon."""
    text = authority.rpartition("@")[2]
    inside, bracket, rest = text.partition("]")
    if text.startswith("[") and bracket:
        return inside + bracket, rest.removeprefix(":") if rest else None
    host, colon, port = text.partition(":")
    return host, port if colon else None


def port_number(port: str | None, scheme: str) -> int | None:
    """Return the port, or the scheme's default port; None where neither is known."""
    if not port:
        return DEFAULT_PORTS.get(scheme)
    digits = port.lstrip("0")
    number = int(digits) if re.fullmatch(r"\d{1,5}", digits) else 0
    return number if 1 <= number <= 65_535 else None


def labels(host: str) -> tuple[str, ...]:
    """Return a host's labels, the last one first; an IPv6 address is one label."""
    if host.startswith("["):
        return (_ipv6(unquote(host)),)
    return tuple(reversed(_ipv4(ascii_host(host).rstrip(".")).split(".")))


def ascii_host(host: str) -> str:
    """Return a host, or some labels of one, in lower case and ASCII, as UTS 46 maps them.

    The standard library's codec follows IDNA 2003 and makes ``faß.de`` another site, ``fass.de``; HTTP
    libraries don't. NFKC takes quadratic time over a run of accents, so a text too long for a host is only put in lower
    case.
    """
    text = unquote(host)
    if not text.isascii():
        text = _IGNORED.sub("", text)
    if text.isascii() or len(text) > _LONGEST_HOST:
        return text.lower()
    folded = "".join(map(_folded, text))
    return ".".join(map(_ascii_label, unicodedata.normalize("NFKC", folded).replace("。", ".").split(".")))


def segments(path: str, read: Callable[[str], T]) -> tuple[T | str, ...]:
    """Return a path's segments, each through ``read``, with dot segments resolved; ``/`` is one empty one."""
    kept: list[T | str] = []
    part: T | str = ""
    for part in map(read, path.split("/")[1:]):
        if part == "..":
            del kept[-1:]
        elif part != ".":
            kept.append(part)
    return tuple(kept) if kept and part not in (".", "..") else (*kept, "")


def decoded(text: str) -> str:
    """Percent-decode a segment; different bytes that are not UTF-8 stay different."""
    return unquote(text, errors="surrogateescape") if "%" in text else text


def params(query: str, bare: str | None = "") -> frozenset[Param]:
    """Return a query's (name, value) pairs, and (name, None) for each: the name with any value.

    ``bare`` is the value of a name without ``=``.
    """
    pairs = [item.partition("=") for item in query.split("&") if item]
    given = {(_plus(name), _plus(value) if equals else bare) for name, equals, value in pairs}
    return frozenset(given | {(name, None) for name, _ in given})


def _plus(text: str) -> str:
    return unquote_plus(text, errors="surrogateescape")


def _folded(char: str) -> str:
    return char.lower() if char in "ßẞς" else unicodedata.normalize("NFKC", char).casefold()


def _ascii_label(label: str) -> str:
    """Encode a label as punycode; a label over DNS's 63 characters stays as it is, since encoding it takes long."""
    if label.isascii() or len(label) > 63:
        return label
    return "xn--" + label.encode("punycode", "replace").decode("ascii")


def _ipv6(host: str) -> str:
    try:
        return f"[{IPv6Address(host[1:-1]).compressed.lower()}]"
    except ValueError:
        return host.lower()


def _ipv4(host: str) -> str:
    """Write ``127.1`` and ``0x7f.0.0.1`` as the address that a connection would go to."""
    if not _NUMERIC.fullmatch(host):
        return host
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return host
