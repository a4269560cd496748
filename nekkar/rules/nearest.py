"""The nearest of some known names to a misspelled one, for errors: "did you mean 'github'?"."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property

from nekkar.core.errors import shown

FEW_NAMES = 20
LONGEST_WORD = 200


@dataclass(frozen=True)
class Known:
    """Known names, and which of them is nearest to a misspelled one.

    If there are many names, only the neighbours of the word in two sorted lists are compared: one list sorted by how
    names begin, one by how they end. So a look-up takes about the same time, however many names there are.
    """

    names: Collection[str]

    def nearest(self, word: str) -> str:
        """Return a question with the nearest name, or an empty text where none is near."""
        word = word[:LONGEST_WORD]
        near = get_close_matches(word, self._candidates(word), 1)
        return f"did you mean {near[0]!r}?" if near else ""

    def unknown(self, what: str, word: object, remedy: str) -> str:
        """Say that nothing has that name, with the nearest name, or else the remedy."""
        near = self.nearest(str(word))
        return f"no {what} named {shown(word)}" + (f" ({near})" if near else f"; {remedy}")

    def _candidates(self, word: str) -> Iterable[str]:
        if len(self.names) <= FEW_NAMES:
            return self.names
        backwards = word[::-1]
        forth, back = bisect(self._forth, word), bisect(self._back, backwards)
        half = FEW_NAMES // 4
        alike = self._forth[max(0, forth - half) : forth + half]
        return alike + [text[::-1] for text in self._back[max(0, back - half) : back + half]]

    @cached_property
    def _forth(self) -> list[str]:
        return sorted(self.names)

    @cached_property
    def _back(self) -> list[str]:
        return sorted(name[::-1] for name in self.names)


def nearest(word: str, names: Collection[str]) -> str:
    """Return a question with the nearest of some names, or an empty text where none is near."""
    return Known(names).nearest(word)


def unknown(what: str, word: object, names: Collection[str], remedy: str) -> str:
    """Say that nothing has that name, with the nearest name, or else the remedy."""
    return Known(names).unknown(what, word, remedy)
