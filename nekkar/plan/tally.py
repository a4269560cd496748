"""What a plan comes to: how long it takes, what the workers' time goes into, and what binds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from nekkar.core.quota import SECOND
from nekkar.plan.fleet import Start

LITTLE = 0.05


@dataclass(slots=True)
class Usage:
    """The calls of one limit. Times are seconds. ``bounds``: how long was waited for each thing that bound.

    A call under several limits counts for each; its wait counts for the one that it waited for.
    """

    calls: int = 0
    refused: int = 0
    waits: int = 0
    waited: float = 0.0
    longest: float = 0.0
    bounds: dict[str, float] = field(default_factory=dict)

    @property
    def bound(self) -> str | None:
        """What it waited for longest."""
        return max(self.bounds, key=lambda bound: self.bounds[bound], default=None)


@dataclass(slots=True)
class Tally:
    """A fleet's calls, added up one by one. ``seconds``: from the first call's asking to the last call's end."""

    workers: int
    seconds: float = 0.0
    calling: float = 0.0
    per_worker: Counter[int] = field(default_factory=Counter)
    limits: dict[str | None, Usage] = field(default_factory=dict)

    def add(self, start: Start) -> None:
        """Count a call."""
        self.seconds = max(self.seconds, start.ended / SECOND)
        usages = [self.limits.setdefault(name, Usage()) for name in start.names or (None,)]
        if start.refused:
            usages[0].refused += 1
            return
        for usage in usages:
            usage.calls += 1
        self.per_worker[start.worker] += 1
        self.calling += (start.ended - start.at) / SECOND
        waited = (start.at - start.asked) / SECOND
        if start.bound and waited:
            usage = usages[0]
            usage.waits += 1
            usage.waited += waited
            usage.longest = max(usage.longest, waited)
            usage.bounds[start.bound] = usage.bounds.get(start.bound, 0.0) + waited

    @property
    def calls(self) -> int:
        """How many calls started."""
        return self.per_worker.total()

    @property
    def waiting_share(self) -> float:
        """Which part of the workers' time they wait."""
        return self._share(sum(usage.waited for usage in self.limits.values()))

    @property
    def calling_share(self) -> float:
        """Which part of the workers' time they call."""
        return self._share(self.calling)

    @property
    def binding(self) -> str | None:
        """The limit for which the workers wait most; None where they hardly wait."""
        most = max(self.limits, key=lambda name: self.limits[name].waited, default=None)
        return most if most is not None and self._share(self.limits[most].waited) > LITTLE else None

    def verdict(self) -> str:
        """Say what binds, and so what would help."""
        if self.binding is None:
            return (
                f"The workers bind: they call {self.calling_share:.0%} of their time and wait for limits"
                f" {self.waiting_share:.0%} of it. More workers would finish sooner."
            )
        usage = self.limits[self.binding]
        return (
            f"Limit {self.binding!r} binds, by {usage.bound}: the workers wait for it"
            f" {self._share(usage.waited):.0%} of their time. More workers would not finish sooner."
        )

    def _share(self, seconds: float) -> float:
        return seconds / (self.workers * self.seconds) if self.seconds else 0.0
