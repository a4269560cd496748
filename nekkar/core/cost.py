"""The cost of a call: a whole number of calls, or hits in several units at once, such as one call and 1,200 tokens.

Most limits count calls alone. There a cost is an ``int``, and nothing is paid for units. A cost with other units is a
``Cost``. The two add, subtract and compare with each other; a ``Cost`` without other units becomes an ``int``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

CALLS = "calls"


@dataclass(frozen=True, slots=True)
class Cost:
    """``calls``, and hits in other units: (unit, hits) pairs in the order of the units' names, no hits being 0."""

    calls: int
    units: tuple[tuple[str, int], ...]

    def __add__(self, other: Hits) -> Hits:
        return _joined(self, other, 1)

    __radd__ = __add__

    def __sub__(self, other: Hits) -> Hits:
        return _joined(self, other, -1)

    def __rsub__(self, other: int) -> Hits:
        return _joined(cost_of({CALLS: other}), self, -1)

    def __str__(self) -> str:
        return ", ".join(f"{hits} {unit}" for unit, hits in items(self))


Hits = int | Cost


def cost_of(costs: Mapping[str, int]) -> Hits:
    """Return the cost that ``costs`` stands for: a mapping of units to hits."""
    units = tuple(sorted((unit, hits) for unit, hits in costs.items() if unit != CALLS and hits))
    calls = costs.get(CALLS, 0)
    return Cost(calls, units) if units else calls


def items(cost: Hits) -> list[tuple[str, int]]:
    """Return (unit, hits) for each unit of a cost, calls first; none that is 0."""
    if isinstance(cost, int):
        return [(CALLS, cost)] if cost else []
    return [(CALLS, cost.calls), *cost.units] if cost.calls else list(cost.units)


def as_mapping(cost: Hits) -> dict[str, int]:
    """Return the hits by unit, calls always among them."""
    return {CALLS: cost} if isinstance(cost, int) else {CALLS: cost.calls, **dict(cost.units)}


def hits_in(cost: Hits, unit: str) -> int:
    """Return the hits of a cost in one unit."""
    if isinstance(cost, int):
        return cost if unit == CALLS else 0
    if unit == CALLS:
        return cost.calls
    for name, hits in cost.units:
        if name == unit:
            return hits
    return 0


def fits(cost: Hits, room: Hits) -> bool:
    """Whether a cost is at most ``room`` in every unit."""
    if isinstance(cost, int) and isinstance(room, int):
        return cost <= room
    return all(hits <= hits_in(room, unit) for unit, hits in items(cost))


def is_smaller(cost: Hits, other: Hits) -> bool:
    """Whether a cost is at most another in every unit, and not the same."""
    return cost != other and fits(cost, other)


def smallest(costs: Collection[Hits]) -> Hits:
    """Return the largest cost that fits into each of ``costs``."""
    if len(calls := [cost for cost in costs if isinstance(cost, int)]) == len(costs):
        return min(calls, default=0)
    distinct: dict[Hits, None] = dict.fromkeys(costs)
    if len(distinct) == 1:
        return next(iter(distinct))
    each = [as_mapping(cost) for cost in distinct]
    return cost_of({unit: min(one.get(unit, 0) for one in each) for unit in each[0]})


def largest(costs: Iterable[Hits]) -> Hits:
    """Return the smallest cost that each of ``costs`` fits into."""
    most: dict[str, int] = {}
    for cost in costs:
        for unit, hits in items(cost):
            most[unit] = max(most.get(unit, 0), hits)
    return cost_of(most)


def total(costs: Iterable[Hits]) -> Hits:
    """Return the sum of costs; for many of them, in less time than one addition each would take."""
    calls, units = 0, dict[str, int]()
    for cost in costs:
        if isinstance(cost, int):
            calls += cost
            continue
        calls += cost.calls
        for unit, hits in cost.units:
            units[unit] = units.get(unit, 0) + hits
    return cost_of({CALLS: calls, **units})


def merged(*costs: int | Mapping[str, int] | None) -> dict[str, int]:
    """Merge costs unit by unit: the first that names a unit counts. An int is that many calls; None names nothing."""
    found: dict[str, int] = {}
    for cost in costs:
        for unit, hits in ({CALLS: cost} if isinstance(cost, int) else cost or {}).items():
            found.setdefault(unit, hits)
    return found


def _joined(cost: Hits, other: Hits, sign: int) -> Hits:
    if isinstance(cost, Cost) and isinstance(other, Cost) and len(cost.units) == len(other.units) == 1:
        (unit, hits), (unit_too, more) = cost.units[0], other.units[0]
        if unit == unit_too:
            calls, hits = cost.calls + sign * other.calls, hits + sign * more
            return Cost(calls, ((unit, hits),)) if hits else calls
    total: dict[str, Any] = dict(items(cost))
    for unit, hits in items(other):
        total[unit] = total.get(unit, 0) + sign * hits
    return cost_of(total)
