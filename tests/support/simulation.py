"""A world in one thread: processes, a cache and time, all simulated, in random schedules.

Callers run the real generators of the wait queue and ledger; the world performs their effects. A cache call takes
effect at one instant between being sent and being answered. Answers get lost, processes are killed and frozen, callers
cancelled, limits held, released and reset, the cache flushed; clocks stand some milliseconds apart. One seed is one
schedule. ``World.run().problems`` tells what broke, at true times: a window that was over, room that stayed empty while
somebody waited, a caller overtaken too often, hits granted to the dead, a start through a hold, a caller left behind.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable, Generator
from copy import copy, deepcopy
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple
from unittest.mock import patch

from nekkar.core.cache import BaseCache, MemoryCache
from nekkar.core.errors import CacheError, NekkarError
from tests.support.internals.core import (
    CALLS,
    SECOND,
    Hits,
    Listeners,
    Quota,
    as_mapping,
    cost_of,
    hits_in,
    items,
    largest,
    quota,
)
from tests.support.internals.runtime import Backoff, CacheCall, Checkpoint, RunSteps, WaitUntil
from tests.support.internals.shared import Fallback, Ledger, Outage, store_of
from tests.support.internals.shared import fallback as fallback_module
from tests.support.internals.shared import ledger as ledger_module
from tests.support.internals.shared import replica as replica_module
from tests.support.internals.waiting import CallReporter, Slot, WaitQueue, assignments_of, turns_of
from tests.support.internals.window import (
    MOST_CREDIT,
    Feedback,
    LimitState,
    Settlement,
    apply_feedback,
    decode,
    earliest_slot,
    with_hold,
)

MS = SECOND // 1000
START_US = 1_700_000_000 * SECOND
LOOK_EVERY_US = SECOND


class Cancelled(BaseException):
    """Thrown into a caller: a cancellation, or a Ctrl-C."""


@dataclass(frozen=True)
class Story:
    """What may happen in a schedule: each number is a chance, or a bound that the schedule draws below.

    ``limits``: the processes draw one each, as text or as a Quota; none: a small random one for all. ``tasks``: cache
    calls run in threads of their own, which a cancellation does not reach. ``loop``: the callers of a process start one
    after another, with so long (µs) of work each. ``busy``: callers call again at once. ``call_us``: how long calls
    take, on average. ``exact``: as many callers as said, and nothing between calls but ``call_us``. ``rests``: after so
    many calls of a process, on average, a caller rests for so long (µs). ``newcomers``: with each flush a process comes
    that had seen nothing. ``joins``: processes that come later. ``versions``: the cache has but four methods.
    ``refusals``: the chance that a call is refused. ``fair``: overtaking is judged. ``outages``: times at which
    the cache is away for all for one or two periods, and each process goes on with a share; ``flaps``: times at which
    it is away for all for less than a period; ``cuts``: those at which it is away for one process. ``margins_us``:
    each process draws its margin; ``spacings_us``: its spacing; ``ways_us``: how long its commands are on their way.
    ``lines``: those of each process, on one ledger. ``forks``: processes that fork. ``pairs``: flushes, each with
    another one soon after. ``arrivals``: processes that come shortly before the first flush, and see the state
    before their first call. ``stalls``: the chance that a command of a process that knows the state takes effect up to
    two periods late. ``idle``: the chance that a caller rests, for ``idle_periods``. ``tokens``: what calls reserve in
    that unit; they last for ``lasts_us`` on average, and then settle, with the chance ``settles``, to what they used:
    between ``uses`` of it. ``far_us``: the way of the first process to the cache, always the same, where it
    is farther away than the others.
    """

    limits: tuple[str | Quota, ...] = ()
    processes: int = 3
    callers: int = 3
    costs: tuple[int, ...] = (1,)
    latency_us: tuple[int, ...] = (MS // 5, 3 * MS, 30 * MS)
    flushes: int = 0
    kills: int = 0
    freezes: int = 0
    cancels: int = 0
    joins: int = 0
    holds: int = 0
    resets: int = 0
    newcomers: bool = False
    lost: float = 0.0
    starved: float = 0.0
    skew_us: int = 0
    max_wait: float | None = None
    tasks: bool = False
    loop_us: int = 0
    busy: bool = False
    call_us: int = 0
    exact: bool = False
    rests: tuple[int, int] = (0, 0)
    periods: int = 4
    versions: bool = False
    refusals: float = 0.0
    fair: bool = False
    outages: int = 0
    flaps: int = 0
    cuts: int = 0
    margins_us: tuple[int, ...] = ()
    spacings_us: tuple[int, ...] = ()
    ways_us: tuple[int, ...] = ()
    lines: int = 1
    forks: int = 0
    pairs: int = 0
    arrivals: int = 0
    stalls: float = 0.0
    idle: float = 0.0
    idle_periods: tuple[int, int] = (0, 1)
    tokens: tuple[int, ...] = ()
    lasts_us: int = 200 * MS
    settles: float = 0.9
    uses: tuple[float, float] = (0.0, 1.0)
    far_us: int = 0

    @property
    def goes_on_alone(self) -> bool:
        """Whether processes go on with their share while they can't reach the cache."""
        return bool(self.outages or self.flaps or self.cuts)


class Contents:
    """A cache's state, and what the world hears of it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.items: dict[str, Any] = {}
        self.lost_swaps = self.reads = self.commands = 0

    def flush(self) -> None:
        self.items.clear()

    def state(self) -> LimitState | None:
        """Return what the cache holds now; None where it holds nothing, or can't be looked into."""
        return None


class PlainStore(Contents, BaseCache):
    """A cache with the four methods alone."""

    def add(self, key: str, value: str) -> bool:
        self.lost_swaps += key in self.items
        return self.items.setdefault(key, value) is value

    def get(self, key: str) -> str | None:
        self.reads += 1
        return self.items.get(key)

    def set(self, key: str, value: str) -> None:
        self.items[key] = value

    def delete(self, key: str) -> None:
        self.items.pop(key, None)


class Store(Contents):
    """A cache that swaps by itself."""

    in_process = False
    versions = 0
    known: LimitState | None = None

    def gets(self, key: str) -> tuple[bytes | None, int | None]:
        self.reads += 1
        self.commands += 1
        found: tuple[bytes | None, int | None] = self.items.get(key, (None, None))
        return found

    def cas(self, key: str, value: bytes, token: int | None, ttl: int) -> int | None:
        self.commands += 1
        before, version = self.items.get(key, (None, None))
        if version != token:
            self.lost_swaps += 1
            return None
        self.versions += 1
        self.items[key] = (value, self.versions)
        known, self.known = self.known if before else None, self.world.decode(value)
        self.world.wrote(self.known, known)
        return self.versions

    def state(self) -> LimitState | None:
        return self.known if self.items else None


@dataclass
class Clock:
    """The world's time, off by a constant."""

    world: World
    skew_us: int = 0

    def now_us(self) -> int:
        return self.world.now + self.skew_us

    def sleep_until(self, at_us: int | None, wake: Any) -> None:
        raise AssertionError("the world performs all sleeps")

    async def sleep_until_async(self, at_us: int | None, wake: Any) -> None:
        raise AssertionError("the world performs all sleeps")


class Event:
    """Wakes the actor that waits on it, a moment after it was set."""

    def __init__(self) -> None:
        self.is_set = False
        self.waiter: Callable[[], None] | None = None

    def set(self) -> None:
        self.is_set = True
        if self.waiter:
            self.waiter()


@dataclass
class Process:
    """A process: its clock, its ledger, its line, and whether it runs."""

    number: int
    quota: Quota
    clock: Clock
    ledger: Ledger
    line: WaitQueue
    fallback: Fallback | None = None
    newcomer: bool = False
    way_us: int = 0
    dead: bool = False
    frozen_until: int = 0
    cut_until: int = 0
    busy_until: int = 0  # of its event loop
    overtaken: int = 0
    actors: list[Actor] = field(default_factory=list)

    @property
    def owner(self) -> int:
        return assignments_of(self.line).owner

    @property
    def waiting(self) -> list[Any]:
        """The callers without a slot."""
        return list(assignments_of(self.line).queue)


class Start(NamedTuple):
    """A call that started: when, its hits, by which quota, in which life of the limit, in which order of slots."""

    at: int
    cost: Hits
    quota: Quota
    life: int
    order: tuple[int, int]
    process: Process
    is_alone: bool = False

    @property
    def calls(self) -> int:
        """The hits that count calls."""
        return hits_in(self.cost, CALLS)


class Actor:
    """One thread or task of a process: a generator, and below it the steps that it runs in its own thread."""

    def __init__(self, world: World, process: Process, body: Generator[Any, Any, Any], in_loop: bool = True) -> None:
        self.world, self.process = world, process
        self.stack = [body]
        self.turn = 0
        self.done = False
        self.shielded = False
        self.in_loop = in_loop
        self.resets = self.ends_holds = False
        self.finish: Callable[[Any, BaseException | None], None] | None = None

    def later(self, delay_us: int, value: Any = None, error: BaseException | None = None) -> None:
        """Go on after a while, unless something else made this actor go on first."""
        turn = self.turn
        self.world.after(delay_us, lambda: self.resume(turn, value, error))

    def resume(self, turn: int, value: Any, error: BaseException | None) -> None:
        if self.done or turn != self.turn or self.process.dead:
            return
        until = max(self.process.frozen_until, self.process.busy_until if self.in_loop else 0)
        if self.world.now < until:
            self.world.at(until, lambda: self.resume(turn, value, error))
            return
        self.turn += 1
        self.advance(value, error)

    def advance(self, value: Any, error: BaseException | None) -> None:
        top = self.stack[-1]
        self.world.running.append(self)
        try:
            effect = top.throw(error) if error else top.send(value)
        except StopIteration as stop:
            self.returned(stop.value, None)
        except (Cancelled, NekkarError) as raised:
            self.returned(None, raised)
        else:
            self.perform(effect)
        finally:
            self.world.running.pop()

    def returned(self, value: Any, error: BaseException | None) -> None:
        self.stack.pop()
        self.shielded = False
        if self.stack:
            self.advance(value, error)
            return
        self.done = True
        if self.finish:
            self.finish(value, error)

    def perform(self, effect: Any) -> None:
        if isinstance(effect, CacheCall):
            self.world.call(self, effect)
        elif isinstance(effect, Backoff):
            self.later(effect.us + self.world.jitter())
        elif isinstance(effect, WaitUntil):
            self.wait(effect)
        elif isinstance(effect, Checkpoint):
            self.later(0)
        elif self.world.story.tasks:
            self.in_thread(effect)
        else:
            self.shielded = effect.shielded
            self.stack.append(effect.steps)
            self.advance(None, None)

    def wait(self, effect: WaitUntil) -> None:
        event = effect.event
        assert isinstance(event, Event)
        turn = self.turn
        event.waiter = lambda: self.world.after(self.world.jitter(), lambda: self.resume(turn, None, None))
        if event.is_set:
            self.later(0)
        ends = [] if effect.until_us is None else [effect.until_us - self.process.clock.skew_us - self.world.now]
        if effect.is_watchful or not self.world.story.tasks:
            ends.append(SECOND)
        if ends and not event.is_set:
            self.later(max(0, min(ends)) + self.world.jitter())

    def in_thread(self, effect: RunSteps) -> None:
        """Run the steps in a thread of their own, as tasks do: they go on even where this actor is cancelled."""
        self.shielded = effect.shielded
        thread = Actor(self.world, self.process, effect.steps, in_loop=False)
        thread.resets, thread.ends_holds = self.resets, self.ends_holds
        turn = self.turn
        thread.finish = lambda value, error: self.world.after(0, lambda: self.resume(turn, value, error))
        thread.later(self.world.jitter() // 4)

    def cancel(self) -> None:
        """Throw a cancellation in, wherever the actor is."""
        if self.done or self.process.dead or self.world.now < self.process.frozen_until or self.shielded:
            return
        self.turn += 1
        self.advance(None, Cancelled())


class World:
    """One schedule: a story told with one seed."""

    def __init__(self, story: Story, seed: int) -> None:
        self.story, self.seed, self.random = story, seed, random.Random(seed)
        self.decode: Callable[[bytes], LimitState] = decode
        random.seed(seed)  # the ledger's pauses
        self.now = START_US
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.running: list[Actor] = []
        self.store: Store | PlainStore = PlainStore(self) if story.versions else Store(self)
        self.flushed = self.void = False
        self.lives: dict[int, int] = {}  # of epochs: how often the limit had been reset
        self.life = 0
        self.latency_us = self.random.choice(story.latency_us)
        self.limits = [self._quota(limit) for limit in story.limits] or [self._small()]
        self.period_us = max(rate.period_us for limit in self.limits for rate in limit.rates)
        self.until = self.now + story.periods * self.period_us
        self.starts: list[Start] = []
        self.used: dict[int, tuple[int, Hits]] = {}  # by number of the start: since when it is settled, and to what
        self.outcomes: list[BaseException] = []
        self.bounded_waits: list[int] = []
        self.pauses: list[tuple[int, int]] = []
        self.held: list[list[int]] = []
        self.problems: list[str] = []
        self.held_at = self.quiet_since = self.now
        self.away_until, self.flush_at = self.now, 0
        self.lost_at: list[int] = []  # when the cache went away for all
        self.longest_quiet = self.prefetched = self.late = self.most_bytes = 0
        self.to_dead: Counter[int] = Counter()  # hits granted to owners after their death, by others
        self.processes: list[Process] = []
        self.by_owner: dict[int, Process] = {}
        for index in range(story.processes):
            first = self.joins(self.limits[index % len(self.limits)])
            for _ in range(story.lines - 1):
                self.joins(first.quota, beside=first)

    @property
    def lost_swaps(self) -> int:
        """How many swaps lost to another writer."""
        return self.store.lost_swaps

    def run(self) -> World:
        """Play the schedule. In seven of eight a value is a key of a table, which takes less time than its bytes."""
        table: dict[bytes, LimitState] = {}

        def put(state: LimitState) -> bytes:
            key = len(table).to_bytes(4, "big")
            table[key] = state
            return key

        if self.seed % 8 == 0:
            return self._run()
        with (
            patch.object(ledger_module, "encode", put),
            patch.object(replica_module, "decode", lambda raw, _: table[raw]),
            patch.object(fallback_module, "encode", put),
        ):
            self.decode = table.__getitem__
            return self._run()

    def _run(self) -> World:
        self._faults()
        self.at(self.now, self._watch)
        ends = self.until + 60 * self.period_us + 60 * SECOND
        while self.events and self.now < ends:
            self.now, _, happen = heapq.heappop(self.events)
            happen()
        self.problems += [f"stuck: {what}" for what in self.stuck()]
        if not self.void:
            self._judge()
        return self

    def over(self, since: int = 0) -> int:
        """Return by how many hits the worst window of any rate was over, newcomers' hits aside, of starts ``since``."""
        known = [
            (start.at, hits_in(start.cost, CALLS))
            for start in self.starts
            if not start.process.newcomer and start.at >= since
        ]
        rates = {rate for limit in self.limits for rate in limit.rates}
        return max(_worst(known, rate.period_us) - rate.count for rate in rates)

    def over_shares(self) -> int:
        """Return by how much the worst window was over the limit and the shares of those that went on alone in it."""
        (rate,) = self.limits[0].rates
        share, most = rate.count // self.story.processes, -rate.count
        for last in self.starts:
            inside = [start for start in self.starts if last.at - rate.period_us < start.at <= last.at]
            alone = len({start.process.number for start in inside if start.is_alone})
            most = max(most, sum(hits_in(start.cost, CALLS) for start in inside) - rate.count - share * alone)
        return most

    def over_own_share(self) -> int:
        """Return by how much one process that went on alone exceeded its share in the worst window."""
        (rate,) = self.limits[0].rates
        own = [[s for s in self.starts if s.is_alone and s.process is each] for each in self.processes]
        alone = [[(start.at, hits_in(start.cost, CALLS)) for start in starts] for starts in own]
        return max(_worst(starts, rate.period_us) for starts in alone) - rate.count // self.story.processes

    def stuck(self) -> list[str]:
        """Return what is left undone, once nothing more will happen."""
        live = [process for process in self.processes if not process.dead]
        found = [f"an actor of p{process.number}" for process in live for actor in process.actors if not actor.done]
        found += [f"{process.line.waiting} of p{process.number} in line" for process in live if process.line.waiting]
        return found + [
            f"a turn of p{process.number} under way" for process in live if turns_of(process.line).under_way
        ]

    # What actors ask of the world.

    def at(self, instant: int, happen: Callable[[], None]) -> None:
        heapq.heappush(self.events, (max(instant, self.now), next(self.order), happen))

    def after(self, delay_us: int, happen: Callable[[], None]) -> None:
        self.at(self.now + delay_us, happen)

    def jitter(self) -> int:
        """Return how late a thread wakes: mostly little, and now and then starved."""
        if self.story.starved and self.random.random() < self.story.starved:
            return self.random.randint(0, 150 * MS)
        return self.random.randint(0, MS // 2)

    def latency(self, process: Process) -> int:
        """Return how long a command of a process, or its answer, is on its way."""
        if self.story.far_us and process is self.processes[0]:
            return self.story.far_us
        return int(self.random.expovariate(1 / (process.way_us or self.latency_us))) + 20

    def call(self, actor: Actor, effect: CacheCall) -> None:
        """Send a call: it takes effect later, its answer comes later still, or never."""
        if isinstance(getattr(effect.func, "__self__", None), MemoryCache):  # of a process that goes on alone
            actor.later(0, effect())
            return
        sent, turn = self.latency(actor.process), actor.turn
        if self.story.stalls and actor.process.ledger.replica.snapshot and self.random.random() < self.story.stalls:
            sent += self.random.randint(50 * MS, 2 * self.period_us)

        def take_effect() -> None:
            value, error, arrives = None, None, True
            if self.now < max(self.away_until, actor.process.cut_until):
                arrives, error = False, CacheError("away")
            elif self.story.lost and self.random.random() < self.story.lost:
                arrives, error = self.random.random() < 0.5, CacheError("no answer")
            if arrives:
                newborn = actor.process.ledger.replica.snapshot is None and not actor.process.newcomer
                self.void |= newborn and self.flushed and not self.store.items
                self.running.append(actor)
                value = effect()
                self.running.pop()
            delay = self.latency(actor.process) if error is None else self.random.randint(5 * MS, 60 * MS)
            self.after(delay, lambda: actor.resume(turn, value, error))

        self.after(sent, take_effect)

    def wrote(self, state: LimitState, before: LimitState | None) -> None:
        """Note what a swap that won has written."""
        writer = self.running[-1].process
        for held in self.held if self.running[-1].ends_holds else ():
            held[1] = min(held[1], self.now)  # a release may land after the next hold
        if state.epoch not in self.lives:
            known = writer.ledger.replica.snapshot
            is_reset = self.running[-1].resets
            self.life += is_reset
            self.lives[state.epoch] = self.life if is_reset else self.lives.get(known.state.epoch, 0) if known else 0
        self.most_bytes = max(self.most_bytes, len(self.store.items["key"][0]))
        serial = before.serial if before and before.epoch == state.epoch else 0
        for grant in state.grants:
            owner = self.by_owner.get(grant.owner)
            if owner and owner.dead and grant.serial > serial and owner is not writer:
                self.to_dead[owner.number] += hits_in(grant.cost, CALLS)

    # The story.

    def _quota(self, limit: str | Quota) -> Quota:
        return limit if isinstance(limit, Quota) else quota(limit)

    def _small(self) -> Quota:
        return quota(self.random.randint(2, 9), self.random.choice((0.3, 0.5, 1.0)))

    def joins(self, limit: Quota, newcomer: bool = False, beside: Process | None = None) -> Process:
        """Start a process; ``beside``: the line that comes is another one of that process, on the same ledger."""
        number = len(self.processes) + 1
        if beside:
            clock, ledger, way_us = beside.clock, beside.ledger, beside.way_us
        else:
            clock = Clock(self, self.random.randint(-self.story.skew_us, self.story.skew_us) // 2)
            limit, way_us = self._drawn(limit)
            ledger = Ledger(store_of(self.store, clock), "key", limit, clock)
        alone = Fallback(ledger, Outage("local", 1 / self.story.processes)) if self.story.goes_on_alone else None
        reporter = CallReporter(f"p{number}", Listeners())
        line = _Line(reporter, alone or ledger, Event, _set_all, in_order=self.story.tasks)
        line.world = self
        process = Process(number, limit, clock, ledger, line, alone, newcomer, way_us)
        self.processes.append(process)
        self.by_owner[process.owner] = process
        story = self.story
        for _ in range(story.callers if story.exact else self.random.randint(1, story.callers)):
            actor = Actor(self, process, self._caller(process))
            process.actors.append(actor)
            actor.later(self.random.randint(0, self.period_us // 4))
        return process

    def _drawn(self, limit: Quota) -> tuple[Quota, int]:
        """Return what a process draws: its terms, and its way to the cache (0: as all)."""
        draw, story = self.random, self.story
        if story.margins_us:
            limit = replace(limit, margin_us=draw.choice(story.margins_us))
        if story.spacings_us:
            limit = replace(limit, spacing_us=draw.choice(story.spacings_us))
        return limit, draw.choice(story.ways_us) if story.ways_us else 0

    def _caller(self, process: Process) -> Generator[Any, Any, None]:
        """Call again and again until the story ends."""
        story, line = self.story, process.line
        while self.now < self.until:
            cost: Hits = min(self.random.choice(story.costs), process.quota.most("calls"))
            if story.tokens:
                costs = {CALLS: hits_in(cost, CALLS), "tokens": self.random.choice(story.tokens)}
                cost = cost_of({unit: costs[unit] for unit in process.quota.units})
            max_wait = story.max_wait if story.max_wait is not None and self.random.random() < 0.5 else None
            arrived = self.now
            try:
                slot = line.prefetched.take() if cost == 1 else None
                self.prefetched += slot is not None
                if slot is None:
                    slot, _ = yield from line.acquire(cost, max_wait)
                self.record_start(process, slot)
                if story.tokens:
                    yield from self._settles(process, slot, len(self.starts) - 1)
                if story.refusals and self.random.random() < story.refusals:
                    yield from self._refused(process)
            except (Cancelled, NekkarError) as error:
                self.outcomes.append(error)
                yield Backoff(self.random.randint(MS, 20 * MS))
            if max_wait is not None:
                self.bounded_waits.append(self.now - arrived)
            if story.idle and self.random.random() < story.idle:
                least, most = story.idle_periods
                yield Backoff(self.random.randint(least * self.period_us, most * self.period_us))
            elif pause := self._pause():
                yield Backoff(pause)

    def _pause(self) -> int:
        """Return how long a caller stays away between two calls."""
        story, draw = self.story, self.random
        if story.exact or story.call_us:
            spread = draw.uniform(0.1, 1.9) if story.call_us >= 100 * MS else draw.uniform(0.8, 1.2)
            pause = int(story.call_us * spread)
            return pause + (story.rests[1] if story.rests[0] and draw.random() < 1 / story.rests[0] else 0)
        if story.busy:
            return draw.randint(0, MS)
        return draw.randint(0, self.period_us // 8) if draw.random() < 0.3 else 0

    def record_start(self, process: Process, slot: Any) -> None:
        grant = slot.source
        life = self.lives.get(grant.epoch, 0)
        order = (slot.at, grant.grant.serial)
        is_alone = process.fallback is not None and process.fallback.is_on
        self.starts.append(Start(self.now, slot.cost, process.quota, life, order, process, is_alone))
        self.quiet_since = self.now
        for other in self.processes:
            other.overtaken += 1
        process.overtaken = 0
        if self.story.loop_us:
            process.busy_until = self.now + self.story.loop_us

    def _settles(self, process: Process, slot: Slot, number: int) -> Generator[Any, Any, None]:
        """Last for a while, and settle to what was used; now and then the call fails, and used nothing."""
        story, draw = self.story, self.random
        yield Backoff(int(story.lasts_us * draw.uniform(0.1, 1.9)))
        if draw.random() >= story.settles:
            return
        used = {unit: int(hits * draw.uniform(*story.uses)) for unit, hits in items(slot.cost) if unit != CALLS}
        if not used or draw.random() < 0.1:
            used = {unit: 0 for unit, _ in items(slot.cost)}
        self.used[number] = (self.now, cost_of(as_mapping(slot.cost) | used))
        changes = tuple((unit, hits - hits_in(slot.cost, unit)) for unit, hits in used.items())
        yield from process.line.settle(Settlement(slot.source.epoch, slot.at, changes))

    def _cost(self, number: int, now: int) -> Hits:
        """Return what a call that started costs, as it was settled by then."""
        since, used = self.used.get(number, (now, self.starts[number].cost))
        return used if since <= now else self.starts[number].cost

    def _refused(self, process: Process) -> Generator[Any, Any, None]:
        """Hear of a refusal, and remember from when on all can know of the pause, and its end."""
        sent_at, pause = process.clock.now_us(), self.random.choice((None, self.random.randint(0, self.period_us)))
        yield Backoff(self.latency(process))
        feedback = Feedback(sent_at, SECOND, is_refusal=True, pause_us=pause)
        yield RunSteps(process.ledger.edit(lambda state, now: apply_feedback(state, process.quota, feedback, now)))
        process.line.look_soon()
        known = process.ledger.state
        self.pauses += [(self.now, known.hold_until)] if known else []

    def _faults(self) -> None:
        draw, story = self.random, self.story
        for count, least, happen in (
            (story.flushes, self.period_us // 2, self._flush),
            (story.kills, 0, lambda: self._kill(draw.choice(self.processes))),
            (story.freezes, 0, lambda: self._freeze(draw.choice(self.processes))),
            (story.cancels, 0, lambda: draw.choice(draw.choice(self.processes).actors).cancel()),
            (story.joins, 0, self._join),
            (story.holds, 0, self._hold),
            (story.resets, 0, self._reset),
        ):
            for _ in range(draw.randint(0, count)):
                instant = START_US + draw.randint(least, (story.periods - 1) * self.period_us)
                self.at(instant, happen)
                if happen == self._flush:
                    self.flush_at = min(self.flush_at or instant, instant)

        for happen, count, least in (
            (self._lose_cache, story.outages, self.period_us // 2),
            (self._flap, story.flaps, 0),
            (self._cut, story.cuts, 0),
        ):
            for _ in range(count):
                self.at(START_US + draw.randint(least, (story.periods - 1) * self.period_us), happen)
        for happen, count in ((self._fork, story.forks), (self._flush_twice, story.pairs)):
            for _ in range(draw.randint(0, count) if count else 0):
                self.at(START_US + draw.randint(self.period_us // 4, (story.periods - 1) * self.period_us), happen)
        for _ in range(story.arrivals if self.flush_at else 0):
            self.at(self.flush_at - draw.randint(0, self.period_us // 2), self._arrive)

    def _lose_cache(self) -> None:
        self.away_until = self.now + self.random.randint(5 * self.period_us // 4, 2 * self.period_us)
        self.lost_at.append(self.now)

    def _flap(self) -> None:
        self.away_until = max(self.away_until, self.now + self.random.randint(MS, self.period_us))

    def _cut(self) -> None:
        process = self.random.choice(self.processes)
        process.cut_until = self.now + self.random.randint(self.period_us // 2, 3 * self.period_us)

    def _arrive(self) -> None:
        """Start a process that looks at the state before its first call, so that it learns of a loss after that."""
        process = self.joins(self.random.choice(self.limits))
        look = Actor(self, process, process.ledger.peek(), in_loop=False)
        process.actors.append(look)
        look.later(0)
        if self.random.random() < 0.5:
            self.after(self.random.randint(0, self.period_us // 4), lambda: self._freeze(process))

    def _flush(self) -> None:
        self.store.flush()
        self.flushed, self.quiet_since = True, self.now  # each loss is found within the bound
        for held in self.held:
            held[1] = min(held[1], self.now)  # perhaps nobody had read of it
        if self.story.newcomers:
            self.joins(self.limits[0], newcomer=True)

    def _flush_twice(self) -> None:
        self._flush()
        longest = self.random.choice((5 * MS, 200 * MS, self.period_us))
        self.after(self.random.randint(0, longest), self._flush)

    def _fork(self) -> None:
        """A process forks: the child knows what its parent knew, and has a line of its own, without its callers."""
        awake = [each for each in self.processes if not (each.dead or each.newcomer) and each.frozen_until <= self.now]
        if not awake:
            return
        parent = self.random.choice(awake)
        ledger = copy(parent.ledger)
        ledger.replica, ledger.latency = copy(parent.ledger.replica), deepcopy(parent.ledger.latency)
        self.joins(parent.quota, beside=replace(parent, ledger=ledger))

    def _join(self) -> None:
        self.joins(self.random.choice(self.limits))

    def _kill(self, process: Process) -> None:
        if sum(not other.dead for other in self.processes) > 1:
            process.dead = True

    def _freeze(self, process: Process) -> None:
        process.frozen_until = max(process.frozen_until, self.now + self.random.randint(MS, 2 * self.period_us))

    def _operator(
        self, steps: Callable[[Process], Any], then: Callable[[], None], resets: bool = False, ends_holds: bool = False
    ) -> None:
        """Run steps in some process that is awake, as an operator's command does; then do what follows."""
        awake = [each for each in self.processes if not each.dead and each.frozen_until <= self.now]
        if not awake or not self.store.items:
            return
        process = self.random.choice(awake)

        def body() -> Generator[Any, Any, None]:
            try:
                yield RunSteps(steps(process))
            except NekkarError:
                return
            process.line.look_soon()
            then()

        actor = Actor(self, process, body())
        actor.resets, actor.ends_holds = resets, ends_holds or resets
        process.actors.append(actor)
        actor.later(0)

    def _hold(self) -> None:
        """Somebody holds the limit; then somebody releases it, before the hold is over: within a second all goes on."""
        ends = self.now + self.random.randint(100 * MS, 5 * SECOND)

        def began() -> None:
            self.held_at = self.now
            state = self.store.state()
            if state is None or state.hold_until <= self.now:
                return  # a flush or a reset came before the answer
            horizon = max(process.ledger.latency.horizon_us for process in self.processes)
            self.held.append([self.now, ends, horizon + 160 * MS])

        self._operator(lambda process: process.ledger.edit(lambda s, now: with_hold(s, now + 60 * SECOND)), began)
        self.at(ends, self._release)

    def _release(self) -> None:
        for held in self.held:
            held[1] = min(held[1], self.now)
        self._operator(
            lambda process: process.ledger.edit(_released), lambda: self._expect_all("release"), ends_holds=True
        )

    def _reset(self) -> None:
        self.held_at = self.now  # what was expected of a release before means nothing now
        self._operator(lambda process: process.ledger.reset(), lambda: self._expect_all("reset"), resets=True)

    def _expect_all(self, what: str) -> None:
        """Whoever waits now, and fits into the window with all that do, starts within a look and the slack."""
        heads = [(each, each.waiting[0]) for each in self.processes if each.waiting and not each.dead]
        state = self.store.state()
        if len(self.limits) > 1 or state is None or state.hold_until > self.now:  # another hold came before the answer
            return
        limit, cost = self.limits[0], sum((head.cost for _, head in heads), cost_of({}))
        if limit.admits(cost) and earliest_slot(state.hits, limit, state.margin_us, cost, self.now) == self.now:
            since = self.now
            self.after(self._slack(), lambda: self._check_all(what, heads, since))

    def _check_all(self, what: str, heads: list[tuple[Process, Any]], since: int) -> None:
        state = self.store.state()
        for process, head in heads:
            undisturbed = not process.dead and process.frozen_until < since
            if undisturbed and head in process.waiting and self.held_at <= since and not self.flushed and state:
                if state.hits.count_since(since - 1) >= self.limits[0].most("calls") - max(self.story.costs) + 1:
                    continue  # all of the room is used: by others, that looked first
                self.problems.append(f"{what}: p{process.number} still waits after {(self.now - since) / 1e6:.2f} s")

    # What must hold.

    def _slack(self) -> int:
        """How long room may stay empty while somebody waits: a look each second, two horizons, some answers."""
        horizon = max(process.ledger.latency.horizon_us for process in self.processes)
        state = self.store.state()
        horizon = max(horizon, state.horizon_us if state else 0)
        way = max(self.latency_us, *(process.way_us for process in self.processes))
        disturbed = 300 * MS if self.story.lost or self.story.starved else 0
        disturbed += 8 * self.period_us if self.story.stalls else 0  # of one command after another
        return LOOK_EVERY_US + 2 * horizon + 12 * way + 100 * MS + disturbed

    def _watch(self) -> None:
        """Now and then: while the log has room for any that waits and is not frozen, somebody starts soon."""
        if not isinstance(self.store, Store) or self.story.goes_on_alone:
            return
        able = [p for p in self.processes if p.line.waiting and not p.dead and p.frozen_until < self.now]
        state = self.store.state()
        is_free = bool(able)
        if able and state is not None:
            # A place whose owner died keeps its turn until it lapses.
            cost = largest([one.cost for p in able for one in p.waiting] + [place.cost for place in state.places])
            is_free = state.hold_until <= self.now and all(
                earliest_slot(state.hits, p.quota, state.margin(p.quota, self.now), _at_most(cost, p.quota), self.now)
                <= self.now
                for p in able
            )
        if not is_free or any(p.frozen_until >= self.now for p in self.processes if not p.dead):
            self.quiet_since = self.now
        self.longest_quiet = max(self.longest_quiet, self.now - self.quiet_since)
        if self.now - self.quiet_since > self._slack():
            quiet = (self.now - self.quiet_since) / 1e6
            self.problems.append(f"silent: room, and {len(able)} wait, for {quiet:.2f} s at {self._ms(self.now)} ms")
            self.quiet_since = self.now
        most = max(limit.most("calls") for limit in self.limits)
        for p in self.processes:
            if p.dead or not p.line.waiting or p.frozen_until >= self.now:
                p.overtaken = 0
            elif self.story.fair and p.overtaken > 3 * (sum(not each.dead for each in self.processes) + most):
                self.problems.append(f"starved: p{p.number} saw {p.overtaken} others start, at {self._ms(self.now)} ms")
                p.overtaken = 0
        if self.now < self.until or any(p.line.waiting for p in self.processes if not p.dead):
            self.after(max(20 * MS, self.period_us // 100), self._watch)

    def _judge(self) -> None:
        """No more than N hits in any window that ends with a start, by the terms of that start, at true times."""
        known = [start for start in self.starts if not start.process.newcomer]
        for since, until, slack in self.held:
            if through := [start for start in known if since + slack < start.at < until]:
                self.problems.append(f"through a hold: {len(through)} starts")
        is_mixed = len({limit.rates for limit in self.limits}) > 1
        for life in {start.life for start in known}:
            old = (
                number for number, start in enumerate(self.starts) if not start.process.newcomer and start.life == life
            )
            numbers = sorted(old, key=lambda number: (self.starts[number].at, self.starts[number].order))
            starts = [self.starts[number] for number in numbers]
            for index, start in enumerate(starts):
                for rate in start.quota.rates:
                    inside, i = 0, index
                    while i >= 0 and starts[i].at > start.at - rate.period_us:
                        # Under other terms those behind may start at the same instant: by the order of slots, then.
                        if not is_mixed or starts[i].order <= start.order:
                            cost = self._cost(numbers[i], start.at) if self.used else starts[i].cost
                            inside += hits_in(cost, rate.unit)
                        i -= 1
                    if inside > rate.count:
                        self.problems.append(f"over: {inside} of {rate} at {self._ms(start.at)} ms")
            slots = sorted(starts, key=lambda start: start.order)
            for before, start in pairwise(slots if self.story.spacings_us else ()):
                if start.order[0] < before.order[0] + start.quota.spacing_us:
                    apart = start.order[0] - before.order[0]
                    self.problems.append(f"slots {apart} of {start.quota.spacing_us} µs apart")
        most = max(MOST_CREDIT, max(limit.most("calls") for limit in self.limits) // 2) + max(self.story.costs)
        for number, hits in self.to_dead.items():
            if hits > most:
                self.problems.append(f"dead: {hits} hits granted to p{number} after its death")

    @staticmethod
    def _ms(instant: int) -> str:
        return f"{(instant - START_US) / 1e3:.1f}"


class _Line(WaitQueue):
    """A line whose threads are actors."""

    world: World

    def ticks(self) -> int:
        return self.world.now


def _at_most(cost: Hits, limit: Quota) -> Hits:
    """Return a cost, but no more of each unit than a limit admits."""
    return cost_of({unit: min(hits, limit.most(unit)) for unit, hits in items(cost)})


def _released(state: LimitState, now: int) -> LimitState:
    return replace(state, hold_until=0)


def _set_all(events: list[Any]) -> None:
    for event in events:
        event.set()


def _worst(starts: list[tuple[int, int]], period_us: int) -> int:
    """Return the most hits that started in any window shorter than the period."""
    most = inside = first = 0
    ordered = sorted(starts)
    for time, cost in ordered:
        inside += cost
        while ordered[first][0] <= time - period_us:
            inside -= ordered[first][1]
            first += 1
        most = max(most, inside)
    return most
