"""A clock that never makes a test wait."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from nekkar.core.quota import SECOND

if TYPE_CHECKING:
    import anyio

START_US = 1_700_000_000 * SECOND


class FakeClock:
    """A clock that stands still and jumps over sleeps; for ``Nekkar(clock=FakeClock())``.

    A sleep returns at once and sets the time to its end, so a test of a thousand calls at ten a second takes no time.
    With ``jump=False`` a sleep waits until the test advances the clock past its end. ``start``: the first time, Unix
    time in seconds. Thread-safe. An unpickled clock starts at the same time and is then independent; a deep copy is
    the clock itself, so a copied limiter keeps its clock.
    """

    def __init__(self, start: float = START_US / SECOND, *, jump: bool = True) -> None:
        self._now = round(start * SECOND)
        self._jump = jump
        self._changed = threading.Condition()

    def __getstate__(self) -> dict[str, Any]:
        return {"_now": self._now, "_jump": self._jump}

    def __deepcopy__(self, memo: dict[int, Any]) -> FakeClock:
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _changed=threading.Condition())

    def now_us(self) -> int:
        """Return the time, in microseconds since the Unix epoch."""
        return self._now

    @property
    def now(self) -> float:
        """The time, in seconds since the Unix epoch."""
        return self._now / SECOND

    def advance(self, seconds: float) -> None:
        """Let time pass (a negative number steps back), and wake the sleepers whose time has come."""
        with self._changed:
            self._now += round(seconds * SECOND)
            self._changed.notify_all()

    def sleep_until(self, at_us: int | None, wake: threading.Event) -> None:
        """Jump to ``at_us``, or block until time has come there or ``wake`` is set."""
        if wake.is_set():
            return
        if self._jump and at_us is not None:
            self._jump_to(at_us)
        elif at_us is None:
            wake.wait()
        else:
            with self._changed:
                while self._now < at_us and not wake.is_set():
                    self._changed.wait(0.01)  # real time: `wake` is another thread's event

    async def sleep_until_async(self, at_us: int | None, wake: anyio.Event) -> None:
        """Jump to ``at_us``, or wait until time has come there or ``wake`` is set."""
        import anyio.lowlevel

        if self._jump and at_us is not None:
            await anyio.lowlevel.checkpoint()
            if not wake.is_set():
                self._jump_to(at_us)
        while not wake.is_set() and (at_us is None or self._now < at_us):
            with anyio.move_on_after(0.01):
                await wake.wait()

    def _jump_to(self, at_us: int) -> None:
        with self._changed:
            self._now = max(self._now, at_us)
            self._changed.notify_all()
