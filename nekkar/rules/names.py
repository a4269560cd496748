"""Names of limits: templates such as ``user-{user}``. Different values always give different names.

- ``{name}`` is a value that the rule's URL pattern captures, ``{header:Name}`` a hash of a request header,
  ``{json:model}`` a field of the JSON body, ``{json:options.model}`` a nested field.
- A captured value is inserted as it is, except for characters that are escaped: control characters, lone surrogates,
  line separators, backslashes, and, where another capture follows, the character that ends the value. A value over
  200 characters is cut and ends in its hash. Caches hash names that are too long or have characters they refuse.
- A header is inserted as 16 hexadecimal digits of its SHA-256, so the secret itself is stored nowhere; a header that
  is missing or empty is ``none``. A hash hides only what nobody can guess, such as a key or a token.
- A field is inserted like a captured value. Without the field the name can't be made (see ``fields``).
- No two templates of a table may give the same name. A value may be any text but the empty one. So a template can give
  a plain name if its fixed texts occur in it, in order. Two templates can give the same name exactly if the first
  fixed text of one begins with that of the other, and the last fixed text of one ends with that of the other.
"""

from __future__ import annotations

import re
from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from operator import itemgetter
from typing import cast

from nekkar.core.errors import ConfigurationError, shown
from nekkar.rules.fields import Body
from nekkar.rules.patterns import NAME, fits

LONGEST_NAME = 1000  # of a limit in a table; the checks of a name take time in proportion to its length
LONGEST_VALUE = 200
KEPT_OF_LONGER = 64
NO_HEADER = "none"

Headers = Mapping[str, str] | Mapping[bytes, bytes]

_HEADER, _JSON = "header:", "json:"
_FIELD = r"[A-Za-z0-9_$@-]+"
_CAPTURE = re.compile(r"\{(" + NAME + rf"|{_HEADER}[A-Za-z0-9_.-]+|{_JSON}{_FIELD}(?:\.{_FIELD})*)\}}")
_ODD = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\\]")


@dataclass(frozen=True, slots=True)
class Template:
    """The fixed texts of a name, and the captures between them.

    The capture of a header begins with ``header:`` and is in lower case, that of a field begins with ``json:``.
    ``fields``: the paths of these fields.
    """

    text: str
    fixed: tuple[str, ...]
    captures: tuple[str, ...]
    steps: tuple[tuple[str, str, str], ...]  # a capture, the character that ends its value, the text after it
    by_header: bool
    fields: tuple[str, ...] = ()

    @property
    def from_url(self) -> tuple[str, ...]:
        """The captures that the URL must have."""
        return tuple(capture for capture in self.captures if not capture.startswith((_HEADER, _JSON)))

    def fields_of(self, body: Body) -> dict[str, str] | None:
        """Return the value of each field of the template; None where the body lacks one."""
        values = {f"{_JSON}{field}": body.field(field) for field in self.fields}
        return None if None in values.values() else cast("dict[str, str]", values)

    def hashes(self, headers: Headers | None) -> dict[str, str]:
        """Return the hash of each header of the template."""
        asked = (capture for capture in self.captures if capture.startswith(_HEADER))
        return {capture: _hashed(capture.removeprefix(_HEADER), headers) for capture in asked}

    def fill(self, values: Mapping[str, str]) -> str:
        """Return the name for these values of the captures; other values give another name."""
        name = self.fixed[0]
        for capture, stop, following in self.steps:
            name += _spelled(values[capture], stop) + following
        return name

    def spells(self, name: str) -> bool:
        """Tell whether some values of the captures give this name."""
        return fits(self.fixed, name, 1)


def read_template(text: object) -> Template:
    """Read a limit's name; raise ConfigurationError if it is empty, too long, or has a brace out of place."""
    if not isinstance(text, str) or not text:
        raise ConfigurationError(
            f"limit {shown(text)} is not a name; give one such as 'user-{{user}}' (in a rule, False for none)"
        )
    if len(text) > LONGEST_NAME:
        raise ConfigurationError(f"limit {shown(text)} has {len(text)} characters; give at most {LONGEST_NAME}")
    fixed, captures = tuple(_CAPTURE.split(text)[::2]), _CAPTURE.findall(text)
    if any("{" in one or "}" in one for one in fixed):
        raise ConfigurationError(
            f"limit {shown(text)} has a brace out of place; write a capture as {{name}}, a header as {{header:Name}}, a"
            " field of a JSON body as {json:field}"
        )
    if not all(fixed[1:-1]):
        raise ConfigurationError(f"limit {shown(text)} has captures side by side; put a text between them")
    names = tuple(capture.lower() if capture.startswith(_HEADER) else capture for capture in captures)
    stops = [following[:1] for following in fixed[1:-1]] + [""]
    steps = tuple(zip(names, stops, fixed[1:], strict=False))
    fields = tuple(dict.fromkeys(name.removeprefix(_JSON) for name in names if name.startswith(_JSON)))
    return Template(text, fixed, names, steps, any(name.startswith(_HEADER) for name in names), fields)


def clashes(templates: Iterable[Template]) -> Iterator[tuple[str, str]]:
    """Yield pairs of texts that can give the same name: a template and another limit; each other limit once."""
    plain: list[Template] = []
    captures: list[Template] = []
    for one in templates:
        (captures if one.captures else plain).append(one)
    ends = _Ends()
    for one in sorted(captures, key=lambda one: len(one.fixed[0])):
        if other := next(ends.meeting(one.fixed[0], one.fixed[-1]), None):
            yield other.text, one.text
        else:
            ends.add(one)
    for one in plain:
        spelling = (other for other in ends.meeting(one.text, one.text) if other.spells(one.text))
        yield from ((other.text, one.text) for other in islice(spelling, 1))


def _hashed(header: str, headers: Headers | None) -> str:
    """Return the hash of a header's value, ``none`` without one; ``header`` is in lower case."""
    if headers is not None and not isinstance(headers, Mapping):
        raise ConfigurationError(f"headers: a {type(headers).__name__} is not a mapping; give one such as a dict")
    pairs = [(_encoded(name).lower(), value) for name, value in (headers or {}).items() if value is not None]
    value = b", ".join(_encoded(value).strip() for name, value in pairs if name == header.encode())
    return sha256(value).hexdigest()[:16] if value else NO_HEADER


def _spelled(value: str, stop: str) -> str:
    """Escape a value so that it ends, unmistakably, at the first unescaped ``stop``."""
    if len(value) > LONGEST_VALUE:
        digest = sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        return f"{_spelled(value[:KEPT_OF_LONGER], stop)}\\#{digest}"
    if (value.isalnum() or not _ODD.search(value)) and (not stop or stop not in value):
        return value
    return "".join(_escaped(char) if char == stop or _ODD.match(char) else char for char in value)


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _encoded(text: object) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode("utf-8", "surrogatepass")


@dataclass(slots=True)
class _Ends:
    """Templates by their first and last fixed text. No two of them can give the same name.

    So, among templates with the same first text, no last text ends with another one. In a list sorted by last texts
    read backwards, only the two neighbours of a new text can end with it, or it with them.
    """

    by_head: dict[str, list[tuple[str, Template]]] = field(default_factory=dict)
    lengths: set[int] = field(default_factory=set)  # of the first texts

    def add(self, one: Template) -> None:
        head, tail = one.fixed[0], one.fixed[-1]
        insort(self.by_head.setdefault(head, []), (tail[::-1], one), key=itemgetter(0))
        self.lengths.add(len(head))

    def meeting(self, head: str, tail: str) -> Iterator[Template]:
        """Yield the templates whose first text begins ``head``, and whose last text ends ``tail`` or ends with it."""
        backwards = tail[::-1]
        for length in self.lengths:
            ends = self.by_head.get(head[:length], []) if length <= len(head) else []
            at = bisect_right(ends, backwards, key=itemgetter(0))
            if at and backwards.startswith(ends[at - 1][0]):
                yield ends[at - 1][1]
            if at < len(ends) and ends[at][0].startswith(backwards):
                yield ends[at][1]
