"""Progress: whoever waits for over a second sees it, on a terminal as a bar, elsewhere as plain lines."""

from __future__ import annotations

from io import StringIO

import pytest

from nekkar.core.errors import CacheError, WaitTooLong
from nekkar.core.events import Admitted, Left, Waiting
from nekkar.core.limiter import Nekkar
from nekkar.progress import Progress
from nekkar.testing import FakeClock
from tests.support.internals.core import monotonic
from tests.support.internals.tools import bars_of


class Terminal(StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def waits(progress: Progress, call: int, seconds: float) -> None:
    progress(Waiting("jobs", 1, 100.0, 100.0 + seconds, 0.0, call))


def starts(progress: Progress, call: int, waited: float) -> None:
    progress(Admitted("jobs", 1, 100.0 + waited, waited, call))


def test_a_long_wait_is_told_as_it_begins_and_as_it_ends() -> None:
    """In a real limiter: two lines for the wait of ten seconds, none for the calls that need not."""
    stream, limiter = StringIO(), Nekkar(clock=FakeClock())
    limiter.listen(Progress(stream))
    limit = limiter("jobs", 2, period=10)
    for _ in range(3):
        limit.acquire()
    assert stream.getvalue().splitlines() == [
        "nekkar: limit 'jobs': waiting 10 s for a slot", "nekkar: limit 'jobs': waited 10.1 s",
    ]  # fmt: skip


def test_short_waits_are_not_shown() -> None:
    """Nothing up to a second."""
    stream, limiter = StringIO(), Nekkar(clock=FakeClock())
    limiter.listen(Progress(stream))
    limit = limiter("jobs", "10/second", spacing="even")
    for _ in range(20):
        limit.acquire()
    assert stream.getvalue() == ""


def test_what_was_waited_already_counts() -> None:
    """A wait that moves off is told again: half a second more, after as long a one and some."""
    stream = StringIO()
    progress = Progress(stream)
    waits(progress, 1, 0.6)
    assert stream.getvalue() == ""
    progress(Waiting("jobs", 1, 100.6, 101.1, 0.6, 1))
    assert len(stream.getvalue().splitlines()) == 1


def test_the_last_of_many_calls_tells_how_long_it_still_takes() -> None:
    """Whichever begins to wait first."""
    for order in ((30.0, 60.0), (60.0, 30.0)):
        stream = Terminal()
        progress = Progress(stream)
        for call, seconds in enumerate(order):
            waits(progress, call, seconds)
        assert progress._waits["jobs"].ends - monotonic() > 50
        for call, seconds in enumerate(order):
            starts(progress, call, seconds)


def test_a_refusal_at_once_is_no_wait() -> None:
    """A call that never waited shows nothing."""
    stream, limiter = StringIO(), Nekkar(clock=FakeClock())
    limiter.listen(Progress(stream))
    limit = limiter("jobs", 1, max_wait=0)
    limit.acquire()
    with pytest.raises(WaitTooLong):
        limit.acquire()
    assert stream.getvalue() == ""


def test_many_calls_of_a_limit_have_one_line() -> None:
    """From the first that waits to the last that is done."""
    stream = StringIO()
    progress = Progress(stream)
    for call in (1, 2, 3):
        waits(progress, call, 5.0)
    starts(progress, 1, 5.0)
    assert len(stream.getvalue().splitlines()) == 1
    starts(progress, 2, 5.0)
    progress(Left("jobs", 1, 107.0, 7.0, CacheError("away"), 3))
    assert stream.getvalue().splitlines()[1:] == ["nekkar: limit 'jobs': gave up after 7.0 s"]


def test_a_call_that_need_not_wait_ends_nobodys_line() -> None:
    """Nor does one of another limit."""
    stream = StringIO()
    progress = Progress(stream)
    waits(progress, 1, 5.0)
    starts(progress, 2, 0.0)
    progress(Admitted("others", 1, 100.0, 0.0, 1))
    assert len(stream.getvalue().splitlines()) == 1
    starts(progress, 1, 5.0)
    assert stream.getvalue().splitlines()[1:] == ["nekkar: limit 'jobs': waited 5.0 s"]


def test_on_a_terminal_there_is_a_bar_while_a_wait_lasts() -> None:
    """Gone when nobody waits; another wait has one again."""
    stream = Terminal()
    progress = Progress(stream)
    for _ in range(2):
        waits(progress, 1, 30.0)
        waits(progress, 2, 60.0)
        bars_of(progress).refresh()  # which it does by itself, four times a second
        starts(progress, 1, 30.0)
        starts(progress, 2, 60.0)
    shown = stream.getvalue()
    assert "jobs: 2 calls wait" in shown
    assert "60 s" in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 2  # the cursor is there again
