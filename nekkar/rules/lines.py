"""The line on which each rule and each limit of a rule file begins, which tomllib does not tell.

The text has been parsed as TOML before, so it is valid. A scan for strings, comments and brackets is enough to find
where each statement begins: a table header inside a multi-line string or a comment does not count.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from nekkar.rules.checks import where_limit
from nekkar.rules.dialects import where_dialect

_STRINGS = r'"""(?:[^\\]|\\.)*?"{3,5}', r"'''.*?'{3,5}", r'"(?:[^"\\\n]|\\.)*"', r"'[^'\n]*'"
_TOKEN = re.compile("|".join((*_STRINGS, r"#[^\n]*", r"[\[\]{}=\n]")), re.DOTALL)


_NAMED = {"limits": where_limit, "dialects": where_dialect}


def lines_of(text: str) -> dict[str, int]:
    """Return the line, from 1, of each ``rules[3]``, ``limits['name']``, ``dialects['name'][0]`` and top-level key."""
    lines: dict[str, int] = {}
    table: tuple[str, ...] = ()
    counts: Counter[str] = Counter()
    for line, head in _statements(text):
        header = head.startswith("[")
        if not header and table == ("rules",):
            continue
        keys = _keys(head.strip("[]")) if header else (*table, *_keys(head))
        if head.startswith("[["):
            array = _NAMED[keys[0]](keys[1]) if keys[0] in _NAMED and len(keys) == 2 else ".".join(keys)
            lines[f"{array}[{counts[array]}]"] = line
            counts[array] += 1
        if keys[0] in _NAMED and len(keys) > 1:
            lines.setdefault(_NAMED[keys[0]](keys[1]), line)
        lines.setdefault(keys[0], line)
        table = keys if header else table
    return lines


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the head of each statement: ``[table]``, or the key of ``key = value``."""
    start, end, depth, line, first = 0, 0, 0, 1, 1
    for token in _TOKEN.finditer(f"{text}\n"):
        mark = token[0]
        line += mark.count("\n")
        depth += (mark in "[{") - (mark in "]}")
        if mark == "\n" and not depth:
            if end:
                yield first, text[start:end].strip()
            start, end, first = token.end(), 0, line
        elif not end and (mark == "=" or (mark == "]" and not depth)):
            end = token.start() if mark == "=" else token.end()


def _keys(head: str) -> tuple[str, ...]:
    """Return a dotted key's parts."""
    keys: list[str] = []
    inner: Any = tomllib.loads(f"{head} = 0")
    while isinstance(inner, dict):
        ((key, inner),) = inner.items()
        keys.append(key)
    return tuple(keys)
