"""Reads the quotas in an answer's headers, in the dialect of a limit (``nekkar.rules.dialects``).

The headers of a dialect are looked up by their names; ``None`` stands for the RateLimit headers of ``headers = true``.
Of an answer with very many headers the first are read; the others cost nothing.
Pure, and raises for no text whatever.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache

from nekkar.core.quota import SECOND
from nekkar.core.window.feedback import ReportedQuota
from nekkar.http.header_values import MOST_ITEMS, Headers, bounded, by_name, parts_of
from nekkar.http.ratelimit_headers import BucketHeaders, Reader, Reading, read
from nekkar.http.retry_after import date_us
from nekkar.rules.dialects import HEADERS, SUFFIX, Bucket, Dialect


def told_by(headers: Headers, dialect: Dialect | None, units: Collection[str], now_us: int) -> Reading:
    """Return what the headers of an answer tell to a limit that counts ``units``."""
    found = by_name(headers)
    date = found.get("date")
    if dialect is None:
        standard = {name: text for name, text in found.items() if "ratelimit" in name or "rate-limit" in name}
        return read(standard, now_us, date)
    reader = Reader(now_us, date, [])
    for bucket in dialect:
        named = _resource(bucket, found)
        reader.resources += [named] if named else []
        for told, resource in _told(bucket, found, named):
            unit = next((unit for unit in bucket.units if unit in units), bucket.units[0])
            kind = ReportedQuota(None, unit=unit, is_window=bucket.is_window, resource=resource)
            if bucket.is_on_clock:
                _reset_on_clock(told, bucket.lengths, now_us, date)
            if bucket.is_pace:
                _read_pace(reader, told, kind)
            else:
                reader.read_family(told, kind)
    return reader.reading()


def _told(bucket: Bucket, found: Mapping[str, str], named: str) -> Iterator[tuple[BucketHeaders, str]]:
    """Yield the texts of a bucket, and the resource that they name; of each suffix, where its names have one."""
    names, prefix = _names(bucket)
    for suffix in _suffixes(prefix, found) if prefix else ("",):
        told = BucketHeaders({}, {})
        for role, name in names:
            if name == SUFFIX:
                told.texts[role] = suffix
                continue
            full = name.removesuffix(SUFFIX) + suffix if suffix else name
            text = found.get(full)
            if text is not None:
                value, limit = parts_of(bounded(text).strip(), role)
                told.add(role, full, value)
                if limit is not None and not bucket.limit:
                    told.add("limit", full, limit)
        if any(role in told.texts for role in ("limit", "remaining", "used")):
            yield told, suffix if bucket.resource == SUFFIX else named


@lru_cache(256)
def _names(bucket: Bucket) -> tuple[tuple[tuple[str, str], ...], str]:
    """Return the headers of a bucket by what they tell, and what those that end in a suffix begin with."""
    names = tuple((role, name) for role in HEADERS if (name := getattr(bucket, role)))
    starred = (name.removesuffix(SUFFIX) for _, name in names if name.endswith(SUFFIX) and name != SUFFIX)
    return names, next(starred, "")


def _suffixes(prefix: str, found: Mapping[str, str]) -> list[str]:
    return [name.removeprefix(prefix) for name in found if name.startswith(prefix)][:MOST_ITEMS]


def _resource(bucket: Bucket, found: Mapping[str, str]) -> str:
    text = found.get(bucket.resource) if bucket.resource not in ("", SUFFIX) else None
    return bounded(text).strip() if text else ""


def _reset_on_clock(told: BucketHeaders, lengths: tuple[int, ...], now_us: int, date: str | None) -> None:
    """Add the resets of windows that end at multiples of their period on the service's clock, in whole seconds."""
    period, now = told.period_us(), date_us(date) if date else None
    listed = told.texts.get("limit", "").count(",") + 1
    periods = [period] if period else [SECOND * length for length in lengths[:listed]]
    left = [period - (now_us if now is None else now) % period for period in periods]
    if left:
        told.add("reset", "", ",".join(str(-(-each // SECOND)) for each in left))


def _read_pace(reader: Reader, told: BucketHeaders, kind: ReportedQuota) -> None:
    """Read a limit of calls per second, such as ``0.0167``, as one call per 1/0.0167 s, exact to half a digit."""
    text = told.texts.get("limit", "").strip()
    whole, _, fraction = text.partition(".")
    digits = f"{whole}{fraction}"
    if not (digits.isdecimal() and digits.isascii() and len(digits) <= 15) or not int(digits):
        reader.faults.append(f"a limit of {text} per second")
        return
    half = 0.5 * 10 ** -len(fraction) if fraction else 0.0
    period = round(SECOND / (int(digits) * 10 ** -len(fraction) + half))
    reader.budgets.append(ReportedQuota(None, 1, max(1, period), unit=kind.unit, resource=kind.resource, is_pace=True))
