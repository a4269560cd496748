"""The index of a table: which rules can cover a request, found without trying them all.

Rules lie in a trie of host labels (the last one first), each end of which holds a trie of path segments.
A literal part is found by one dictionary look-up. A part with a star or a capture (a glob) is filed under its fixed
texts: the one before the first star with the one after the last, or one between two stars. So a look-up costs time
for the rules that nearly match, not for all rules.

The same walk finds an earlier rule that covers a new one: a request is a pattern too (see ``patterns``).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Generic, TypeVar

from nekkar.rules.patterns import Glob, Part, Pattern, covers
from nekkar.rules.urls import Param

T = TypeVar("T")
Key = tuple[int | None, Param | None]
Kind = tuple[str, str | None]  # scheme and method
Leaf = dict[Key, dict[Kind, list[int]]]

FEW_KINDS = 4


@dataclass(slots=True)
class Node(Generic[T]):
    """A node of the trie: what may follow at one place in a pattern.

    A glob is filed under its two ends, or under a piece between two of its stars.
    """

    literals: dict[str, Node[T]] = field(default_factory=dict)
    globs: dict[Glob, Node[T]] = field(default_factory=dict)
    wild: list[tuple[int, Node[T]]] = field(default_factory=list)  # after a whole part, with its least length
    by_ends: dict[tuple[str, str], list[Glob]] = field(default_factory=dict)
    by_piece: dict[str, list[Glob]] = field(default_factory=dict)
    lengths: set[tuple[int, int]] = field(default_factory=set)  # of the ends
    widths: set[int] = field(default_factory=set)  # of the pieces
    closed: T | None = None  # patterns that end here
    opened: T | None = None  # patterns that any more parts may follow

    def child(self, part: Part) -> Node[T]:
        """Return the node after ``part``, made if it is new."""
        if isinstance(part, str):
            return self.literals.setdefault(part, Node())
        if part not in self.globs:
            self.globs[part] = Node()
            self._file(part)
        return self.globs[part]

    def _file(self, glob: Glob) -> None:
        """File a glob under the key that the fewest others have; one that fits any part needs no key."""
        if glob.is_whole:
            self.wild.append((glob.gap, self.globs[glob]))
            return
        head, *middle, tail = glob.pieces
        piece = min(middle, key=lambda piece: len(self.by_piece.get(piece, ())), default="")
        if piece and len(self.by_piece.get(piece, ())) < len(self.by_ends.get((head, tail), ())):
            self.by_piece.setdefault(piece, []).append(glob)
            self.widths.add(len(piece))
        else:
            self.by_ends.setdefault((head, tail), []).append(glob)
            self.lengths.add((len(head), len(tail)))

    def end(self, parts: tuple[Part, ...], more: bool, make: Callable[[], T]) -> T:
        """Return what is stored at the end of ``parts``, made if it is new."""
        node = self
        for part in parts:
            node = node.child(part)
        if more:
            node.opened = make() if node.opened is None else node.opened
            return node.opened
        node.closed = make() if node.closed is None else node.closed
        return node.closed

    def after(self, part: Part) -> list[Node[T]]:
        """Return the nodes after the globs that cover ``part``."""
        least = len(part) if isinstance(part, str) else 0 if part.can_be_empty else 1
        found = [node for gap, node in self.wild if gap <= least]
        if self.lengths or self.widths:
            text = part if isinstance(part, str) else part.text
            found += [self.globs[glob] for glob in self._near(text) if covers(glob, part)]
        return found

    def _near(self, text: str) -> Iterator[Glob]:
        """Yield the globs whose ends, or whose piece, occur in ``text``, each once."""
        for head, tail in self.lengths:
            if head + tail <= len(text):
                yield from self.by_ends.get((text[:head], text[len(text) - tail :]), ())
        if len(self.by_piece) <= len(self.widths) * len(text):  # fewer steps than to look up each run
            for piece, globs in self.by_piece.items():
                if piece in text:
                    yield from globs
            return
        for width in self.widths:
            inside = {text[at : at + width] for at in range(len(text) - width + 1)}
            for piece in self.by_piece.keys() & inside:
                yield from self.by_piece[piece]


@dataclass(slots=True)
class Index:
    """Patterns by number, added in ascending order."""

    patterns: dict[int, Pattern] = field(default_factory=dict)
    hosts: Node[Node[Leaf]] = field(default_factory=Node)
    queries: bool = False  # whether a pattern asks for a parameter
    by_body: set[int] = field(default_factory=set)  # rules that also need a field of the body: they hide no other

    def add(self, number: int, pattern: Pattern, by_body: bool = False) -> None:
        paths: Node[Leaf] = self.hosts.end(pattern.host, pattern.subdomains, Node)
        leaf: Leaf = paths.end(pattern.path, pattern.deep, dict)
        keys = [(pattern.port, param) for param in pattern.query or (None,)]
        for method in pattern.methods or (None,):  # a request has one method, and must find the rule by it
            kind = pattern.scheme, method
            rarest = min(keys, key=lambda key: len(leaf.get(key, {}).get(kind, ())))
            leaf.setdefault(rarest, {}).setdefault(kind, []).append(number)  # one of them finds it
        self.patterns[number] = pattern
        if by_body:
            self.by_body.add(number)
        self.queries = self.queries or bool(pattern.query)

    def first(self, narrow: Pattern, after: int = -1, skip_by_body: bool = False) -> int | None:
        """Return the lowest number over ``after`` whose pattern covers ``narrow``, or None.

        ``skip_by_body``: leave out rules that match only if the body has a field.
        """
        best: int | None = None
        skipped: Collection[int] = self.by_body if skip_by_body else ()
        keys: Collection[Key] = ((None, None), (narrow.port, None))
        if narrow.query:
            keys = {(port, param) for param in (None, *narrow.query) for port in (None, narrow.port)}
        for paths in _walk(self.hosts, narrow.host, narrow.subdomains, 1):
            for leaf in _walk(paths, narrow.path, narrow.deep, 0):
                for key in leaf.keys() & keys if narrow.query else keys:
                    if key in leaf:
                        for numbers in _of_kind(leaf[key], narrow):
                            later = numbers if after < 0 else numbers[bisect_right(numbers, after) :]
                            best = self._lower(best, later, narrow, skipped)
        return best

    def _lower(self, best: int | None, numbers: list[int], narrow: Pattern, skipped: Collection[int]) -> int | None:
        """Return the lower of ``best`` and the first of some numbers, ascending, whose pattern covers ``narrow``."""
        for number in numbers:
            if best is not None and number >= best:
                break
            if number not in skipped and self.patterns[number].covers_rest(narrow):
                return number
        return best


def _of_kind(kinds: dict[Kind, list[int]], narrow: Pattern) -> Iterable[list[int]]:
    """Return the rules whose scheme and methods may cover ``narrow``'s; where there are few kinds, return all."""
    if len(kinds) <= FEW_KINDS:
        return kinds.values()
    method = min(narrow.methods) if narrow.methods else None  # a rule that covers all its methods is filed under each
    return [kinds[kind] for kind in product({"", narrow.scheme}, {None, method}) if kind in kinds]


def _walk(root: Node[T], parts: tuple[Part, ...], more: bool, least: int) -> list[T]:
    """Return what is stored where a pattern that covers ``parts`` ends.

    ``more``: any other parts may follow ``parts``. ``least``: how many parts an open pattern needs beyond its own. Each
    node is visited at most once, so a walk takes time in proportion to the trie at worst.
    """
    found: list[T] = []
    nodes, left = [root], len(parts)
    for part in parts:
        following: list[Node[T]] = []
        for node in nodes:
            if node.opened is not None and (more or least <= left):
                found.append(node.opened)
            if part in node.literals:
                following.append(node.literals[part])  # never a glob
            if node.globs:
                following += node.after(part)
        nodes, left = following, left - 1
    for node in nodes:
        if node.opened is not None and (more or not least):
            found.append(node.opened)
        if node.closed is not None and not more:
            found.append(node.closed)
    return found
