"""Names of limits: templates such as ``user-{user}``, and which of them could spell each other's names.

A capture's value may be any text but an empty one. So a template can spell a plain name wherever its fixed
texts fit it, and two templates have a name in common just when the beginning of one starts with the
other's and the end of one ends with the other's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from nekkar.core.errors import ConfigurationError, shown
from nekkar.rules.patterns import NAME, fits


@dataclass(frozen=True, slots=True)
class Template:
    """The fixed texts of a name, and the captures between them."""

    text: str
    fixed: tuple[str, ...]
    captures: tuple[str, ...]

    def fill(self, values: dict[str, str]) -> str:
        """Return the name; what UTF-8 can't write (half a character) is spelled as an escape."""
        filled = [values[capture] + fixed for capture, fixed in zip(self.captures, self.fixed[1:], strict=True)]
        return "".join((self.fixed[0], *filled)).encode("utf-8", "backslashreplace").decode()

    def spells(self, name: str) -> bool:
        """Tell whether some values make this template's name ``name``."""
        return fits(self.fixed, name, 1)


def read_template(text: object) -> Template:
    """Read a limit's name; ConfigurationError for one that is empty or has a brace out of place."""
    if not isinstance(text, str) or not text:
        raise ConfigurationError(
            f"limit {shown(text)} is not a name; give one such as 'user-{{user}}' (in a rule, False for none)"
        )
    parts = re.split(NAME, text)
    if any("{" in fixed or "}" in fixed for fixed in parts[::2]):
        raise ConfigurationError(f"limit {shown(text)} has a brace out of place; write a capture as {{name}}")
    return Template(text, tuple(parts[::2]), tuple(parts[1::2]))


def clash(templates: Iterable[Template]) -> tuple[str, str] | None:
    """Return a template's text and another name that it can spell, or None."""
    plain: list[Template] = []
    captures: list[Template] = []
    for one in templates:
        (captures if one.captures else plain).append(one)
    ends = _Ends()
    for one in sorted(captures, key=lambda one: len(one.fixed[0])):
        if other := ends.meeting(one.fixed[0], one.fixed[-1]):
            return other.text, one.text
        ends.add(one)
    spelled = (
        (other.text, one.text) for one in plain for other in ends.within(one.text, one.text) if other.spells(one.text)
    )
    return next(spelled, None)


@dataclass(slots=True)
class _Ends:
    """Templates by their first and last fixed text, no two of which can spell one name."""

    exact: dict[tuple[str, str], Template] = field(default_factory=dict)
    tails: dict[tuple[str, str], Template] = field(default_factory=dict)
    lengths: set[tuple[int, int]] = field(default_factory=set)

    def add(self, one: Template) -> None:
        head, tail = one.fixed[0], one.fixed[-1]
        self.exact[head, tail] = one
        self.tails |= {(head, tail[at:]): one for at in range(len(tail) + 1)}
        self.lengths.add((len(head), len(tail)))

    def within(self, head: str, tail: str) -> Iterator[Template]:
        """Yield the templates whose beginning starts ``head`` and whose end ends ``tail``."""
        for begin, end in self.lengths:
            found = self.exact.get((head[:begin], tail[max(len(tail) - end, 0) :]))
            if found:
                yield found

    def meeting(self, head: str, tail: str) -> Template | None:
        """Return a template that shares a name with one of these ends; ``head`` is the longest so far."""
        longer = (self.tails.get((head[:begin], tail)) for begin, _ in self.lengths)
        return next((found for found in (*longer, *self.within(head, tail)) if found), None)
