"""A simulated fleet: N workers take calls from one list, each the next one as soon as it is free, and book their slots.

The hit log of a real fleet decides (``nekkar.core.window.state``); time is a number. A worker is a process with one
call at a time: it books the earliest slot, starts in it, and is free a latency later. What a real cache and a real
machine add, some milliseconds a call, is left out. A call under several limits starts at the earliest instant that has
a slot in each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from nekkar.core.cost import CALLS, Hits, hits_in, merged
from nekkar.core.errors import ConfigurationError, shown, shown_url
from nekkar.core.quota import SECOND, Quota, quota, read_cost
from nekkar.core.window.booking import earliest_slot
from nekkar.core.window.state import LEAST_HORIZON_US, LimitState
from nekkar.plan.calls import Call
from nekkar.rules import Match, RuleTable


class Part(NamedTuple):
    """A call as one limit sees it."""

    name: str
    terms: Quota
    cost: Hits


@dataclass(frozen=True, slots=True)
class Ask:
    """A call as a limit sees it; ``name`` and ``terms`` None: unlimited. ``also``: further limits. Times are µs."""

    name: str | None
    terms: Quota | None
    latency: int
    cost: Hits = 1
    max_wait: int | None = None
    also: tuple[Part, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """The call as each of its limits sees it."""
        return () if self.name is None or self.terms is None else (Part(self.name, self.terms, self.cost), *self.also)


@dataclass(frozen=True, slots=True)
class Hold:
    """The service asks all to wait: no call of limit ``name`` starts for ``us`` microseconds from ``at`` on."""

    name: str
    at: int
    us: int


@dataclass(frozen=True, slots=True)
class Start:
    """A call of a worker: ``asked`` for its slot, started ``at`` it, ``ended``; microseconds from the beginning.

    ``bound``: what made it wait, such as ``10 per 1 s``; None where nothing did. ``refused``: it never started.
    ``name``: of several limits the one for which it waited, else the first; ``also``: the others.
    """

    worker: int
    name: str | None
    asked: int
    at: int
    ended: int
    cost: Hits = 1
    bound: str | None = None
    refused: bool = False
    also: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The limits of the call; none of an unlimited one."""
        return () if self.name is None else (self.name, *self.also)


def asked(calls: Iterable[Call], rules: RuleTable, latency: float) -> Iterator[Ask]:
    """Resolve calls by rules; those with no latency of their own have this one, in seconds.

    Raises ConfigurationError for a call that no rule matches, where the rules refuse such calls.
    """
    known: dict[str, Quota] = {}
    for call in calls:
        match = rules.route(call.method, call.url, None, call.body)
        took = round((latency if call.latency is None else call.latency) * SECOND)
        ask = Ask(None, None, took)
        if match:
            first, *also = _parts(call, match, known)
            bounds = [part.max_wait for part in match.parts if part.max_wait is not None]
            ask = Ask(*first[:2], took, first.cost, round(min(bounds) * SECOND) if bounds else None, tuple(also))
        yield from (ask for _ in range(call.count))


def _parts(call: Call, match: Match, known: dict[str, Quota]) -> list[Part]:
    """Return a call as each of its limits sees it: units go to the limits that count them, calls to all.

    What a meter would estimate for a call is not known here: that counts as nothing. Raises ConfigurationError for a
    cost that a limit would refuse.
    """
    terms_of = {one.name: quota(one.rate_limit, one.period, one.spacing, one.margin) for one in match.parts}
    quotas = [known.setdefault(name, terms) for name, terms in terms_of.items()]
    given = merged(call.cost, match.cost)
    units = {CALLS, *(unit for terms in quotas for unit in terms.units)}
    if unit := next((unit for unit in given if unit not in units), None):
        raise ConfigurationError(
            f"{call.method} {shown_url(call.url)}: no limit of it counts {shown(unit)}, which it costs"
        )
    parts = []
    for one, terms in zip(match.parts, quotas, strict=True):
        costs = {unit: hits for unit, hits in given.items() if unit == CALLS or unit in terms.units}
        missing = [unit for unit in terms.units if unit not in (CALLS, *costs)]
        if missing and not one.meter:
            what = f"nothing gives the {missing[0]} that a call costs, which limit {shown(one.name)} counts"
            raise ConfigurationError(
                f"{call.method} {shown_url(call.url)}: {what}; give its rule a cost, or the request in a log"
            )
        costs = merged(costs, dict.fromkeys(missing, 0))
        parts.append(Part(one.name, terms, read_cost(costs or 1, terms, one.name)))
    return parts


def run(asks: Iterable[Ask], workers: int, holds: Sequence[Hold] = ()) -> Iterator[Start]:
    """Yield each call as it ends, in order of its end. Pure; takes time in proportion to the calls."""
    fleet = _Fleet(workers, holds)
    for ask in asks:
        ended = fleet.next_free()
        if ended:
            yield ended
        fleet.begin(ask)
    yield from sorted(fleet.working.values(), key=lambda start: start.ended)


class _Fleet:
    """``free``: (when, worker), a heap. ``working``: what each worker does, or did last."""

    def __init__(self, workers: int, holds: Sequence[Hold]) -> None:
        self.free = [(0, worker) for worker in range(workers)]
        self.working: dict[int, Start] = {}
        self._asks: dict[int, Ask] = {}
        self._logs: dict[str, LimitState] = {}
        self._bound: dict[str, str] = {}  # by what each limit's newest slot came so late
        self._holds = sorted(holds, key=lambda hold: hold.at)

    def next_free(self) -> Start | None:
        """Let time pass until a worker is free; return the call that it ended."""
        while self._holds and self._holds[0].at <= self.free[0][0]:
            self._hold(self._holds.pop(0))
        return self.working.pop(self.free[0][1], None)

    def begin(self, ask: Ask) -> None:
        """Have the worker that is free first make a call."""
        now, worker = heappop(self.free)
        start = self._booked(worker, ask, now, now)
        self._asks[worker], self.working[worker] = ask, start
        heappush(self.free, (start.ended, worker))

    def _booked(self, worker: int, ask: Ask, since: int, now: int) -> Start:
        parts = ask.parts
        if not parts:
            return Start(worker, None, since, now, now + ask.latency, ask.cost)
        logs = [self._log(part, now) for part in parts]
        at, last = now, 0
        while True:
            slots = [_slot(log, part, at) for log, part in zip(logs, parts, strict=True)]
            if max(slots) == at:
                break
            at, last = max(slots), slots.index(max(slots))
        name = parts[last].name
        also = tuple(part.name for part in parts if part.name != name)
        if ask.max_wait is not None and at > since + ask.max_wait:
            return Start(worker, name, since, now, now, ask.cost, refused=True, also=also)
        bound = _bound(logs[last], parts[last], at) or self._bound.get(name) if at > now else None
        for log, part in zip(logs, parts, strict=True):
            self._logs[part.name] = replace(log, hits=log.hits.book([(at, part.cost)])) if part.cost else log
        if bound:
            self._bound[name] = bound
        return Start(worker, name, since, at, at + ask.latency, ask.cost, bound, also=also)

    def _log(self, part: Part, now: int) -> LimitState:
        return self._logs.get(part.name, LimitState(1)).with_quota(part.terms, LEAST_HORIZON_US).forget(now)

    def _hold(self, hold: Hold) -> None:
        """Hold a limit: slots beyond the horizon are given back, and booked again behind the hold, in order."""
        log = self._logs.get(hold.name, LimitState(1))
        late = [start for start in self.working.values() if hold.name in start.names and not start.refused]
        late = sorted((start for start in late if start.at > hold.at + LEAST_HORIZON_US), key=lambda start: start.at)
        self._logs[hold.name] = replace(log, hold_until=max(log.hold_until, hold.at + hold.us))
        for start in late:
            for part in self._asks[start.worker].parts:
                log = self._logs[part.name]
                self._logs[part.name] = replace(log, hits=log.hits.remove(start.at, part.cost))
        for start in late:
            self.working[start.worker] = self._booked(start.worker, self._asks[start.worker], start.asked, hold.at)
        ends = {start.worker: start.ended for start in self.working.values()}
        self.free = [(ends.get(worker, at), worker) for at, worker in self.free]
        heapify(self.free)


def _slot(log: LimitState, part: Part, now: int) -> int:
    return earliest_slot(log.hits, part.terms, log.margin_us, part.cost, max(now, log.hold_until))


def _bound(log: LimitState, part: Part, at: int) -> str | None:
    """Say what gave the slot: a window, the spacing or a hold; None where it is only behind the slot before it."""
    terms = part.terms
    if at == log.hold_until:
        return "a hold"
    for rate in terms.rates:
        hits, wanted = log.hits.of(rate.unit), hits_in(part.cost, rate.unit)
        before = hits.time_of(hits.total + wanted - rate.count) if wanted else None
        if before is not None and at == before + rate.period_us + terms.margin_us:
            return str(rate)
    return "the spacing" if terms.spacing_us else None
