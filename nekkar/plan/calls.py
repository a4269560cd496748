"""What is to be called: texts such as ``GET https://api.example.com/a 500``, or a log of requests.

A log is CSV with a head, JSON lines, or HAR, told by the file's ending. Of each request these are read: ``url``;
``method`` (GET unless given); ``latency`` in seconds, of a HAR its ``time``; ``cost`` (in JSON lines hits by unit too)
and ``count`` (1 each); ``body``, for limits that are named by a field of it.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from nekkar.core.errors import ConfigurationError, shown, shown_url
from nekkar.core.quota import whole
from nekkar.rules.costs import read_cost
from nekkar.rules.rule import check_request

MOST_CALLS = 1_000_000


@dataclass(frozen=True, slots=True)
class Call:
    """``count`` requests alike. ``latency``: seconds from start to end, None where that is not known.

    ``cost``: calls, or hits by unit; None where the log does not tell. ``body``: the request's, where a log has it.
    """

    method: str
    url: str
    count: int = 1
    latency: float | None = None
    cost: int | Mapping[str, int] | None = None
    body: str | None = None


def read_calls(texts: Iterable[str]) -> list[Call]:
    """Read texts of ``METHOD URL [COUNT]``; raise ConfigurationError for others."""
    return _bounded(map(_call, texts))


def read_log(path: str) -> list[Call]:
    """Read a log of requests; ConfigurationError with the file and the request. Blocks."""
    read = _READERS.get(Path(path).suffix.lower())
    if read is None:
        raise ConfigurationError(f"log must be a file that ends in {', '.join(_READERS)}, got {shown(path)}")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        return _bounded(_entry(path, number, entry) for number, entry in enumerate(read(text), 1))
    except OSError as error:
        raise ConfigurationError(f"log {shown(path)} can't be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:  # a ConfigurationError is a ValueError, and passes as it is
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"log {shown(path)} is not what its ending says: {error}") from error


def _call(text: str) -> Call:
    words = text.split()
    if len(words) not in (2, 3) or "@" in "".join(words[2:]):
        expected = "'METHOD URL COUNT', such as 'GET https://x.y/ 5'"
        raise ConfigurationError(f"calls must be {expected}, got {shown_url(text)}")
    what = f"calls {shown_url(text)}"
    _check_request(words[0], words[1], what)
    return Call(words[0], words[1], _number(words[2], f"{what}: count") if len(words) == 3 else 1)


def _entry(path: str, number: int, entry: object) -> Call:
    where = f"log {shown(path)}, request {number}"
    if not isinstance(entry, Mapping) or not isinstance(entry.get("url"), str) or not entry["url"]:
        raise ConfigurationError(f"{where}: {shown(entry)} has no url")
    count = _number(entry.get("count") or 1, f"{where}: count")
    method, url = str(entry.get("method") or "GET"), entry["url"]
    _check_request(method, url, where)
    cost, body = _cost(entry.get("cost"), where), entry.get("body") or None
    text = body if body is None or isinstance(body, str) else json.dumps(body)
    return Call(method, url, count, _latency(entry.get("latency"), where), cost, text)


def _cost(given: Any, where: str) -> int | dict[str, int] | None:
    if isinstance(given, Mapping):
        try:
            return read_cost(given)
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from None
    return _number(given, f"{where}: cost") if given else None


def _check_request(method: str, url: str, where: str) -> None:
    try:
        check_request(method, url)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None


def _number(given: Any, what: str) -> int:
    return whole(int(given) if isinstance(given, str) and given.isdecimal() else given, what)


def _latency(given: Any, where: str) -> float | None:
    if given in (None, ""):
        return None
    try:
        latency = float(given)
    except (ValueError, TypeError):
        latency = math.nan
    if not 0 <= latency < math.inf:
        raise ConfigurationError(f"{where}: latency must be a number of seconds from 0, got {shown(given)}")
    return latency


def _bounded(calls: Iterable[Call]) -> list[Call]:
    found, total = list[Call](), 0
    for call in calls:
        found.append(call)
        total += call.count
        if total > MOST_CALLS:
            raise ConfigurationError(f"there are over {MOST_CALLS} calls; plan a part of them")
    if not found:
        raise ConfigurationError("there are no calls to plan; give some")
    return found


def _har(text: str) -> Iterator[Any]:
    for entry in json.loads(text)["log"]["entries"]:
        request, time = entry["request"], entry.get("time")
        latency = max(0.0, time) / 1000 if isinstance(time, int | float) else None
        body = (request.get("postData") or {}).get("text")
        yield {"method": request["method"], "url": request["url"], "latency": latency, "body": body}


def _lines(text: str) -> Iterator[Any]:
    return (json.loads(line) for line in text.splitlines() if line.strip())


_READERS: dict[str, Callable[[str], Iterable[Any]]] = {
    ".csv": lambda text: csv.DictReader(StringIO(text)),
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".har": _har,
}
