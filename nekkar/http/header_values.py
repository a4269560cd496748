"""The forms in which services write counts, periods and resets into headers.

- A count is ``40`` or ``40.0`` (of a call that is left in part, nothing is left), with its period perhaps:
  ``40;w=21600``, ``150/15m`` or ``20:1``. Several stand in a list: ``200,2000``.
- ``39/40`` is what is used, or remains, of a limit. Of ``total=100; remaining=99; resets=41`` the value with the right
  name counts, else the first.
- A period is a duration (``1m30s``), a number of seconds or the name of a unit.
- A reset is what ``Retry-After`` may be: a number of seconds, a duration, a point in time. It is exact to its
  last digit, a second or a ms; a point in time to a second.

Pure, and raises for no text whatever: headers and their texts are bounded, and no pattern takes exponential time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from nekkar.core.quota import SECOND
from nekkar.http.retry_after import left_us, point_us, span_us

NOTHING = "nothing"
MOST_HEADERS = 128  # of an answer; http.client, and so requests and urllib3, takes no answer with over 100
MOST_TEXT, MOST_ITEMS = 2000, 32  # characters and members of one header
MOST_PLAIN = 15  # digits of a number that is read as it is
TOO_LONG = f"over {MOST_TEXT} characters"  # a text that can't be read, in place of one that takes long to

# Atomic groups: a text that nearly fits takes no exponential time.
_WORD = r'(?>"(?:[^"\\]|\\.)*"|:[A-Za-z0-9+/=]*:|[^\s;,="]+)'
_ITEM = re.compile(rf"\s*({_WORD})((?:\s*;\s*[a-z*][\w.*-]*(?:={_WORD}?)?)*)\s*(?:,|\Z)", re.ASCII)
_PARAMETER = re.compile(rf";\s*([a-z*][\w.*-]*)(?:=({_WORD})?)?", re.ASCII)
_COUNT = re.compile(r"([0-9]{1,15})(?:\.([0-9]{0,9}))?(?::([0-9]{1,12})|/([0-9]{0,9})([a-z]+))?")
_GROUPED = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+")
_PART = re.compile(r"\s*([0-9.]{1,25})\s*/\s*([0-9.]{1,25})\s*(?:\(.*)?", re.DOTALL)
_NAMED = re.compile(r"([a-z][a-z-]{0,63})\s*=\s*([^\s;,]+)")
_ROLES = {
    "limit": ("limit", "total", "quota"),
    "remaining": ("remaining", "left"),
    "used": ("used", "usage"),
    "reset": ("reset", "resets"),
    "period": ("period", "interval", "window"),
}
_UNITS = {"s": 1, "sec": 1, "second": 1, "m": 60, "min": 60, "minute": 60, "h": 3600, "hr": 3600, "hour": 3600}
_UNITS |= {"d": 86_400, "day": 86_400, "w": 604_800, "week": 604_800, "month": 30 * 86_400, "year": 365 * 86_400}
_GRAINS = (SECOND, SECOND // 10, SECOND // 100, SECOND // 1000)

Items = list[tuple[str, dict[str, str]]]


class Headers(Protocol):
    """The headers of an answer, whatever the library's class; names ignore case."""

    def get(self, name: str, /) -> str | None: ...
    def items(self) -> Iterable[tuple[str, str]]: ...


@dataclass(frozen=True, slots=True)
class Count:
    """A count as its header spells it. ``calls``: None where it can't be read; ``is_exact``: they are all of it."""

    text: str
    calls: int | None = None
    is_exact: bool = True
    period_us: int | None = None


def by_name(headers: Headers) -> dict[str, str]:
    """Return the first headers of an answer, by name in lower case; the values of one name joined with commas."""
    raw = getattr(headers, "raw", None)
    pairs = islice(headers.items(), MOST_HEADERS) if raw is None else _decoded(raw[:MOST_HEADERS], headers)
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name.lower(), []).append(value)
    return {name: ", ".join(values) for name, values in found.items()}


def _decoded(raw: list[tuple[bytes, bytes]], headers: Any) -> Iterator[tuple[str, str]]:
    """Decode some headers of httpx: its ``items`` decodes them all, and its ``get`` compares them all."""
    encoding = headers.encoding
    return ((name.decode(encoding, "replace"), value.decode(encoding, "replace")) for name, value in raw)


def bounded(text: str) -> str:
    """Return a header's text, or what stands for one that is too long to be read."""
    return text if len(text) <= MOST_TEXT else TOO_LONG


def items(text: str) -> Items:
    """Return the members of a structured list, with their parameters; none for any other text."""
    found: Items = []
    if _is_plain(text):
        return [(text, {})]
    at = 0
    while at < len(text):
        item = _ITEM.match(text, at)
        if not item or len(found) == MOST_ITEMS:
            return []
        found.append((item[1], dict(_PARAMETER.findall(item[2]))))
        at = item.end()
    return found


def counts(text: str | None, is_list: bool = False) -> list[Count]:
    """Return the counts that a header lists, none where it was not sent; ``is_list``: it stands beside such a list."""
    if text is None:
        return []
    if _is_plain(text):
        return [Count(text, int(text))]
    if _GROUPED.fullmatch(text) and not is_list:
        return [Count(text)]  # 4,987: one number or two?
    return [count(name, window_us(terms)) for name, terms in items(text)] or [Count(text)]


def count(text: str, period_us: int | None = None) -> Count:
    """Return a count such as ``40``, ``40.0``, ``150/15m`` or ``20:1``."""
    found = _COUNT.fullmatch(text.lower())
    if not found:
        return Count(text)
    calls, fraction, seconds, times, unit = found.groups("")
    if seconds or unit:
        period_us = int(seconds) * SECOND if seconds else unit_us(unit, int(times or 1))
        if not period_us:
            return Count(text)
    return Count(text, int(calls), not fraction.strip("0"), period_us)


def _is_plain(text: str) -> bool:
    """Whether a text is what most are, a whole number: it needs no pattern."""
    return len(text) <= MOST_PLAIN and text.isdecimal() and text.isascii()


def left_of(limit: Count, used: Count) -> Count:
    """Return what remains, where a service tells what is used instead."""
    if limit.calls is None or used.calls is None:
        return Count(f"{used.text} used, and {NOTHING}")
    left = limit.calls - used.calls - (not used.is_exact)
    return Count(f"{limit.text} less {used.text}", max(0, left), True, used.period_us)


def parts_of(text: str, role: str) -> tuple[str, str | None]:
    """Return what a header's text says in one role, and the limit that it names beside that, None without one."""
    if _is_plain(text):
        return text, None
    if _NAMED.match(text.lower()):
        pairs = _NAMED.findall(text.lower())[:MOST_ITEMS]
        text = next((value for name, value in pairs if name in _ROLES[role]), pairs[0][1])
    part = _PART.fullmatch(text)
    if not part or role in ("reset", "period"):
        return text, None
    return (part[2], None) if role == "limit" else (part[1], part[2])


def window_us(terms: Mapping[str, str]) -> int | None:
    """Return the period that parameters tell, in whole seconds."""
    return length_us(terms["w"]) if terms.get("w", "").isdecimal() else None


def length_us(text: str, number_us: int = SECOND) -> int | None:
    """Return a period that is written as a duration, as a number of ``number_us``, or as a unit's name."""
    return span_us(text, number_us) or unit_us(text.strip().lower())


def unit_us(unit: str, times: int = 1) -> int | None:
    """Return some units of time, by their name."""
    name = unit.removesuffix("s") if len(unit) > 2 else unit
    return _UNITS[name] * times * SECOND or None if name in _UNITS else None


def reset_us(text: str, now_us: int, date: str | None = None, number_us: int = SECOND) -> int | None:
    """Return how many µs from now a reset is, None where it can't be read, or is long past; ``date``: of its answer."""
    span = span_us(text, number_us)
    if span is not None:
        return span
    at = point_us(text)
    return None if at is None else left_us(at, now_us, date)


def grain_us(text: str | None, number_us: int = SECOND) -> int:
    """Return the grain of a reset. That of a point in time is a second, as of the clock or ``Date`` beside it."""
    span = None if text is None else span_us(text, number_us)
    if number_us < SECOND and span is not None:
        return number_us
    return next((grain for grain in _GRAINS if (span or 0) % grain == 0), _GRAINS[-1])
