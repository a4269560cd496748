"""A fleet on paper: N workers take calls from one list, each the next as soon as it is free, and book as in earnest.

The same log decides as in a real fleet (``nekkar.core.window.state``); time is a number. A worker is a process with one
call at a time: it asks, books the earliest slot, starts in it, and is free a latency later. What a real cache and
a real machine add, some milliseconds a call, is not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush

from nekkar.core.quota import SECOND, Quota, quota
from nekkar.core.window.booking import earliest_slot
from nekkar.core.window.state import LEAST_HORIZON_US, LimitState
from nekkar.plan.calls import Call
from nekkar.rules import RuleTable


@dataclass(frozen=True, slots=True)
class Ask:
    """A call as a limit sees it; ``name`` and ``terms`` None: unlimited. Times are microseconds."""

    name: str | None
    terms: Quota | None
    latency: int
    cost: int = 1
    max_wait: int | None = None


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
    """

    worker: int
    name: str | None
    asked: int
    at: int
    ended: int
    cost: int = 1
    bound: str | None = None
    refused: bool = False


def asked(calls: Iterable[Call], rules: RuleTable, latency: float) -> Iterator[Ask]:
    """Resolve calls by rules; those with no latency of their own have this one, in seconds.

    Raises ConfigurationError for a call that no rule matches, where the rules refuse such calls.
    """
    terms: dict[str, Quota] = {}
    for call in calls:
        match = rules.route(call.method, call.url)
        took = round((latency if call.latency is None else call.latency) * SECOND)
        ask = Ask(None, None, took, call.cost)
        if match:
            known = terms.setdefault(match.name, quota(match.rate_limit, match.period, match.spacing, match.margin))
            longest = None if match.max_wait is None else round(match.max_wait * SECOND)
            ask = Ask(match.name, known, took, call.cost, longest)
        yield from (ask for _ in range(call.count))


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
        if ask.name is None or ask.terms is None:
            return Start(worker, None, since, now, now + ask.latency, ask.cost)
        log = self._logs.get(ask.name, LimitState(1)).with_quota(ask.terms, LEAST_HORIZON_US).forget(now)
        at = earliest_slot(log.hits, ask.terms, log.margin_us, ask.cost, max(now, log.hold_until))
        if ask.max_wait is not None and at > since + ask.max_wait:
            return Start(worker, ask.name, since, now, now, ask.cost, refused=True)
        bound = _bound(log, ask, at) or self._bound.get(ask.name) if at > now else None
        self._logs[ask.name] = replace(log, hits=log.hits.book([(at, ask.cost)]))
        if bound:
            self._bound[ask.name] = bound
        return Start(worker, ask.name, since, at, at + ask.latency, ask.cost, bound)

    def _hold(self, hold: Hold) -> None:
        """Hold a limit: slots beyond the horizon are given back, and booked again behind the hold, in order."""
        log = self._logs.get(hold.name, LimitState(1))
        late = [start for start in self.working.values() if start.name == hold.name and not start.refused]
        late = sorted((start for start in late if start.at > hold.at + LEAST_HORIZON_US), key=lambda start: start.at)
        for start in late:
            log = replace(log, hits=log.hits.remove(start.at, start.cost))
        self._logs[hold.name] = replace(log, hold_until=max(log.hold_until, hold.at + hold.us))
        for start in late:
            self.working[start.worker] = self._booked(start.worker, self._asks[start.worker], start.asked, hold.at)
        ends = {start.worker: start.ended for start in self.working.values()}
        self.free = [(ends.get(worker, at), worker) for at, worker in self.free]
        heapify(self.free)


def _bound(log: LimitState, ask: Ask, at: int) -> str | None:
    """Say what gave the slot: a window, the spacing or a hold; None where it is only behind the slot before it."""
    terms = ask.terms
    if terms is None or at == log.hold_until:
        return "a hold"
    for rate in terms.rates:
        before = log.hits.time_of(log.hits.total + ask.cost - rate.count)
        if before is not None and at == before + rate.period_us + terms.margin_us:
            return str(rate)
    return "the spacing" if terms.spacing_us else None
