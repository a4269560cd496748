"""The demo: an exact strict server, workers that keep the limit with nekkar and not without, nothing left behind."""

from __future__ import annotations

import http.client
import io
import multiprocessing
import re
import sys
import threading
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekkar.core.cache import MemoryCache
from nekkar.core.errors import ConfigurationError
from nekkar.core.limiter import Nekkar
from tests.support.checks import spans_broken
from tests.support.internals.core import SECOND, Rate, quota
from tests.support.internals.demo import (
    READY,
    Answer,
    ChildFailed,
    CountingCache,
    Ended,
    Outcome,
    Result,
    StrictServer,
    Tally,
    Terms,
    child,
    fits,
    free_at,
    most_calls,
    progress,
    read_plan,
    run_fleet,
    serve,
    show,
)
from tests.support.web import running

THREE = (Rate(10, 3),)


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


# the window


def test_call_n_plus_1_in_a_window_is_refused() -> None:
    assert fits([0, 4], 9, THREE)
    assert not fits([0, 4, 9], 9, THREE)


def test_a_call_exactly_a_period_after_the_oldest_is_accepted_and_none_before() -> None:
    accepted = [0, 4, 9]
    assert [at for at in range(9, 16) if fits(accepted, at, THREE)] == [10, 11, 12, 13, 14, 15]
    assert free_at(accepted, THREE) == 10


def test_every_rate_is_kept() -> None:
    rates = quota("2/second; 3/minute").rates
    assert not fits([0, 0], SECOND - 1, rates)
    assert fits([0, 0], SECOND, rates)
    assert not fits([0, 0, SECOND], 60 * SECOND - 1, rates)
    assert fits([0, 0, SECOND], 60 * SECOND, rates)


def test_a_call_whose_thread_came_late_is_checked_against_younger_ones() -> None:
    assert not fits([5, 6, 7], 4, THREE)
    assert fits([5, 6, 15], 4, THREE)
    assert fits([15, 16, 17], 4, THREE)


@given(st.lists(st.integers(0, 60), max_size=40), st.integers(1, 4), st.integers(1, 20))
def test_what_is_accepted_in_any_order_keeps_the_rate_and_what_is_refused_would_break_it(
    times: list[int], count: int, period: int
) -> None:
    accepted: list[int] = []
    for at in times:
        after = sorted([*accepted, at])
        assert fits(accepted, at, [Rate(period, count)]) is not bool(spans_broken(after, count, period))
        if fits(accepted, at, [Rate(period, count)]):
            accepted = after


MOST = [("20/second", 10, 200), ("20/second", 10.1, 220), ("30/minute", 10, 30), ("10/second; 300/minute", 61, 310)]


@pytest.mark.parametrize(("rate", "seconds", "most"), MOST)
def test_the_most_that_anybody_can_do_is_exact(rate: str, seconds: float, most: int) -> None:
    assert most_calls(quota(rate).rates, round(seconds * SECOND)) == most


# the server


def statuses(server: StrictServer, *paths: str) -> list[tuple[int, str | None]]:
    """Ask for paths on one kept connection; return each status and Retry-After."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    found = []
    for path in paths:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        found.append((response.status, response.getheader("Retry-After")))
    connection.close()
    return found


def test_the_server_answers_429_past_its_limit_and_says_when_to_come_again() -> None:
    with running(StrictServer(quota("2/hour").rates)) as server:
        assert statuses(server, "/", "/a", "/") == [(200, None), (200, None), (429, "3600")]


def test_the_call_that_only_connects_is_not_counted() -> None:
    with running(StrictServer(quota("1/hour").rates)) as server:
        assert statuses(server, READY, READY, "/", READY) == [(204, None), (204, None), (200, None), (204, None)]


def test_a_refused_call_is_not_counted() -> None:
    server = StrictServer([Rate(SECOND, 1)])
    try:
        assert [server.offer(at) for at in (0, SECOND - 1, SECOND, SECOND + 1)] == [0, 1, 0, 1]
    finally:
        server.server_close()


# counting, children


def test_every_operation_of_a_limit_on_its_cache_is_counted() -> None:
    cache = CountingCache(MemoryCache())
    assert cache.in_process
    Nekkar(cache)("counted", 5).acquire()
    assert cache.operations == 2
    cache.set("a", "1")
    assert (cache.add("a", "2"), cache.get("a")) == (False, "1")
    cache.delete("a")
    assert cache.operations == 6


def test_a_tally_is_the_sum_of_its_messages() -> None:
    tally = Tally()
    for message in (Answer(200, True), Answer(200, False), Answer(429, True), Answer(500, True), Ended(7, "why")):
        tally = tally.after(message)
    assert tally == Tally(accepted=2, refused=1, other=1, in_time=1, operations=7, failure="why")


def test_a_child_lasts_as_long_as_its_block() -> None:
    with child("server", serve, quota("1/second").rates) as server:
        assert server.receive(60) > 0
        assert server.process.is_alive()
    assert not server.process.is_alive()


def test_a_child_that_dies_is_told_at_once() -> None:
    with child("server", serve, quota("1/second").rates) as server:
        server.receive(60)
        server.process.kill()
        with pytest.raises(ChildFailed, match="the server died, exit code"):
            server.receive(60)


def test_a_server_whose_parent_is_gone_ends() -> None:
    here, there = Pipe()
    thread = threading.Thread(target=serve, args=(there, quota("1/second").rates))
    interval = sys.getswitchinterval()
    try:
        thread.start()
        assert here.poll(10)
        here.recv()
        here.close()
        thread.join(10)
        assert not thread.is_alive()
    finally:
        sys.setswitchinterval(interval)
        there.close()


# fleets


def test_a_worker_whose_cache_fails_is_reported(tmp_path: Path) -> None:
    terms = Terms(f"sqlite:///{tmp_path}/not/there.db", "demo", "5/second")
    outcome = run_fleet(2, quota("5/second").rates, 1.0, terms, lambda elapsed, so_far: None)
    assert outcome.total("calls") == 0
    assert [text[:23] for text in outcome.failures] == ["2 of 2 workers failed: "]
    assert "SQLite file" in outcome.failures[0]


def test_a_worker_that_is_killed_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    def kill_one(elapsed: float, so_far: Outcome) -> None:
        for process in multiprocessing.active_children():
            if process.name == "worker 1" and so_far.total("calls"):
                process.kill()

    terms = Terms(f"sqlite:///{tmp_path}/limits.db", "demo", "5/second")
    outcome = run_fleet(2, quota("5/second").rates, 2.0, terms, kill_one)
    assert [text[:42] for text in outcome.failures] == ["1 of 2 workers failed: the process died, e"]
    assert outcome.tallies[1].failure is None
    assert outcome.tallies[1].calls >= 2
    assert outcome.total("refused") == 0


# what people see


def result(**changes: Any) -> Result:
    limited = Outcome((Tally(accepted=9, in_time=9, operations=20), Tally(accepted=10, in_time=10, operations=21)))
    bare = Outcome((Tally(accepted=10, in_time=10, refused=41), Tally(accepted=10, in_time=9, refused=40)))
    terms: dict[str, Any] = {"workers": 2, "rate": "5/second", "seconds": 4.0, "cache": "a file", "most": 20}
    return Result(**(terms | {"limited": limited, "bare": bare} | changes))


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_the_table_is_the_same_on_a_terminal_and_off_it(stream: type[io.StringIO]) -> None:
    shown = stream()
    show(result(), shown)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown.getvalue()).splitlines()
    words = [" ".join(line.split()) for line in lines]
    expected = ["calls 19 101", "accepted 19 20", "429s 0 81", "share of the limit used 95.0% 95.0%"]
    expected += ["calls per worker 9 10 51 50", "cache operations per call 2.2 -"]
    assert [line for line in words if line in expected] == expected
    assert any(line.endswith("with nekkar without") for line in words)
    assert max(map(len, lines)) <= 80


def test_many_workers_fit_in_the_table() -> None:
    shown = io.StringIO()
    show(result(limited=Outcome(tuple(Tally(accepted=1000 + number) for number in range(64)))), shown)
    assert "1000 to 1063" in shown.getvalue()


def test_off_a_terminal_progress_is_plain_lines_and_few() -> None:
    shown = io.StringIO()
    with progress(shown, 10.0) as report:
        for tenth in range(101):
            report("without", tenth / 10, Outcome((Tally(accepted=tenth),)))
    assert shown.getvalue().splitlines()[0] == "without: 2.0 of 10 s, 20 calls, 0 answered 429"
    assert len(shown.getvalue().splitlines()) == 5


def test_on_a_terminal_progress_is_a_bar() -> None:
    shown = Terminal()
    with progress(shown, 10.0) as report:
        report("without", 0.0, Outcome())
        report("without", 10.0, Outcome((Tally(accepted=3, refused=1),)))
    assert "4 calls, 1 answered 429" in shown.getvalue()


def test_a_plan_names_the_option_that_can_not_work() -> None:
    with pytest.raises(ConfigurationError, match="workers 0"):
        read_plan(0, "1/second", 5.0, None)
