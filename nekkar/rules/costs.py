"""The cost and the headroom of a rule: how many hits a request takes, and which part of a limit it leaves free."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from nekkar.core.cost import CALLS
from nekkar.core.errors import ConfigurationError, shown
from nekkar.core.quota import Quota, whole
from nekkar.rules.nearest import unknown

Cost = int | Mapping[str, int]

_UNIT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TABLE = "give a whole number of calls, or hits by unit such as {'tokens': 1200}"


def read_cost(cost: Any) -> int | dict[str, int]:
    """Return a cost: a number of calls from 1, or hits by unit, each from 0; raise ConfigurationError otherwise."""
    if not isinstance(cost, Mapping):
        return whole(cost, "cost")
    if not cost:
        raise ConfigurationError(f"cost {shown(cost)} has no unit; {_TABLE}")
    for unit in cost:
        if not isinstance(unit, str) or not _UNIT.fullmatch(unit):
            raise ConfigurationError(f"cost has a unit {shown(unit)}, which is not an identifier; {_TABLE}")
    return {unit: whole(hits, f"cost in {unit}", least=0) for unit, hits in cost.items()}


def read_headroom(headroom: Any) -> float:
    """Return a headroom, from 0 to below 1; raise ConfigurationError otherwise."""
    if isinstance(headroom, bool) or not isinstance(headroom, int | float) or not 0 <= headroom < 1:
        raise ConfigurationError(
            f"headroom {shown(headroom)} is not a part of a limit; give a number from 0 to below 1"
        )
    return float(headroom)


def faults_of_cost(cost: Cost, quotas: Mapping[str, Quota]) -> Iterable[str]:
    """Yield the faults of a rule's cost: a unit that none of its limits counts, or more hits than a window has."""
    units = dict.fromkeys(unit for quota in quotas.values() for unit in (CALLS, *quota.units))
    for unit, hits in ({CALLS: cost} if isinstance(cost, int) else cost).items():
        if unit not in units:
            remedy = f"its {'limits count' if len(quotas) > 1 else 'limit counts'} {', '.join(units)}"
            yield f"cost: {unknown('unit', unit, units, remedy)}"
        for name, quota in quotas.items():
            if hits > quota.most(unit):
                yield (
                    f"cost {hits} {unit} is over the {quota.most(unit)} that a window of limit {shown(name)} has, and"
                    " would never start; give less"
                )
