"""Patterns: which requests a rule covers, split into parts that can be compared.

A pattern is ``[scheme://]host[:port][/path][?query]``:

- ``*`` is any run inside a host label or path segment; a leading ``*.`` is one or more labels, a trailing
  ``/*`` any depth and the bare folder; ``*`` alone as the host is any host.
- ``{name}`` is one whole label or segment, not empty, captured.
- What is left out (scheme, port, path, query) may be anything; ``?a=1`` asks for that parameter among any
  others, ``?a`` for the parameter with any value.

A request is the narrowest pattern: every part is literal. So one relation, "this pattern covers that one", answers
both whether a rule applies to a request and whether an earlier rule hides a later one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from ipaddress import IPv6Address
from typing import NamedTuple
from urllib.parse import unquote

from nekkar.core.errors import ConfigurationError, shown, shown_url
from nekkar.rules.urls import (
    DEFAULT_PORTS,
    NO_PARAMS,
    Param,
    address,
    ascii_host,
    decoded,
    host_and_port,
    labels,
    params,
    port_number,
    segments,
)

LONGEST_PATTERN = 8000  # each segment takes about a kilobyte in the index
NAME = r"[A-Za-z_][A-Za-z0-9_-]*"

_CAPTURE = re.compile(rf"\{{({NAME})\}}")
_REFUSED = re.compile(r"[\s\x00-\x1f\x7f\\\ud800-\udfff]")
_SCHEME = re.compile(r"[a-z][a-z0-9+.\-]*", re.IGNORECASE)
_DOTS = re.compile("[.。．｡]")  # noqa: RUF001 (the dots that IDNA reads as a dot)
_ANY = ("", "")
_STAND_IN = "\ud800"  # for a star inside a text; no pattern has it in it


@dataclass(frozen=True, slots=True)
class Glob:
    """Fixed texts with any characters between them, at least ``gap`` of them each time."""

    pieces: tuple[str, ...]
    gap: int = 0
    name: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        """A text that stands for all texts that fit: in place of each star a character that only a star can match."""
        return _STAND_IN.join(self.pieces)

    @property
    def is_whole(self) -> bool:
        """Whether any label or segment fits (where there is a gap, any but the empty one)."""
        return self.pieces == _ANY

    @property
    def can_be_empty(self) -> bool:
        return not self.gap and not any(self.pieces)


Part = str | Glob
CapturePlace = tuple[str, bool, int]  # a capture's name, whether it is in the host, its place there


class Pattern(NamedTuple):
    """The parts of a rule's pattern, or of a request. ``host`` has its last label first; None and ``""`` mean any."""

    scheme: str
    host: tuple[Part, ...]
    subdomains: bool  # at least one more label
    port: int | None
    path: tuple[Part, ...]
    deep: bool  # any number of further segments
    query: frozenset[Param]
    methods: frozenset[str] | None

    def covers_rest(self, narrow: Pattern) -> bool:
        """Tell whether scheme, port, query and methods cover ``narrow``'s; an index compares host and path."""
        return (
            self.scheme in ("", narrow.scheme)
            and self.port in (None, narrow.port)
            and self.query <= narrow.query
            and (self.methods is None or (narrow.methods is not None and narrow.methods <= self.methods))
        )

    def captures(self) -> list[str]:
        """Return the names in the order host (last label first), path."""
        return [name for name, _, _ in self.places()]

    def places(self) -> tuple[CapturePlace, ...]:
        """Return where each capture is."""
        parts = [(True, at, part) for at, part in enumerate(self.host)]
        parts += [(False, at, part) for at, part in enumerate(self.path)]
        return tuple((part.name, host, at) for host, at, part in parts if isinstance(part, Glob) and part.name)


def captured(places: tuple[CapturePlace, ...], request: Pattern) -> dict[str, str]:
    """Return each capture's value in a request that the pattern covers."""
    return {name: str((request.host if host else request.path)[at]) for name, host, at in places}


def fits(pieces: tuple[str, ...], text: str, gap: int = 0) -> bool:
    """Tell whether ``text`` is the pieces in order, with a run of at least ``gap`` characters between them.

    The first place where a piece fits is always right, so there is no backtracking: linear in the text's length.
    """
    head, *middle, tail = pieces
    end = len(text) - len(tail)
    if not (text.startswith(head) and text.endswith(tail)):
        return False
    at = len(head)
    for piece in middle:
        found = text.find(piece, at + gap)
        if found < 0:
            return False
        at = found + len(piece)
    return at + gap <= end


def covers(wide: Part, narrow: Part) -> bool:
    """Tell whether every text that is ``narrow`` is ``wide`` too."""
    if isinstance(wide, str):
        return wide == narrow
    if isinstance(narrow, str):
        return fits(wide.pieces, narrow, wide.gap)
    return not (wide.gap and narrow.can_be_empty) and fits(wide.pieces, narrow.text)


def read_request(method: str, url: str, queries: bool = True) -> Pattern:
    """Read the URL of a request, in any spelling; ``method`` is in upper case. ``queries``: read the query too."""
    scheme, host, port, path, query = address(url)
    return Pattern(
        scheme, host, False, port, path, False, params(query) if queries else NO_PARAMS, frozenset((method,))
    )


def read_pattern(url: object, methods: frozenset[str] | None = None) -> Pattern:
    """Read a pattern; raise ConfigurationError, with the text and what was expected, if it is invalid."""
    try:
        return _read(url, methods)
    except ConfigurationError as error:
        raise ConfigurationError(f"url {shown_url(url)} {error}") from None


def _read(url: object, methods: frozenset[str] | None) -> Pattern:
    body, _, query = _checked(url).partition("#")[0].partition("?")
    scheme, rest = _scheme(body)
    authority, slash, path = rest.partition("/")
    if scheme == "" and authority.lower() in DEFAULT_PORTS and path.startswith("/"):
        raise ConfigurationError(f"lacks a colon; write {authority}://")
    host_text, port = host_and_port(authority)
    host, subdomains = _host(host_text)
    parts, deep = _path(slash + path)
    pattern = Pattern(scheme, host, subdomains, _port(port), parts, deep, _query(query), methods)
    names = pattern.captures()
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise ConfigurationError(f"captures {{{twice}}} twice; give each capture a name of its own")
    return pattern


def _checked(url: object) -> str:
    if not isinstance(url, str) or not url:
        raise ConfigurationError("is not a pattern; give a str such as 'https://api.example.com/v1/*'")
    if len(url) > LONGEST_PATTERN:
        raise ConfigurationError(f"has {len(url)} characters; give at most {LONGEST_PATTERN}")
    if found := _REFUSED.search(url):
        raise ConfigurationError(f"has {found[0]!r} in it, which no URL has; percent-encode it or leave it out")
    return url


def _scheme(body: str) -> tuple[str, str]:
    scheme, mark, rest = body.partition("://")
    if not mark or "/" in scheme:
        return "", body
    if not _SCHEME.fullmatch(scheme):
        raise ConfigurationError(f"has {scheme!r} for a scheme; write 'https://', or leave it out for any scheme")
    near = get_close_matches(scheme.lower(), DEFAULT_PORTS, 1, 0.75)
    if near and scheme.lower() not in DEFAULT_PORTS:
        raise ConfigurationError(f"has an unknown scheme {scheme!r}; did you mean {near[0]!r}?")
    return scheme.lower(), rest


def _port(port: str | None) -> int | None:
    if port is None:
        return None
    number = port_number(port, "")
    if number is None:
        text = shown(port) if port.isdecimal() or not port else "***"  # which may be a password without its host
        raise ConfigurationError(f"has the port {text}; give 1 to 65535, or leave it out for any port")
    return number


def _host(host: str) -> tuple[tuple[Part, ...], bool]:
    """Return the labels, the last one first, and whether more labels may come before them (``*.``)."""
    if "[" in host or "]" in host:
        return (_ipv6(host),), False
    texts = _DOTS.split(_DOTS.sub(".", host).rstrip("."))
    if not all(texts):
        raise ConfigurationError("has no host, or an empty label in it; write '*' for any host")
    if "*" not in host and "{" not in host and "}" not in host:
        return labels(host), False
    if odd := next((text for text in texts if "*" in text and not unquote(text).isascii()), None):
        raise ConfigurationError(f"has '*' next to letters beyond ASCII in the label {odd!r}; write the label out")
    parts = [_part(text, ascii_host) for text in texts]
    subdomains = parts[0] == Glob(_ANY)
    return tuple(reversed(parts[1:] if subdomains else parts)), subdomains


def _ipv6(host: str) -> str:
    try:
        IPv6Address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise ConfigurationError(f"has the host {shown(host)}, not an IPv6 address such as [::1]") from None
    return labels(host)[0]


def _path(path: str) -> tuple[tuple[Part, ...], bool]:
    """Return the segments, and whether more may follow: no path is every path, as ``/*`` is."""
    if not path:
        return (), True
    parts = segments(path, lambda text: _part(text, decoded))
    return (parts[:-1], True) if parts[-1] == Glob(_ANY) else (parts, False)


def _part(text: str, read: Callable[[str], str]) -> Part:
    if capture := _CAPTURE.fullmatch(text):
        return Glob(_ANY, 1, capture[1])
    if "{" in text or "}" in text:
        raise ConfigurationError(
            f"has a brace out of place in {shown(text)}; {{name}} is a whole host label or path segment"
        )
    pieces = tuple(read(piece) for piece in re.split(r"\*+", text))
    return Glob(pieces) if len(pieces) > 1 else pieces[0]


def _query(query: str) -> frozenset[Param]:
    if found := re.search(r"[*{}]", query):
        raise ConfigurationError(f"has {found[0]!r} in its query; '?a' asks for the parameter a with any value")
    return params(query, bare=None)
