"""A world in one thread: processes, a cache and time, all simulated, in random schedules.

Callers run the real generators of the ledger and the line; the world performs their effects. A cache
call takes effect at one instant between being sent and being answered; answers get lost, processes are
killed and frozen, callers cancelled, the cache flushed, clocks stand some milliseconds apart. One seed
is one schedule. ``World.worst()`` tells, over all starts at their true times, by how many hits any
window was over.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Any

from nekkar.core.cache import BaseCache
from nekkar.core.errors import CacheError, NekkarError
from nekkar.core.events import Listeners
from nekkar.core.quota import SECOND, Quota, quota
from nekkar.core.runtime.effects import Call, Pause, Transact, Wait
from nekkar.core.shared.fallback import Outage
from nekkar.core.shared.ledger import Ledger
from nekkar.core.shared.store import store_of
from nekkar.core.waiting.reporter import Voice
from nekkar.core.waiting.wait_queue import Line
from nekkar.core.window.booking import Slot
from nekkar.core.window.feedback import Word

MS = SECOND // 1000
START_US = 1_700_000_000 * SECOND


class Cancelled(BaseException):
    """Thrown into a caller: a cancellation, or a Ctrl-C."""


@dataclass(frozen=True)
class Story:
    """What may happen in a schedule: each number is a chance, or a bound that the schedule draws below.

    ``tasks``: cache calls run in threads of their own, which a cancellation does not reach. ``alone``: a
    caller a process, on the ledger with no line. ``newcomers``: with each flush a new process comes.
    ``busy``: callers call again at once. ``versions``: the cache has four methods only. ``outages``: times at
    which it is away for all, and each process goes on with its share. ``flaps``: times at which it is away for all for
    less than a period; ``cuts``: times at which one process alone can't reach it. ``refusals``: the chance that the
    service refuses a call, with a pause or without a word of one. ``margins_us``: each process draws its margin.
    ``joins``: processes that come shortly before the first flush. ``stalls``: the chance that a write which
    creates the log anew is on its way for up to two periods. ``idle``: the chance that a caller rests, for ``rest``
    periods. ``periods``: how long a schedule lasts.
    """

    rate: str = "6/0"
    processes: int = 3
    callers: int = 3
    costs: tuple[int, ...] = (1,)
    spacing_us: int = 0
    latency_us: tuple[int, ...] = (MS // 5, 3 * MS, 30 * MS)
    flushes: int = 0
    kills: int = 0
    freezes: int = 0
    cancels: int = 0
    lost: float = 0.0
    starved: float = 0.0
    skew_us: int = 0
    max_wait: float | None = None
    tasks: bool = False
    alone: bool = False
    newcomers: bool = False
    busy: bool = False
    versions: bool = False
    outages: int = 0
    flaps: int = 0
    cuts: int = 0
    refusals: float = 0.0
    margins_us: tuple[int, ...] = ()
    joins: int = 0
    stalls: float = 0.0
    idle: float = 0.0
    rest: tuple[int, int] = (0, 1)
    periods: int = 4

    @property
    def goes_on_alone(self) -> bool:
        """Whether processes go on with their share while they can't reach the cache."""
        return bool(self.outages or self.flaps or self.cuts)


class Contents:
    """A cache's state. A newcomer that finds nothing after a flush voids the schedule."""

    def __init__(self) -> None:
        self.items: dict[str, Any] = {}
        self.flushed = self.void = False
        self.lost_swaps = self.reads = 0

    def flush(self) -> None:
        self.items.clear()
        self.flushed = True


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

    def __init__(self) -> None:
        super().__init__()
        self.versions = itertools.count(1)

    def gets(self, key: str) -> tuple[bytes | None, int | None]:
        self.reads += 1
        found: tuple[bytes | None, int | None] = self.items.get(key, (None, None))
        return found

    def cas(self, key: str, value: bytes, token: int | None, ttl: int) -> int | None:
        if self.items.get(key, (None, None))[1] != token:
            self.lost_swaps += 1
            return None
        version = next(self.versions)
        self.items[key] = (value, version)
        return version


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

    clock: Clock
    ledger: Ledger
    line: Line
    newcomer: bool = False
    dead: bool = False
    frozen_until: int = 0
    cut_until: int = 0
    alone_at: list[int] = field(default_factory=list)
    actors: list[Actor] = field(default_factory=list)


class Actor:
    """One thread or task of a process: a generator, and below it the steps that it runs in its own thread."""

    def __init__(self, world: World, process: Process, body: Generator[Any, Any, Any]) -> None:
        self.world, self.process = world, process
        self.stack = [body]
        self.turn = 0
        self.done = False
        self.shielded = False
        self.waited_for: Actor | None = None
        self.finish: Callable[[Any, BaseException | None], None] | None = None

    def later(self, delay_us: int, value: Any = None, error: BaseException | None = None) -> None:
        """Go on after a while, unless something else made this actor go on first."""
        turn = self.turn
        self.world.after(delay_us, lambda: self.resume(turn, value, error))

    def resume(self, turn: int, value: Any, error: BaseException | None) -> None:
        if self.done or turn != self.turn or self.process.dead:
            return
        if self.world.now < self.process.frozen_until:
            self.world.at(self.process.frozen_until, lambda: self.resume(turn, value, error))
            return
        self.turn += 1
        self.advance(value, error)

    def advance(self, value: Any, error: BaseException | None) -> None:
        top = self.stack[-1]
        try:
            effect = top.throw(error) if error else top.send(value)
        except StopIteration as stop:
            self.returned(stop.value, None)
        except (Cancelled, NekkarError) as raised:
            self.returned(None, raised)
        else:
            self.perform(effect)

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
        if isinstance(effect, Call):
            self.world.call(self, effect)
        elif isinstance(effect, Pause):
            self.later(effect.us + self.world.jitter())
        elif isinstance(effect, Wait):
            self.wait(effect)
        elif self.world.story.tasks:
            self.in_thread(effect)
        else:
            self.shielded = effect.shielded
            self.stack.append(effect.steps)
            self.advance(None, None)

    def wait(self, effect: Wait) -> None:
        event = effect.event
        assert isinstance(event, Event)
        turn = self.turn
        event.waiter = lambda: self.world.after(self.world.jitter(), lambda: self.resume(turn, None, None))
        if event.is_set:
            self.later(0)
        elif effect.until_us is not None:
            until = max(effect.until_us - self.process.clock.skew_us, self.world.now)
            self.later(until - self.world.now + self.world.jitter())

    def in_thread(self, effect: Transact) -> None:
        """Run the steps in a thread of their own, as tasks do: they go on even where this actor is cancelled."""
        self.shielded = effect.shielded
        thread = Actor(self.world, self.process, effect.steps)
        self.waited_for = thread
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
        self.story, self.random = story, random.Random(seed)
        random.seed(seed)  # the ledger's pauses
        self.now = START_US
        self.events: list[tuple[int, int, Callable[[], None]]] = []
        self.order = itertools.count()
        self.store: Store | PlainStore = PlainStore() if story.versions else Store()
        self.quota = self._quota()
        self.period_us = max(rate.period_us for rate in self.quota.rates)
        self.until = self.now + story.periods * self.period_us
        self.latency_us = self.random.choice(story.latency_us)
        self.starts: list[tuple[int, int]] = []
        self.outcomes: list[BaseException] = []
        self.bounded_waits: list[int] = []
        self.away_until = self.spares_taken = 0
        self.pauses: list[tuple[int, int]] = []
        self.processes = [self._process(index) for index in range(story.processes)]

    @property
    def lost_swaps(self) -> int:
        """How many swaps another came before."""
        return self.store.lost_swaps

    def run(self) -> World:
        for process in self.processes:
            for _ in range(1 if self.story.alone else self.random.randint(1, self.story.callers)):
                self._spawn(process)
        self._faults()
        while self.events:
            self.now, _, happen = heapq.heappop(self.events)
            happen()
        return self

    def over(self) -> int:
        """Return by how many hits the worst window of any rate was over, newcomers' hits aside."""
        return max(_worst(self.starts, rate.period_us) - rate.count for rate in self.quota.rates)

    def over_shares(self) -> int:
        """Return by how much the worst window was over the limit and the shares of those that went on alone in it."""
        (rate,) = self.quota.rates
        share, most = rate.count // self.story.processes, -rate.count
        for end, _ in self.starts:
            begin = end - rate.period_us
            calls = sum(cost for at, cost in self.starts if begin < at <= end)
            alone = sum(any(begin < at <= end for at in process.alone_at) for process in self.processes)
            most = max(most, calls - rate.count - share * alone)
        return most

    def stuck(self) -> list[str]:
        """Return what is left undone, once nothing more will happen."""
        live = [process for process in self.processes if not process.dead]
        found = [f"{actor} of {process}" for process in live for actor in process.actors if not actor.done]
        found += [f"{process.line.waiting} in line" for process in live if process.line.waiting]
        return found + ["a booking under way" for process in live if process.line._booking]

    # What actors ask of the world.

    def at(self, instant: int, happen: Callable[[], None]) -> None:
        heapq.heappush(self.events, (max(instant, self.now), next(self.order), happen))

    def after(self, delay_us: int, happen: Callable[[], None]) -> None:
        self.at(self.now + delay_us, happen)

    def jitter(self) -> int:
        """Return how late a thread wakes: mostly little, and now and then starved."""
        if self.random.random() < self.story.starved:
            return self.random.randint(0, 150 * MS)
        return self.random.randint(0, MS // 2)

    def latency(self) -> int:
        return int(self.random.expovariate(1 / self.latency_us)) + 20

    def call(self, actor: Actor, effect: Call) -> None:
        """Send a call: it takes effect later, its answer comes later still, or never."""
        sent, turn = self.latency(), actor.turn
        creates = effect.function == getattr(self.store, "cas", None) and effect.args[2] is None
        if creates and actor.process.ledger.view.mirror and self.random.random() < self.story.stalls:
            sent += self.random.randint(50 * MS, 2 * self.period_us)

        def take_effect() -> None:
            value, error = None, None
            if self.now < max(self.away_until, actor.process.cut_until):
                arrives, error = False, CacheError("away")
            elif self.random.random() < self.story.lost:
                arrives = self.random.random() < 0.5
                error = CacheError("no answer")
            else:
                arrives = True
            if arrives:
                newborn = actor.process.ledger.view.mirror is None and not actor.process.newcomer
                self.store.void |= newborn and self.store.flushed and not self.store.items
                value = effect.function(*effect.args)
            delay = self.latency() if error is None else self.random.randint(5 * MS, 60 * MS)
            self.after(delay, lambda: actor.resume(turn, value, error))

        self.after(sent, take_effect)

    # The story.

    def _quota(self) -> Quota:
        if self.story.rate != "6/0":
            terms = quota(self.story.rate)
        else:
            period = self.random.choice((0.3, 0.5, 1.0))
            terms = quota(self.random.randint(2, 9), period)
        return Quota(terms.rates, self.story.spacing_us, terms.margin_us)

    def _own_quota(self) -> Quota:
        margins = self.story.margins_us
        return replace(self.quota, margin_us=self.random.choice(margins)) if margins else self.quota

    def _process(self, index: int) -> Process:
        clock = Clock(self, self.random.randint(-self.story.skew_us, self.story.skew_us) // 2)
        outage = Outage("local", 1 / self.story.processes) if self.story.goes_on_alone else Outage()
        ledger = Ledger(store_of(self.store, clock), "key", self._own_quota(), clock, outage)
        return Process(
            clock, ledger, Line(Voice(f"p{index}", Listeners()), ledger, Event, _set_all, in_order=self.story.tasks)
        )

    def _spawn(self, process: Process) -> None:
        actor = Actor(self, process, self._caller(process))
        process.actors.append(actor)
        actor.later(self.random.randint(0, self.period_us // 4))

    def _caller(self, process: Process) -> Generator[Any, Any, None]:
        """Call again and again until the story ends."""
        while self.now < self.until:
            cost = min(self.random.choice(self.story.costs), self.quota.max_cost)
            max_wait = self.story.max_wait if self.random.random() < 0.5 else None
            arrived = self.now
            try:
                if cost == 1 and (spare := process.line.spares.take()):
                    self.spares_taken += spare.cost
                else:
                    yield from alone(process.ledger, cost) if self.story.alone else process.line.acquire(cost, max_wait)
                if not process.newcomer:
                    self.starts.append((self.now, cost))
                if process.ledger.alone.is_on:
                    process.alone_at.append(self.now)
                if self.story.refusals and self.random.random() < self.story.refusals:
                    yield from self._refused(process)
            except (Cancelled, NekkarError) as error:
                self.outcomes.append(error)
                yield Pause(self.random.randint(MS, 20 * MS))
            if max_wait is not None:
                self.bounded_waits.append(self.now - arrived)
            if self.story.idle and self.random.random() < self.story.idle:
                least, most = self.story.rest
                yield Pause(self.random.randint(least * self.period_us, most * self.period_us))
            elif self.story.busy:
                yield Pause(self.random.randint(0, MS))
            elif self.random.random() < 0.3:
                yield Pause(self.random.randint(0, self.period_us // 8))

    def _refused(self, process: Process) -> Generator[Any, Any, None]:
        """Hear of a refusal, and remember from when on all can know of the pause, and its end."""
        sent_at, pause = process.clock.now_us(), self.random.choice((None, self.random.randint(0, self.period_us)))
        yield Pause(self.latency())
        yield Transact(process.ledger.hear(Word(sent_at, SECOND, is_refusal=True, pause_us=pause)))
        known = process.ledger.view.log
        self.pauses += [(self.now, known.hold_until)] if known else []

    def _faults(self) -> None:
        draw, story = self.random, self.story
        flushes = [self._instant(self.period_us // 2) for _ in range(draw.randint(0, story.flushes))]
        for instant in flushes:
            self.at(instant, self._flush)
        for _ in range(story.outages):
            self.at(self._instant(self.period_us // 2), self._lose_cache)
        for _ in range(story.flaps):
            self.at(self._instant(0), self._flap)
        for _ in range(story.cuts):
            self.at(self._instant(0), self._cut)
        for _ in range(story.joins if flushes else 0):
            self.at(min(flushes) - draw.randint(0, self.period_us // 2), self._join)
        for _ in range(draw.randint(0, story.kills)):
            self.at(self._instant(0), lambda: self._kill(draw.choice(self.processes)))
        for _ in range(draw.randint(0, story.freezes)):
            self.at(self._instant(0), lambda: self._freeze(draw.choice(self.processes)))
        for _ in range(draw.randint(0, story.cancels)):
            self.at(self._instant(0), lambda: draw.choice(draw.choice(self.processes).actors).cancel())

    def _instant(self, least: int) -> int:
        return START_US + self.random.randint(least, (self.story.periods - 1) * self.period_us)

    def _flush(self) -> None:
        self.store.flush()
        if self.story.newcomers:
            self.processes.append(self._process(len(self.processes)))
            self.processes[-1].newcomer = True
            self._spawn(self.processes[-1])

    def _lose_cache(self) -> None:
        self.away_until = self.now + self.random.randint(5 * self.period_us // 4, 2 * self.period_us)

    def _flap(self) -> None:
        self.away_until = max(self.away_until, self.now + self.random.randint(MS, self.period_us))

    def _cut(self) -> None:
        process = self.random.choice(self.processes)
        process.cut_until = self.now + self.random.randint(self.period_us // 2, 3 * self.period_us)

    def _join(self) -> None:
        """Start a process that looks at the log before its first call, so that a loss after that is no secret to it."""
        process = self._process(len(self.processes))
        self.processes.append(process)
        process.actors.append(Actor(self, process, process.ledger.look()))
        process.actors[0].later(0)
        for _ in range(self.random.randint(1, self.story.callers)):
            self._spawn(process)
        if self.random.random() < 0.5:
            self.after(self.random.randint(0, self.period_us // 4), lambda: self._freeze(process))

    def _kill(self, process: Process) -> None:
        if sum(not other.dead for other in self.processes) > 1:
            process.dead = True

    def _freeze(self, process: Process) -> None:
        process.frozen_until = self.now + self.random.randint(MS, 2 * self.period_us)


@dataclass(frozen=True)
class One:
    """A call for the ledger."""

    cost: int
    deadline: int | None = None


def alone(ledger: Ledger, cost: int) -> Generator[Any, Any, Slot]:
    """Do what the line does for one caller: book, wait, look, and book again where the slot is good no more."""
    returned: list[Slot] = []
    while True:
        slot: Slot
        (slot,) = yield Transact(ledger.book([One(cost)], returned))
        while ledger.vouches(slot) and ledger.clock.now_us() <= ledger.good_until(slot):
            if ledger.is_stale(slot):
                yield Wait(slot.at - ledger.pace.ahead_us, Event())
                yield Transact(ledger.look())
            elif ledger.clock.now_us() < slot.at:
                yield Wait(slot.at, Event())
            else:
                break
        if ledger.vouches(slot) and ledger.clock.now_us() <= ledger.good_until(slot):
            return slot
        returned = [slot]


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
