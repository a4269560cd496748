"""The promises, by real processes on a real redis-server, and while it, its data or its clients fail."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from itertools import chain

import pytest

from tests.integration.fleet import Plan, fleet, longest_silence
from tests.integration.test_fleet import PERIOD_US, SECONDS, all_starts, in_time
from tests.support.checks import worst_window
from tests.support.servers import RedisServer, redis_server

PERIOD = PERIOD_US / 1e6


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A redis-server of this test's own."""
    with redis_server() as running:
        yield running


def test_eight_processes_share_one_exact_window_and_use_all_of_it(redis: RedisServer) -> None:
    """100 per 2 s for 10 s: worst window 100, nine in ten of 500 calls, fair, four commands a call at most."""
    before = redis.commands()
    with fleet(Plan(redis.url, "100/2s", SECONDS), 8) as running:
        running.join(60)
        each = running.starts()
        starts = all_starts(running)
    assert worst_window(starts, PERIOD_US) <= 100
    assert in_time(starts) >= 0.9 * 500
    assert max(longest_silence(own, running.begin, running.begin + SECONDS) for own in each) < 2 * PERIOD + 0.5
    assert min(map(len, each)) >= 0.25 * max(map(len, each))
    assert 0 < redis.commands() - before <= 4 * len(starts)


def wait_until(reached: Callable[[], bool]) -> None:
    """Wait for what a fleet does, however busy the machine."""
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline, "the fleet does not get there"
        time.sleep(0.01)


def test_a_flush_of_data_and_scripts_in_the_middle_is_never_over(redis: RedisServer) -> None:
    """All processes used the limit before; the log is lost twice: at most a period goes unused each time."""
    with fleet(Plan(redis.url, "100/2s", SECONDS), 8) as running:
        wait_until(lambda: all(running.starts()))
        for pause in (0.7, 3.4):
            time.sleep(pause)
            assert redis.ask("FLUSHALL") == "+OK"
            assert redis.ask("SCRIPT FLUSH") == "+OK"
        running.join(60)
        starts = all_starts(running)
    assert worst_window(starts, PERIOD_US) <= 100
    assert in_time(starts) >= 200


def test_a_server_killed_twice_is_never_over_with_an_older_state_or_with_nothing(redis: RedisServer) -> None:
    """It comes back first with what it saved before the last eighty calls, which still count; then empty."""

    def kill(saved: bool) -> None:
        redis.stop()
        time.sleep(0.3)
        redis.start()
        if saved:
            assert redis.ask("EXISTS nekkar:fleet") == ":1"
        redis.forget()

    with fleet(Plan(redis.url, "100/2s", 1.5 * SECONDS), 8) as running:
        wait_until(lambda: all(running.starts()))
        time.sleep(0.5)
        assert redis.ask("SAVE") == "+OK"
        saved = len(all_starts(running))
        wait_until(lambda: len(all_starts(running)) >= saved + 80)
        kill(saved=True)
        time.sleep(3.0)
        kill(saved=False)
        back = time.time()
        running.join(60)
        starts = all_starts(running)
    assert worst_window(starts, PERIOD_US) <= 100
    assert len(starts) >= 150
    assert starts[-1] > back * 1e6


def test_workers_killed_and_one_frozen_are_never_over(redis: RedisServer) -> None:
    """kill -9 at random instants, and one stopped for 5 s: the others go on, and it comes back."""
    with fleet(Plan(redis.url, "100/2s", SECONDS, threads=2), 8) as running:
        frozen = running.workers[7]
        running.sleep_until(1.5)
        os.kill(frozen.pid or 0, signal.SIGSTOP)
        for index in range(4):
            running.sleep_until(2.0 + index + random.random())
            running.workers[index].kill()
        running.sleep_until(6.5)
        os.kill(frozen.pid or 0, signal.SIGCONT)
        running.join(60)
        each, starts = running.starts(), all_starts(running)
    survivors = list(chain.from_iterable(each[4:7]))
    assert worst_window(starts, PERIOD_US) <= 100
    assert longest_silence(survivors, running.begin, running.begin + SECONDS) <= PERIOD + 0.5
    assert [start for start in each[7] if start > (running.begin + 6.5) * 1e6]
    assert in_time(starts) >= 0.8 * 500
