"""The rates that a service reported, as a section of an encoded state; most limits have none."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from nekkar.core.cost import CALLS
from nekkar.core.errors import CorruptLog
from nekkar.core.quota import LONGEST_UNIT, MAX_COUNT, MAX_PERIOD, MIN_PERIOD, Rate
from nekkar.core.window.checks import LATEST_US
from nekkar.core.window.reported import MOST_REPORTED, NOTHING_REPORTED, ReportedRates
from nekkar.core.window.sections import section

REPORTED = 32
_ROW = struct.Struct("<QQQQB")  # the window's period, the rate's, its count, until when, the length of the unit behind


def reported_section(reported: ReportedRates) -> tuple[bytes, ...]:
    """Return the section, empty where nothing is reported."""
    if not reported.rates:
        return ()
    return section(
        REPORTED,
        0,
        [
            _ROW.pack(window_us, rate.period_us, rate.count, until, len(rate.unit)) + rate.unit.encode()
            for window_us, rate, until in reported.rates
        ],
    )


def reported_of(found: Mapping[int, tuple[int, bytes]]) -> ReportedRates:
    """Return what the section holds; raise CorruptLog where it is out of bounds."""
    if REPORTED not in found:
        return NOTHING_REPORTED
    raw, at, rates = found[REPORTED][1], 0, []
    while at < len(raw):
        window_us, period_us, count, until, length = _ROW.unpack_from(raw, at)
        at += _ROW.size + length
        unit = raw[at - length : at].decode("ascii")
        is_sound = min(window_us, period_us) >= MIN_PERIOD and max(window_us, period_us) <= MAX_PERIOD
        if not (is_sound and 1 <= count <= MAX_COUNT and until <= LATEST_US and _is_unit(unit) and at <= len(raw)):
            raise CorruptLog("what its service reported is out of bounds")
        rates.append((window_us, Rate(period_us, count, unit), until))
    if len(rates) > MOST_REPORTED or rates != sorted(rates):
        raise CorruptLog("what its service reported is too much, or not in order")
    return ReportedRates(tuple(rates))


def _is_unit(unit: str) -> bool:
    return unit == CALLS or (unit.isidentifier() and len(unit) <= LONGEST_UNIT)
