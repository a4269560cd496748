"""An account of one limit, as the callers of a process see it: a ledger, or a fallback that stands in for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from nekkar.core.clock import Clock
from nekkar.core.cost import Hits
from nekkar.core.quota import Quota
from nekkar.core.runtime.effects import CacheSteps
from nekkar.core.shared.latency import CacheLatency
from nekkar.core.shared.replica import Replica
from nekkar.core.window.state import LimitState

Edit = Callable[[LimitState, int], LimitState]  # a pure function of the state and the time (µs)


class Change(Protocol):
    """What one update does to a state, and how it learns of the outcome."""

    def apply(self, state: LimitState, now: int, read_at: int | None, *, is_recovery: bool) -> LimitState | None:
        """Return what to write in place of ``state``, as it was read at ``read_at``; None: nothing.

        ``read_at`` None: this process wrote ``state``, and has not read since. Where nothing is written then, the state
        is read, and this is called again. ``is_recovery``: the state was lost, and ``state`` is what this process
        remembers. It is to be written.
        """

    def won(self, state: LimitState, sent: int, now: int) -> None:
        """Take note that ``state`` was written, by a swap sent at ``sent`` and answered ``now``."""

    def unanswered(self) -> None:
        """Take note that the last state returned may have been written, or not: its swap was not answered."""


class Account(Protocol):
    """What a wait queue needs of a limit. Safe between threads; times are microseconds on ``clock``."""

    @property
    def clock(self) -> Clock: ...
    @property
    def quota(self) -> Quota:
        """What this process keeps to now."""

    @property
    def is_on(self) -> bool:
        """Whether the cache is away, so that this process keeps to a share of the limit."""

    @property
    def in_process(self) -> bool:
        """Whether the cache answers at once, without I/O."""

    @property
    def latency(self) -> CacheLatency: ...
    @property
    def replica(self) -> Replica:
        """What this process knows of the state that it keeps to now."""

    @property
    def state(self) -> LimitState | None:
        """The newest state seen; None before the first."""

    @property
    def read_at(self) -> int:
        """When the read that saw the newest state was sent; 0 before the first."""

    @property
    def keep_time(self) -> Callable[[], int]:
        """A function that notices if the clock was set, and returns by how much in all (µs)."""

    def started(self, at: int, cost: Hits) -> None:
        """Take note of a call of this process that starts at its slot."""

    def clock_is_due(self) -> bool:
        """Whether the clock is to be read before anything is booked."""

    def sync_clock(self) -> CacheSteps[None]:
        """Read the clock where that is due; raises CacheError where its time is not known and can't be read."""

    def last_write(self) -> tuple[LimitState, Any] | None:
        """Return this process's last write and its token, where nobody else seems to write; else None."""

    def write_over(self, planned: LimitState, token: Any) -> CacheSteps[int | None]:
        """Write a state over the last write, once; return when that was answered, None where somebody else wrote."""

    def update(self, change: Change, is_answered: bool = True) -> CacheSteps[None]:
        """Change the state, again and again until no other process's swap came between. Raises CacheError.

        ``is_answered``: whether the cache answered the last command. If it did not, a command that fails now raises.
        """

    def edit(self, edit: Edit) -> CacheSteps[None]:
        """Change the state by a pure function; nothing is written where it returns the state itself."""
