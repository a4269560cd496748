"""The table of faults, each played once; and the figures they are judged by, tried on times that are known."""

from __future__ import annotations

import io
from functools import cache
from random import Random, randrange

import pytest

from tests.integration import outcome as figures
from tests.integration.faults import CALM, FAULTS, LOSSES, PERIOD, SECONDS, soak
from tests.integration.outcome import Expect, Outcome
from tests.integration.play import Fault, play
from tests.integration.report import progress
from tests.support.internals.core import quota

QUICK = [fault for fault in FAULTS if not fault.long]
RATE = quota("10/s").rates[0]


@cache
def calm() -> Outcome:
    """Return what a fleet does on this machine while nothing fails."""
    return play(CALM, 0)


@pytest.mark.parametrize("fault", QUICK, ids=[fault.name for fault in QUICK])
def test_a_fault_breaks_no_promise(fault: Fault) -> None:
    """Never over, whatever happens; and no fault costs more than it may."""
    seed = randrange(1_000_000)
    outcome = calm() if fault is CALM else play(fault, seed)
    assert outcome.broken(fault.expect, calm().used) == [], (seed, outcome)


def test_the_calm_fleet_uses_the_limit() -> None:
    """What all others are compared with is itself no less than 95 % of the limit."""
    assert calm().used >= 0.95
    assert calm().worst == calm().limit


def test_a_script_is_drawn_alike_from_one_seed() -> None:
    """A run can be repeated: what is done and when follows from its seed alone, and differs from seed to seed."""
    for fault in (*FAULTS, soak(1.0)):
        deeds = fault.script(Random(7))
        assert deeds == fault.script(Random(7))
        assert deeds == sorted(deeds, key=lambda deed: deed.at)
        assert not deeds or deeds != fault.script(Random(8))


def test_every_fault_ends_in_time_to_see_what_comes_of_it() -> None:
    """Whatever is stopped goes on; after a loss there is time to recover, before the next one and before the end."""
    for fault in (*FAULTS, soak(1.0)):
        for seed in range(50):
            deeds = fault.script(Random(seed))
            acts = [deed.act for deed in deeds]
            assert acts.count("freeze") == acts.count("thaw")
            assert acts.count("stop server") == acts.count("start server")
            back = [deed.at for deed in deeds if deed.act in ("flush", "start server", "thaw")]
            assert max(back, default=0.0) <= fault.plan.seconds - 3.0
            if fault.plan is LOSSES:
                lost = [deed.at for deed in deeds if deed.act in ("flush", "stop server")][1:]
                gaps = [after - before for before, after in zip(back, [*lost, fault.plan.seconds], strict=True)]
                assert min(gaps) > 2 * PERIOD


def test_recovery_is_the_first_call_of_a_window_full_but_for_a_tenth() -> None:
    """Nine calls within 1.05 s count as full speed at 10 per second; eight do not."""
    slow = [1_000_000 * second for second in range(5)]
    fast = [6_000_000 + 10_000 * index for index in range(9)]
    assert figures.recovery([*slow, *fast], 500_000, RATE) == 5.5
    assert figures.recovery([*slow, *fast[:8]], 500_000, RATE) is None


def test_used_compares_with_full_windows_of_period_and_margin() -> None:
    """Two windows of ten calls in 2.1 s are all of it; what comes later does not count."""
    starts = [0] * 10 + [1_050_000] * 10 + [2_100_000] * 10
    assert figures.used(starts, RATE, 2.1) == 1.0
    assert figures.used(starts[5:], RATE, 2.1) == 0.75
    assert figures.used([], RATE, 2.1) == 0.0


def test_calls_while_the_cache_is_away_are_counted_for_each_process() -> None:
    """Only what started inside a span counts, and each process by itself."""
    spans = [(1_000_000, 3_000_000)]
    assert figures.most_while_away([[900_000, 1_000_000, 1_900_000, 2_100_000], [3_000_000]], spans, 1_000_000) == 2
    assert figures.most_while_away([[1], [2]], spans, 1_000_000) == 0


@pytest.mark.parametrize(
    ("expect", "told"),
    [
        (Expect(), "101 in a window, limit 100"),
        (Expect(), "31 in a window of the endpoint, limit 30"),
        (Expect(silence=2.5), "silence for 3.0 s"),
        (Expect(starved=4.5), "starved for 5.0 s"),
        (Expect(recovery=3.0), "recovery for None s"),
        (Expect(used=0.9), "used 50.0%"),
        (Expect(lost=2), "9 slots lost to 4 kills"),
        (Expect(late=0.05), "late for 0.1 s"),
        (Expect(share=12), "13 calls of one process"),
        (Expect(spared=0.1), "nothing was tried"),
        (Expect(growth=(1024, 2)), "grew by 1025 KiB"),
        (Expect(), "1 deeds were left undone"),
        (Expect(), "worker 3 ended with 1"),
    ],
)
def test_whatever_is_broken_is_told(expect: Expect, told: str) -> None:
    """An outcome that is bad in every way breaks each expectation, and what was not expected is not missed."""
    bad = Outcome(
        seed=1, limit=100, calls=9, worst=101, used=0.5, silence=3.0, starved=5.0, recovery=None, kills=4, lost=9,
        share=13, late=0.1, spared=0.0, stall=0.01, growth=(1025, 0), undone=1, failed=("worker 3 ended with 1",),
        endpoint=(31, 30),
    )  # fmt: skip
    found = bad.broken(expect, 1.0)
    assert any(told in text for text in found)
    assert len(found) == 4 + (expect != Expect())


def test_progress_is_told_in_lines_where_there_is_no_terminal() -> None:
    """What begins, and each minute of it; before the fleet's begin nothing is over yet."""
    stream = io.StringIO()
    with progress(stream, 3600.0) as report:
        for second in range(-2, 130):
            report("soak", second + 0.5)
    assert stream.getvalue().splitlines() == ["0 of 3600 s: soak", "60 of 3600 s: soak", "120 of 3600 s: soak"]


def test_the_quick_set_is_quick() -> None:
    """In a build, all faults once take under four minutes."""
    assert sum(fault.plan.seconds + 2 for fault in QUICK) < 240
    assert all(fault.plan.seconds >= SECONDS for fault in QUICK)
