"""The bounds of a decoded state: no writer of the format writes anything beyond them, whatever the checksum says."""

from __future__ import annotations

from bisect import bisect_left
from operator import lt

from nekkar.core.errors import CorruptLog
from nekkar.core.quota import MAX_COUNT, MAX_MARGIN, MAX_PERIOD, MIN_PERIOD, Rate
from nekkar.core.window.booking import MOST_CREDIT
from nekkar.core.window.hits import Column, HitLog
from nekkar.core.window.rejections import MOST_DOUBLINGS
from nekkar.core.window.state import MAX_RATES, MOST_HORIZON_US, LimitState

LATEST_US = 1 << 54  # in the year 2540: far from where sums of times are too wide to be written
MOST_HITS = 3 << 61  # far from where sums of counts are too wide


def checked_rates(rates: tuple[Rate, ...]) -> tuple[Rate, ...]:
    """Return the rates; raise CorruptLog where they are out of bounds or out of order."""
    if len(rates) > MAX_RATES or list(rates) != sorted(set(rates)):
        raise CorruptLog("its rates are too many, or not in order")
    for rate in rates:
        if not (MIN_PERIOD <= rate.period_us <= MAX_PERIOD and 1 <= rate.count <= MAX_COUNT):
            raise CorruptLog(f"its rate {rate} is out of bounds")
    return rates


def check(state: LimitState, known: LimitState) -> None:
    """Raise CorruptLog for what no writer writes. ``known``: a state that was checked; it may continue that."""
    for unit, log in state.hits.timelines():
        _check_timeline(log, known.hits.of(unit))
    hits = state.hits
    times = [state.hold_until, hits.last_at or 0, state.written_at, state.assumed_until, state.settles_from]
    times += [grant.slot for grant in state.grants]
    times += [place.ready for place in state.places]
    if min(times) < 0 or max(times) > LATEST_US:
        raise CorruptLog("its times are out of bounds")
    if not 0 <= state.margin_us <= MAX_MARGIN or not 0 <= state.spacing_us <= MAX_PERIOD:
        raise CorruptLog("its margin or its spacing is out of bounds")
    if not 0 <= state.horizon_us <= MOST_HORIZON_US:
        raise CorruptLog(f"its horizon of {state.horizon_us / 1e6:g} s is over {MOST_HORIZON_US / 1e6:g} s")
    if any(not place.cost or place.credit > MOST_CREDIT for place in state.places):
        raise CorruptLog("its places are out of bounds")
    if state.serial > MOST_HITS:
        raise CorruptLog("its count of grants is out of bounds")
    if state.grants:
        serials = [0, *(grant.serial for grant in state.grants), state.serial + 1]
        if not all(map(lt, serials, serials[1:])):
            raise CorruptLog("its grants are not in order")
    rejections = state.rejections
    if min(rejections.at, rejections.widened_at) < 0 or not 0 <= rejections.margin_us <= MAX_PERIOD:
        raise CorruptLog("its rejections are out of bounds")
    if rejections.row > MOST_DOUBLINGS:
        raise CorruptLog("its rejections are out of bounds")


def _check_timeline(hits: HitLog, before: HitLog) -> None:
    if not (_ascends(hits.times, before.times) and _ascends(hits.cumulative, before.cumulative)):
        raise CorruptLog("its hits are not in order")
    if hits.forgotten < hits.number_offset or (
        hits.cumulative and hits.number_offset + hits.cumulative[0] <= hits.forgotten
    ):
        raise CorruptLog("its hits are not numbered from those that it forgot")
    if not 0 <= hits.time_offset_us <= LATEST_US or hits.total > MOST_HITS:
        raise CorruptLog("its times or its count are out of bounds")


def _ascends(values: Column[int], known: Column[int]) -> bool:
    """Whether a column ascends. Where it continues a known one, which does, only the rest is looked at."""
    start = bisect_left(known, values[0]) if values else 0
    same = len(known) - start
    rest = values[max(0, same - 1) :] if values[:same] == known[start:] else values
    return all(map(lt, rest, rest[1:]))
