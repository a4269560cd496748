"""The promises, by real processes on a real memcached and on SQLite: exact windows over recorded starts."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest

from tests.integration.fleet import Fleet, Plan, fleet, longest_silence
from tests.support.checks import worst_window
from tests.support.servers import PATIENCE_S, Memcached

SECONDS = 10.0
PERIOD_US = 2_000_000


def all_starts(running: Fleet) -> list[int]:
    return sorted(chain.from_iterable(running.starts()))


def in_time(starts: list[int]) -> int:
    """Return how many calls started within the run, counted from its first."""
    return sum(start <= starts[0] + SECONDS * 1e6 for start in starts)


@pytest.mark.parametrize(("cache", "threads"), [("memcached", 1), ("memcached", 4), ("sqlite", 4)])
def test_eight_processes_share_one_exact_window_and_use_all_of_it(
    cache: str, threads: int, server: Memcached, tmp_path: Path
) -> None:
    """100 per 2 s for 10 s: worst window 100, nine in ten of 500 calls, none starved, four commands a call at most."""
    url = server.url if cache == "memcached" else f"sqlite:///{tmp_path / 'limits.db'}?timeout={PATIENCE_S}"
    before = server.commands()
    with fleet(Plan(url, "100/2s", SECONDS, threads), 8) as running:
        running.join(60)
        starts = all_starts(running)
        silences = [longest_silence(own, running.begin, running.begin + SECONDS) for own in running.starts()]
    assert worst_window(starts, PERIOD_US) <= 100
    assert in_time(starts) >= 0.9 * 500
    assert max(silences) < 2 * (PERIOD_US + 50_000) / 1e6 + 0.4  # two periods, and what a noisy machine adds
    assert server.commands() - before <= 4 * len(starts)


def test_two_windows_at_once_are_both_kept(server: Memcached) -> None:
    """20 per second and 60 per 3 seconds: neither is broken, and the tighter is used."""
    with fleet(Plan(server.url, "20/second; 60/3 seconds", SECONDS), 4) as running:
        running.join(60)
        starts = all_starts(running)
    assert worst_window(starts, 1_000_000) <= 20
    assert worst_window(starts, 3_000_000) <= 60
    assert in_time(starts) >= 0.8 * 20 * (SECONDS / 1.05)


def test_even_spacing_parts_all_starts_by_the_period_over_the_count(server: Memcached) -> None:
    """100 per 2 s evenly: slots 20 ms apart; starts are closer by at most the margin of 50 ms."""
    with fleet(Plan(server.url, "100/2s", SECONDS, spacing="even"), 4) as running:
        running.join(60)
        starts = all_starts(running)
    assert worst_window(starts, PERIOD_US) <= 100
    for reach in range(1, 20):  # n slots span (n - 1) spacings, and two starts may be a margin closer
        closest = min(after - before for before, after in zip(starts, starts[reach:], strict=False))
        assert closest >= reach * 20_000 - 50_000
    assert in_time(starts) >= 0.8 * 500
