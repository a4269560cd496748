"""The reservation: a booked slot in hand. It is confirmed where the call starts, settled, or exchanged when stale."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from nekkar.core.admission import Admission
from nekkar.core.cost import Hits, as_mapping, hits_in
from nekkar.core.errors import ConfigurationError, shown
from nekkar.core.limit_core import LimitCore
from nekkar.core.quota import MAX_COUNT
from nekkar.core.runtime.drivers import run, run_async
from nekkar.core.runtime.loops import this_loop
from nekkar.core.waiting.callers import Slot
from nekkar.core.window.settlement import Settlement


class Reservation(NamedTuple):
    """One call's slot, in the process that booked it. Safe between threads."""

    core: LimitCore
    slot: Slot
    headroom: int = 0

    @property
    def cost(self) -> Hits:
        """What it reserved."""
        return self.slot.cost

    def is_good(self) -> bool:
        """Return whether the call may still start on it: until half of the margin after its slot."""
        return self.core.clock.now_us() <= self.core.quota.good_until(self.slot.at)

    def settle(self, admission: Admission, units: Mapping[str, Any]) -> None:
        """Settle it; blocks for a swap. Raises ConfigurationError and CacheError, see ``Admission.settle``."""
        if settlement := self._settlement(admission, units):
            line = self.core.settling_line()
            run(line.settle(settlement), self.core.clock)
            self.core.look_soon(line)

    async def settle_async(self, admission: Admission, units: Mapping[str, Any]) -> None:
        """Settle it from a task."""
        if settlement := self._settlement(admission, units):
            core, loop = self.core, this_loop()
            line = core.loop_line(loop)
            await run_async(line.settle(settlement), core.clock, loop, core.ledger.in_process)
            core.look_soon(line)

    def _settlement(self, admission: Admission, units: Mapping[str, Any]) -> Settlement | None:
        """Return what to write, None where nothing changes; a second call raises ConfigurationError."""
        used = self.check(admission, units)
        if not admission._settles():
            raise self._settled_already(admission.name)
        changes = tuple((unit, hits - hits_in(self.cost, unit)) for unit, hits in used.items())
        changes = tuple((unit, change) for unit, change in changes if change)
        return Settlement(self.slot.source.epoch, self.slot.at, changes) if changes else None

    @property
    def units(self) -> tuple[str, ...]:
        """The units that its limit counts."""
        return self.core.quota.units

    def check(self, admission: Admission, units: Mapping[str, Any]) -> dict[str, int]:
        """Return what is to be settled, checked; ConfigurationError where that can't be. Nothing is changed."""
        name = admission.name
        used = {unit: self._checked(name, unit, hits) for unit, hits in units.items()}
        if self.slot.source.pid != os.getpid():
            raise ConfigurationError(
                f"limit {name!r}: an admission can be settled only in the process that acquired it, and this one was"
                " forked from that; settle it there"
            )
        if getattr(admission, "_is_settled", False):
            raise self._settled_already(name)
        return used

    def _settled_already(self, name: str) -> ConfigurationError:
        text = f"limit {name!r}: the admission of {shown(as_mapping(self.cost))} is settled already; settle it once"
        return ConfigurationError(text)

    def _checked(self, name: str, unit: str, hits: Any) -> int:
        counted = self.core.quota.units
        if unit not in counted:
            raise ConfigurationError(f"limit {name!r} does not count {shown(unit)}; settle {', '.join(counted)}")
        if type(hits) is not int or not 0 <= hits <= MAX_COUNT:
            raise ConfigurationError(
                f"limit {name!r}: settled {unit} {shown(hits)}: give a whole number from 0 to {MAX_COUNT}"
            )
        return hits
