"""Rule files: read a table from TOML, or list every fault of it.

A file has ``[limits]``, each a rate or a table of settings, and ``[[rules]]``, each with ``url``, ``limit`` and
perhaps ``methods``, ``cost`` and ``headroom``. It may have ``[dialects]`` and, above all tables, ``unmatched``. Any
other key is a fault, so no misspelled key is ignored.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from nekkar.core.errors import ConfigurationError, kind_of, shown
from nekkar.rules.checks import MISPLACED, Report, attempt, check, check_limit
from nekkar.rules.costs import read_cost, read_headroom
from nekkar.rules.lines import lines_of
from nekkar.rules.nearest import Known, unknown
from nekkar.rules.patterns import read_pattern
from nekkar.rules.rule import Rule, listed, read_limit, read_methods
from nekkar.rules.unmatched import check_policy

_SECTIONS = ("limits", "rules", "unmatched", "dialects")
_READERS: dict[str, Callable[[Any], object]] = {
    "methods": read_methods,
    "url": read_pattern,
    "limit": read_limit,
    "cost": read_cost,
    "headroom": read_headroom,
}
_RULE = "{'url': 'https://api.example.com/*', 'limit': 'example'}"
_AT = re.compile(r" \(at line (\d+), column (\d+)\)$")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with a rule file. ``line`` counts from 1; None where it is unknown.

    ``where`` is ``rules[3]`` (counted from 0), ``limits['name']`` or another key; empty for the file as a whole.
    """

    line: int | None
    where: str
    message: str

    def __str__(self) -> str:
        line = f"line {self.line}" if self.line else ""
        return ": ".join(filter(None, (line, self.where, self.message)))


@dataclass(frozen=True, slots=True)
class File:
    """A file as it was read."""

    text: str
    content: dict[str, Any]


class _UnreadError(Exception):
    """A file that can't be read as TOML, with its fault."""

    def __init__(self, line: int | None, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(line, "", message)


LARGEST_FILE = 16_000_000  # bytes; over a hundred thousand rules
_CHUNK = 100_000
LONGEST_KEY = 100  # parts; tomllib takes quadratic time and memory for a dotted key

_KEY_PART = r'(?:[A-Za-z0-9_-]+|"[^"\n]*"|\'[^\'\n]*\')[ \t]*'
_LONG_KEY = re.compile(rf"(?:^|[\[{{,])[ \t]*(?:{_KEY_PART}\.[ \t]*){{{LONGEST_KEY}}}", re.MULTILINE)


def load(path: str | os.PathLike[str]) -> File:
    """Read a TOML file; raise ConfigurationError, with its name and the line, for any other file. Blocks."""
    name = _name(path)
    try:
        return _read(name)
    except _UnreadError as error:
        raise ConfigurationError(f"{name}: {error.fault}") from error.__cause__


def faults(path: str | os.PathLike[str]) -> list[Fault]:
    """Return every fault of a rule file, by line; none where ``RuleTable.from_file`` would take it. Blocks.

    If a file can't be read, or is not TOML, that is its only fault. Raises ConfigurationError only if ``path`` is not a
    path.
    """
    try:
        file = _read(_name(path))
    except _UnreadError as error:
        return [error.fault]
    found: list[tuple[str, str]] = []

    def keep(where: str, what: str) -> None:
        found.append((where, what))

    rules, limits, _, dialects = read_table(file.content, keep)
    check(rules, limits, keep, dialects)
    lines = lines_of(file.text) if found else {}
    placed = (Fault(_line_of(where, lines), where, what) for where, what in found)
    return sorted(placed, key=lambda fault: fault.line or 0)


def _line_of(where: str, lines: Mapping[str, int]) -> int | None:
    """Return the line of a part of a file, or that of the part around it where it has no line of its own."""
    outer = (where, where.rpartition("[")[0], where.partition("[")[0])
    return next((lines[part] for part in outer if part in lines), None)


def read_table(mapping: object, report: Report) -> tuple[dict[int, Rule], Any, str, Any]:
    """Return the valid rules by number, the limits, ``unmatched`` and the dialects of a file's content.

    Reports each fault of the rules and of ``unmatched``; ``check`` finds those of limits and dialects.
    """
    if not isinstance(mapping, Mapping):
        report("", f"{shown(mapping)} is not a mapping; give {{'limits': {{...}}, 'rules': [...]}}")
        return {}, None, "warn", None
    for key in mapping:
        if key not in _SECTIONS:
            report(str(key), unknown("key", key, _SECTIONS, f"give {', '.join(_SECTIONS)}"))
    unmatched = attempt(report, "unmatched", check_policy, mapping.get("unmatched", "warn")) or "warn"
    limits = mapping.get("limits", {})
    entries = attempt(report, "rules", listed, mapping.get("rules", ()), f"[{_RULE}] ([[rules]] in a file)") or []
    known = Known(limits) if isinstance(limits, Mapping) else None
    rules = {number: _rule(f"rules[{number}]", entry, known, report) for number, entry in enumerate(entries)}
    sound = {number: rule for number, rule in rules.items() if rule}
    return sound, limits, unmatched, mapping.get("dialects")


def _rule(where: str, entry: object, limits: Known | None, report: Report) -> Rule | None:
    """Read a rule; report each of its faults."""
    found = list(_faults_of(entry))
    for what in found:
        report(where, what)
    if not isinstance(entry, Mapping):
        return None
    if found and limits:
        check_limit(where, entry.get("limit"), limits, report)
    return None if found else Rule(**entry)


def _faults_of(entry: object) -> Iterator[str]:
    if not isinstance(entry, Mapping):
        yield f"{shown(entry)} is not a rule; give one such as {_RULE}"
        return
    for key in entry:
        if key == "unmatched":
            yield f"unmatched {MISPLACED}"
        elif key not in _READERS:
            yield unknown("key", key, _READERS, f"give {', '.join(_READERS)}")
    yield from (f"has no {key}; give one, as in {_RULE}" for key in ("url", "limit") if key not in entry)
    for key in filter(entry.__contains__, _READERS):
        try:
            _READERS[key](entry[key])
        except ConfigurationError as error:
            yield str(error)


def _name(path: object) -> str:
    """Return a path as it was given, as text; not a URL, in which a password could be."""
    try:
        name = os.fsdecode(path)  # type: ignore[arg-type]
    except TypeError:
        raise ConfigurationError(f"path must be a str or a Path such as 'limits.toml', got {kind_of(path)}") from None
    if "://" in name:
        raise ConfigurationError("the path of a rule file is a URL (it is not shown); give one such as 'limits.toml'")
    return name


def _read(name: str) -> File:
    try:
        with Path(name).open("rb") as stream:
            content = b"".join(islice(iter(partial(stream.read, _CHUNK), b""), LARGEST_FILE // _CHUNK + 1))
        if len(content) > LARGEST_FILE:  # it may have no end, as /dev/zero
            raise _UnreadError(None, f"has over {LARGEST_FILE:,} bytes; split it, or leave out what is not a rule")
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _UnreadError(line, f"byte {error.object[error.start]:#04x} is not UTF-8; save it as UTF-8") from error
    except (OSError, ValueError) as error:  # a ValueError for a NUL in the path
        why = getattr(error, "strerror", None) or error
        raise _UnreadError(None, f"can't be read: {why}; give the path of a TOML file") from error
    if long := _LONG_KEY.search(text):
        line = text.count("\n", 0, long.end()) + 1
        raise _UnreadError(line, f"has a key of over {LONGEST_KEY} parts; a rule file needs two levels")
    try:
        return File(text, tomllib.loads(text))
    except RecursionError as error:
        raise _UnreadError(None, "is nested too deeply; a rule file needs two levels") from error
    except ValueError as error:  # TOMLDecodeError is one, and so is an int of over 4,300 digits
        found = _AT.search(str(error))
        column = f" (column {found[2]})" if found else ""
        what = _AT.sub("", str(error))
        raise _UnreadError(int(found[1]) if found else None, f"is not TOML: {what}{column}") from error
