"""Long waits, shown: ``limiter.listen(Progress())``.

While a call waits for over a second, a line on stderr says for which limit, how many calls, and how long still: a
bar on a terminal (with rich, ``pip install 'nekkar[cli]'``), and elsewhere one plain line as the wait begins and one
as it ends. Each limit has one line, however many calls wait for it.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from nekkar.core.clock import monotonic
from nekkar.core.events import Admitted, Event, Left, Refused, Waiting

if TYPE_CHECKING:
    from rich.progress import TaskID

__all__ = ["Progress"]

LEAST = 1.0
WITH_BAR = 60  # in fewer columns of a terminal the name and the seconds alone have room


@dataclass(slots=True)
class Wait:
    """The ``calls`` that wait for one limit; ``ends``: when the last of them starts (``monotonic``, seconds)."""

    name: str
    calls: set[int] = field(default_factory=set)
    ends: float = 0.0


class Progress:
    """A listener that shows waits of over ``least`` seconds on ``stream`` (stderr unless given). Thread-safe."""

    def __init__(self, stream: TextIO | None = None, *, least: float = LEAST) -> None:
        self._stream, self._least = stream or sys.stderr, least
        self._waits: dict[str, Wait] = {}
        self._lock = threading.RLock()  # a signal handler's call may be told of meanwhile
        rich = self._stream.isatty() and find_spec("rich") is not None
        self._display: _Display = _Bars(self._stream) if rich else _Lines(self._stream)

    def __call__(self, event: Event) -> None:
        """Take an event; most take no time."""
        if isinstance(event, Waiting):
            if event.until - event.at + event.waited > self._least:
                with self._lock:
                    self._begins(event)
        elif self._waits and isinstance(event, Admitted | Refused | Left):
            with self._lock:
                self._ends(event)

    def _begins(self, event: Waiting) -> None:
        wait = self._waits.setdefault(event.name, Wait(event.name))
        wait.calls.add(event.call)
        wait.ends = max(wait.ends, monotonic() + event.until - event.at)
        self._display.shows(wait)

    def _ends(self, event: Admitted | Refused | Left) -> None:
        wait = self._waits.get(event.name)
        if wait is None or event.call not in wait.calls:
            return
        wait.calls.remove(event.call)
        if wait.calls:
            self._display.shows(wait)
        else:
            del self._waits[event.name]
            self._display.ends(wait, event)


class _Display(Protocol):
    def shows(self, wait: Wait) -> None: ...
    def ends(self, wait: Wait, event: Admitted | Refused | Left) -> None: ...


class _Lines:
    """A line as a limit's first call begins to wait, and as its last one is done."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._said: set[str] = set()

    def shows(self, wait: Wait) -> None:
        if wait.name not in self._said:
            self._said.add(wait.name)
            self._say(f"limit {wait.name!r}: waiting {wait.ends - monotonic():.0f} s for a slot")

    def ends(self, wait: Wait, event: Admitted | Refused | Left) -> None:
        self._said.discard(wait.name)
        what = "waited" if isinstance(event, Admitted) else "gave up after"
        self._say(f"limit {wait.name!r}: {what} {event.waited:.1f} s")

    def _say(self, text: str) -> None:
        print(f"nekkar: {text}", file=self._stream, flush=True)


class _Bars:
    """A bar for each limit that is waited for, up to the last slot that is; gone when nobody waits."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bars: Any = None
        self._tasks: dict[str, TaskID] = {}

    def shows(self, wait: Wait) -> None:
        if self._bars is None:
            self._bars = _new_bars(self._stream)
            self._bars.start()
        calls = f"{len(wait.calls)} calls wait" if len(wait.calls) > 1 else "a call waits"
        left = max(0.0, wait.ends - monotonic())
        if wait.name not in self._tasks:
            self._tasks[wait.name] = self._bars.add_task(wait.name, total=left, calls=calls)
        task = self._tasks[wait.name]
        self._bars.update(
            task, calls=calls, total=left + (self._bars.tasks[self._bars.task_ids.index(task)].elapsed or 0)
        )

    def ends(self, wait: Wait, event: Admitted | Refused | Left) -> None:
        self._bars.remove_task(self._tasks.pop(wait.name))
        if not self._tasks:
            self._bars.stop()
            self._bars = None


def _new_bars(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, Task, TextColumn
    from rich.progress_bar import ProgressBar
    from rich.table import Column
    from rich.text import Text

    class Elapsing(BarColumn):
        """A bar that fills as time passes."""

        def render(self, task: Task) -> ProgressBar:
            return ProgressBar(total=task.total or 1.0, completed=task.elapsed or 0.0, width=24)

    class Remaining(TextColumn):
        """The seconds that are left."""

        def render(self, task: Task) -> Text:
            return Text(f"{max(0.0, (task.total or 0.0) - (task.elapsed or 0.0)):.0f} s")

    text = "{task.description}: {task.fields[calls]}"
    name, left = TextColumn(text, markup=False, table_column=Column(overflow="fold")), Remaining("")
    console = Console(file=stream)
    columns = (name, Elapsing(), left) if console.width >= WITH_BAR else (name, left)
    return Progress(*columns, console=console, refresh_per_second=4, transient=True)
