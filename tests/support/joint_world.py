"""A world of ``simulation.py`` in which calls are under several limits, each a state in a cache of its own.

Processes have a line in each limit. Groups of callers call under some of them. ``JointWorld.run().problems`` tells what
broke, at true times: a limit that was over, room that stayed empty, a caller that waited too long or was left behind, a
slot of a joint call that stays booked though nobody started on it.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

from nekkar.core.errors import CacheError, NekkarError
from tests.support.internals.core import (
    CALLS,
    SECOND,
    Hits,
    Listeners,
    Quota,
    cost_of,
    hits_in,
    items,
    largest,
    leaving,
)
from tests.support.internals.runtime import Backoff, CacheCall, CacheSteps, QueueSteps, RunSteps
from tests.support.internals.shared import Ledger, store_of
from tests.support.internals.waiting import CallReporter, JointCall, Slot, turns_of
from tests.support.internals.window import LimitState, decode, earliest_slot, with_hold
from tests.support.simulation import (
    LOOK_EVERY_US,
    MS,
    START_US,
    Actor,
    Cancelled,
    Clock,
    Event,
    Store,
    Story,
    World,
    _Line,
    _set_all,
)


class Group(NamedTuple):
    """Callers alike: so many in each of so many processes, from the ``first`` on, under the limits of these numbers.

    ``headroom``: what they leave free. ``phase``: only in even, or odd, fives of seconds. ``rest``: seconds between two
    calls of a caller, on average.
    """

    limits: tuple[int, ...]
    processes: int
    callers: int
    first: int = 0
    costs: tuple[Hits, ...] = (1,)
    phase: int | None = None
    rest: float = 0.0
    headroom: int = 0


@dataclass(frozen=True)
class JointStory(Story):
    """A story of several limits. ``quotas``: of each. ``groups``: the callers. ``away_us``: how far each cache is.

    ``leaks``: a hit that joint calls booked in a limit that did not lead, and did not use, is a problem. ``judged``: so
    are long waits. ``mixed``: other terms of each limit, which a process draws as often as the first. ``newcomers``:
    with each flush a process comes that had seen nothing.
    """

    quotas: tuple[Quota, ...] = ()
    groups: tuple[Group, ...] = ()
    away_us: tuple[tuple[int, ...], ...] = ((MS // 5, 3 * MS, 30 * MS),)
    leaks: bool = False
    judged: bool = False
    mixed: tuple[Quota, ...] = ()
    seconds: float = 4.0


class Begun(NamedTuple):
    """A call that started: when, its hits, its slot, by which terms, in which life of the limit."""

    at: int
    cost: Hits
    slot: int
    headroom: int
    quota: Quota
    life: int
    serial: int


class Shared:
    """One limit: its cache, and who started."""

    def __init__(self, world: JointWorld, number: int, quota: Quota, latency_us: int) -> None:
        self.number, self.quota, self.latency_us = number, quota, latency_us
        self.store = Store(_Writes(self))  # type: ignore[arg-type]
        self.starts: list[Begun] = []
        self.asked: set[int] = set()  # owners: the requests of joint calls
        self.granted: dict[int, set[int]] = {}  # the owners of grants, by slot
        self.flushed = self.void = False
        self.holds: list[list[int]] = []  # from when on all know of one, and until when
        self.life, self.lives = 0, dict[int, int]()  # how often it was reset, now and by epoch
        self.writer: Actor | None = None

    def counted(self, cost: Hits) -> Hits:
        """Return what a call costs here: the units that the limit counts."""
        return cost_of({unit: hits for unit, hits in items(cost) if unit in self.quota.units})


def _calls_in(cost: Hits) -> int:
    return hits_in(cost, CALLS)


class _Writes:
    """What a store needs of its world."""

    def __init__(self, limit: Shared) -> None:
        self.limit = limit

    def decode(self, value: bytes) -> LimitState:
        return decode(value)

    def wrote(self, state: LimitState, before: LimitState | None) -> None:
        limit = self.limit
        if state.epoch not in limit.lives and limit.writer:
            known = limit.writer.process.ledgers[limit.number].replica.snapshot  # type: ignore[attr-defined]
            limit.life += limit.writer.resets
            before_loss = limit.lives.get(known.state.epoch, 0) if known else 0
            limit.lives[state.epoch] = limit.life if limit.writer.resets else before_loss
        for grant in state.grants:
            self.limit.granted.setdefault(grant.slot, set()).add(grant.owner)


@dataclass
class Node:
    """A process: a clock, and a ledger and a line for each limit."""

    number: int
    clock: Clock
    ledgers: list[Ledger] = field(default_factory=list)
    lines: dict[tuple[int, int], _Line] = field(default_factory=dict)
    dead: bool = False
    frozen_until: int = 0
    busy_until: int = 0
    newcomer: bool = False
    actors: list[Actor] = field(default_factory=list)


class RecordedCall(JointCall):
    """A joint call; what it asks of the limits that do not lead is remembered."""

    world: JointWorld
    joint_limits: tuple[Shared, ...]

    def book(self, slot: Slot) -> QueueSteps[bool]:
        try:
            return (yield from super().book(slot))
        finally:
            for limit, part in zip(self.joint_limits, self.parts, strict=True):
                if part.request:
                    limit.asked.add(part.request.owner)


class JointWorld(World):
    """One schedule of a joint story, told with one seed."""

    story: JointStory

    def __init__(self, story: JointStory, seed: int) -> None:
        self.story, self.seed, self.random = story, seed, random.Random(seed)
        random.seed(seed)
        self.now = START_US
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.order, self.running = itertools.count(), []
        self.until = self.now + int(story.seconds * SECOND)
        self.shared = [
            Shared(self, index, quota, self.random.choice(story.away_us[index % len(story.away_us)]))
            for index, quota in enumerate(story.quotas)
        ]
        self.problems, self.outcomes = [], []
        # Of each group: when a call started, how long it waited, and its rounds.
        self.waits: dict[int, list[tuple[int, int, int]]] = {i: [] for i in range(len(story.groups))}
        self.waiting: Counter[int] = Counter()
        self.quiet: dict[int, int] = {}
        self.nodes = [self._node(n) for n in range(max(group.first + group.processes for group in story.groups))]
        for index, group in enumerate(story.groups):
            for node in self.nodes[group.first : group.first + group.processes]:
                for _ in range(group.callers if story.exact else self.random.randint(1, group.callers)):
                    self._comes(index, node)

    def _comes(self, index: int, node: Node) -> None:
        """Have a caller of a group begin in a process."""
        actor = Actor(self, node, self._calls(index, self.story.groups[index], node))  # type: ignore[arg-type]
        node.actors.append(actor)
        actor.later(self.random.randint(0, SECOND // 4))

    def _node(self, number: int) -> Node:
        node = Node(number, Clock(self, self.random.randint(-self.story.skew_us, self.story.skew_us) // 2))
        for limit in self.shared:
            mixed = self.story.mixed[limit.number : limit.number + 1]
            quota = self.random.choice((limit.quota, *mixed)) if mixed else limit.quota
            ledger = Ledger(store_of(limit.store, node.clock), "key", quota, node.clock)
            node.ledgers.append(ledger)
        return node

    def _line(self, node: Node, number: int, headroom: int) -> _Line:
        """Return the line of a process in one limit, for calls that leave so much free."""
        line = node.lines.get((number, headroom))
        if line is None:
            reporter, in_order = CallReporter(f"l{number}", Listeners()), self.story.tasks
            line = _Line(reporter, node.ledgers[number], Event, _set_all, in_order, headroom)
            line.world = self
            node.lines[number, headroom] = line
        return line

    def run(self) -> JointWorld:
        """Play the schedule."""
        draw, story = self.random, self.story
        for count, happen in (
            (story.flushes, self._flush_some),
            (story.kills, self._kill_some),
            (story.freezes, self._freeze_some),
            (story.cancels, lambda: draw.choice(draw.choice(self.nodes).actors or [_IDLE]).cancel()),
            (story.holds, self._hold_some),
            (story.resets, lambda: self._operate(draw.choice(self.shared), lambda ledger: ledger.reset(), resets=True)),
        ):
            for _ in range(draw.randint(0, count)):
                self.at(START_US + draw.randint(SECOND // 4, int(story.seconds * SECOND * 3 / 4)), happen)
        self.at(self.now, self._watch)
        ends = self.until + 60 * SECOND
        while self.events and self.now < ends:
            self.now, _, happen = heapq.heappop(self.events)
            happen()
        live = [node for node in self.nodes if not node.dead]
        self.problems += [f"stuck: p{n.number}" for n in live for actor in n.actors if not actor.done]
        self.problems += [
            f"stuck: a turn of p{n.number}" for n in live for line in n.lines.values() if turns_of(line).under_way
        ]
        for limit in self.shared:
            self._judge_limit(limit)
        if story.judged:
            for index, group in enumerate(story.groups):
                longest, share = max((wait for _, wait, _ in self.waits[index]), default=0), self.fair_share(group)
                if longest > 4 * share + 2 * SECOND and not group.headroom:
                    self.problems.append(
                        f"starved: a caller of {group.limits} waited {longest / 1e6:.1f} s of {share / 1e6:.1f}"
                    )
        return self

    def call(self, actor: Actor, effect: CacheCall) -> None:
        """Send a call to the cache of the limit that it is about."""
        limit = next(each for each in self.shared if each.store is effect.func.__self__)  # type: ignore[attr-defined]
        turn = actor.turn

        def take_effect() -> None:
            value, error, arrives = None, None, True
            if self.story.lost and self.random.random() < self.story.lost:
                arrives, error = self.random.random() < 0.5, CacheError("no answer")
            if arrives:
                newborn = actor.process.ledgers[limit.number].replica.snapshot is None  # type: ignore[attr-defined]
                newborn &= not actor.process.newcomer
                limit.writer = actor
                limit.void |= newborn and limit.flushed and not limit.store.items
                value = effect()
            delay = self._way(limit) if error is None else self.random.randint(5 * MS, 60 * MS)
            self.after(delay, lambda: actor.resume(turn, value, error))

        self.after(self._way(limit), take_effect)

    def _way(self, limit: Shared) -> int:
        return int(self.random.expovariate(1 / limit.latency_us)) + 20

    # Callers.

    def _calls(self, index: int, group: Group, node: Node) -> Generator[Any, Any, None]:
        lines = [self._line(node, number, group.headroom) for number in group.limits]
        limits = tuple(self.shared[number] for number in group.limits)
        story, draw = self.story, self.random
        while self.now < self.until:
            if group.phase is not None and (phase := (self.now - START_US) // (5 * SECOND)) % 2 != group.phase:
                yield Backoff(START_US + (phase + 1) * 5 * SECOND - self.now)
                continue
            cost, arrived = draw.choice(group.costs), self.now
            max_wait = story.max_wait if story.max_wait is not None and draw.random() < 0.5 else None
            self.waiting[index] += 1
            try:
                if len(lines) == 1:
                    slot, _ = yield from lines[0].acquire(limits[0].counted(cost), max_wait)
                    slots, rounds = [slot], 1
                else:
                    call = RecordedCall(lines, [limit.counted(cost) for limit in limits], max_wait)
                    call.world, call.joint_limits = self, limits
                    slots, _ = yield from call.steps()
                    rounds = call.rounds
                for limit, slot in zip(limits, slots, strict=True):
                    quota, source = node.ledgers[limit.number].quota, slot.source
                    if not node.newcomer:
                        life, serial = limit.lives.get(source.epoch, 0), source.grant.serial
                        cost_here = limit.counted(cost)
                        begun = Begun(self.now, cost_here, slot.at, group.headroom, quota, life, serial)
                        limit.starts.append(begun)
                    for key, each in enumerate(story.groups):
                        if limit.number in each.limits:
                            self.quiet[key] = self.now
                self.waits[index].append((self.now, self.now - arrived, rounds))
            except (Cancelled, NekkarError) as error:
                self.outcomes.append(error)
                yield Backoff(draw.randint(MS, 20 * MS))
            finally:
                self.waiting[index] -= 1
            if group.rest:
                yield Backoff(int(draw.expovariate(1 / group.rest) * SECOND))
            elif pause := draw.randint(0, MS) if story.exact or draw.random() < 0.7 else draw.randint(0, SECOND // 8):
                yield Backoff(pause)

    # Faults.

    def _flush_some(self) -> None:
        for limit in self.shared if self.random.random() < 0.5 else [self.random.choice(self.shared)]:
            limit.store.flush()
            limit.flushed = True
            for held in limit.holds:
                held[1] = min(held[1], self.now)  # perhaps nobody had read of it
        if self.story.newcomers:
            node = self._node(len(self.nodes))
            node.newcomer = True
            self.nodes.append(node)
            index = self.random.randrange(len(self.story.groups))
            self._comes(index, node)
        self.quiet = dict.fromkeys(self.quiet, self.now)

    def _kill_some(self) -> None:
        if sum(not node.dead for node in self.nodes) > 1:
            self.random.choice(self.nodes).dead = True

    def _freeze_some(self) -> None:
        node = self.random.choice(self.nodes)
        node.frozen_until = max(node.frozen_until, self.now + self.random.randint(MS, 2 * SECOND))

    def _operate(self, limit: Shared, steps: Callable[[Ledger], CacheSteps[None]], resets: bool = False) -> None:
        """Change the state of a limit in some process that is awake, as an operator's command does."""
        awake = [node for node in self.nodes if not node.dead and node.frozen_until <= self.now]
        if not awake or not limit.store.items:
            return
        node = self.random.choice(awake)

        def body() -> Generator[Any, Any, None]:
            try:
                yield RunSteps(steps(node.ledgers[limit.number]))
            except NekkarError:
                return
            for (number, _), line in node.lines.items():
                if number == limit.number:
                    line.look_soon()
            for held in limit.holds if resets else ():
                held[1] = min(held[1], self.now)
            self.quiet = dict.fromkeys(self.quiet, self.now)

        actor = Actor(self, node, body(), in_loop=False)  # type: ignore[arg-type]
        actor.resets = resets
        node.actors.append(actor)
        actor.later(0)

    def _hold_some(self) -> None:
        """Somebody holds a limit; then somebody releases it, before the hold is over."""
        limit = self.random.choice(self.shared)
        ends = self.now + self.random.randint(200 * MS, 2 * SECOND)

        def held(state: LimitState, now: int) -> LimitState:
            since = self.now + self._slack() - LOOK_EVERY_US
            limit.holds.append([since, ends])
            return with_hold(state, now + 60 * SECOND)

        def release() -> None:
            for hold in limit.holds:
                hold[1] = min(hold[1], self.now)
            self._operate(limit, lambda ledger: ledger.edit(lambda state, now: replace(state, hold_until=0)))

        self._operate(limit, lambda ledger: ledger.edit(held))
        self.at(ends, release)

    # What must hold.

    def _watch(self) -> None:
        """While each limit of a group has room for any who waits under it, somebody starts there soon."""
        frozen = any(not node.dead and node.frozen_until >= self.now for node in self.nodes)
        for index, group in enumerate(self.story.groups):
            cost = largest(cost for each in self.story.groups for cost in each.costs)
            able = self.waiting[index] and not any(node.dead for node in self.nodes)
            yields = any(self.waiting[i] for i, each in enumerate(self.story.groups) if each.headroom < group.headroom)
            has_room = all(self._has_room(self.shared[i], cost, group.headroom) for i in group.limits)
            if not able or frozen or yields or not has_room:
                self.quiet[index] = self.now
            quiet = self.now - self.quiet.setdefault(index, self.now)
            if quiet > self._slack():
                when = (self.now - START_US) / 1e3
                self.problems.append(f"silent: room, and {group.limits} wait, for {quiet / 1e6:.2f} s at {when:.1f} ms")
                self.quiet[index] = self.now
        if self.now < self.until or any(self.waiting.values()):
            self.after(20 * MS, self._watch)

    def _has_room(self, limit: Shared, cost: Hits, headroom: int) -> bool:
        state = limit.store.state()
        if state is None:
            return True
        kept = [place for place in state.places if place.is_kept and place.ready + state.horizon_us >= self.now]
        cost = sum((place.cost for place in kept), limit.counted(cost))  # what is kept is not free
        part = leaving(limit.quota, headroom)
        most = part.largest_cost
        cost = cost_of({unit: min(hits, hits_in(most, unit)) for unit, hits in items(cost)})
        is_free = earliest_slot(state.hits, part, state.margin_us, cost, self.now) <= self.now
        return is_free and state.hold_until <= self.now

    def _slack(self) -> int:
        horizon = max(ledger.latency.horizon_us for node in self.nodes for ledger in node.ledgers)
        disturbed = 500 * MS if self.story.lost or self.story.starved else 0
        return LOOK_EVERY_US + 2 * horizon + 24 * max(each.latency_us for each in self.shared) + 100 * MS + disturbed

    def _judge_limit(self, limit: Shared) -> None:
        starts = sorted(limit.starts, key=lambda start: (start.at, start.slot, start.serial))
        for life in {start.life for start in starts} if not limit.void else ():
            self._judge_windows(limit, [start for start in starts if start.life == life])
        for since, until in limit.holds:
            if through := sum(since < start.at < until for start in starts):
                self.problems.append(f"through a hold of limit {limit.number}: {through} starts")
        for last in (start for start in starts if start.headroom and not limit.void):
            for rate in leaving(limit.quota, last.headroom).rates:
                since = last.at - rate.period_us
                inside = [s for s in starts if since < s.at <= last.at and s.slot < last.slot]
                before = [s for s in inside if s.headroom or s.serial < last.serial]  # others may come between later
                hits = sum(hits_in(start.cost, rate.unit) for start in (*before, last))
                if hits > rate.count and not limit.flushed:
                    self.problems.append(f"headroom: limit {limit.number}, {hits} of {rate.count}")
        state = limit.store.state()
        if self.story.leaks and state:
            unused = Counter({at: n for at, n in state.hits.entries() if limit.granted.get(at, {0}) <= limit.asked})
            for start in limit.starts:
                unused[start.slot] -= hits_in(start.cost, CALLS)
            if leaked := sum((+unused).values()):
                self.problems.append(f"leaked: limit {limit.number}, {leaked} hits that nobody used")

    def _judge_windows(self, limit: Shared, starts: list[Begun]) -> None:
        """No more than N hits in any window that ends with a start, by the terms of that start; slots are spaced."""
        for index, start in enumerate(starts):
            for rate in start.quota.rates:
                inside, i = 0, index
                while i >= 0 and starts[i].at > start.at - rate.period_us:
                    # Under other terms those behind may start at the same instant: by the order of slots, then.
                    if not self.story.mixed or (starts[i].slot, starts[i].serial) <= (start.slot, start.serial):
                        inside += hits_in(starts[i].cost, rate.unit)
                    i -= 1
                if inside > rate.count:
                    when = (start.at - START_US) / 1e3
                    self.problems.append(f"over: limit {limit.number}, {inside} of {rate.count} at {when:.1f} ms")
        spacing = limit.quota.spacing_us
        slots = sorted(start.slot for start in starts) if spacing else []
        if close := [after - before for before, after in pairwise(slots) if after < before + spacing]:
            self.problems.append(f"close: limit {limit.number}, slots {min(close) / MS:.1f} ms apart")

    def fair_share(self, group: Group) -> int:
        """Return how long a round over all callers of the tightest limit takes (µs)."""

        def round_of(number: int) -> float:
            groups = [each for each in self.story.groups if number in each.limits]
            cost = sum(
                each.processes * each.callers * sum(map(_calls_in, each.costs)) / len(each.costs) for each in groups
            )
            quota = self.shared[number].quota
            return max(max(r.period_us, cost * (r.period_us + quota.margin_us) / r.count) for r in quota.rates)

        return int(max(map(round_of, group.limits)))


class _Idle:
    def cancel(self) -> None:
        """Nobody to cancel."""


_IDLE: Any = _Idle()
