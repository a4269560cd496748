"""The benchmark suite measures what it says, and judges it by its own goals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import cost, load, size
from tests.benchmarks.__main__ import PARTS, main
from tests.benchmarks.figures import Figure
from tests.benchmarks.goals import verdicts
from tests.benchmarks.limiters import FIXED, GETS_CAS, NEKKAR


def test_a_smoke_run_measures_every_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each part yields positive figures of nekkar and of the raw cache; they are printed, judged and written."""
    found = tmp_path / "figures.json"
    words = f"{NEKKAR.name},nekkar async,floor: memcached"
    files = ["--picture", str(tmp_path / "figures.png"), "--json", str(found)]
    figures = main(["--quick", "--only", words, *files])
    headings = {figure.what for figure in figures if figure.who.startswith("nekkar")}
    assert headings >= {
        cost.HOT,
        cost.COLD,
        cost.HOT_ASYNC,
        load.THREADS.format(4),
        load.FORKS.format(2),
        load.COMMANDS,
    }
    assert headings >= {size.BYTES.format(100), size.TASK_BYTES, "one requests call", "one httpx call", "import"}
    assert all(
        figure.value > 0 for figure in figures if figure.unit in ("µs", "/s", "ms") and "wait" not in figure.what
    )
    assert {figure.who for figure in figures if figure.what == cost.HOT} >= {NEKKAR.name, GETS_CAS.name}
    assert json.loads(found.read_text())[0]["what"] == figures[0].what
    assert "not measured" in capsys.readouterr().out


def test_the_worst_window_of_nekkar_is_never_over_in_a_smoke_run(tmp_path: Path) -> None:
    """Eight processes under 100 per 2 s, by their own records of their starts."""
    figures = main(["--quick", "--only", NEKKAR.name, "binding", "--picture", str(tmp_path / "figures.png")])
    assert [figure.value <= 100 for figure in figures if figure.what == load.WORST] == [True]


def test_each_goal_compares_figures_of_one_run() -> None:
    """A ratio over its bound is not met, one under it is, and what was not measured is neither."""

    def judged(mine: float) -> dict[str, bool | None]:
        figures = [Figure(load.THREADS.format(64), NEKKAR.name, mine, "/s")]
        figures.append(Figure(load.THREADS.format(64), FIXED.name, 100, "/s"))
        return {verdict.goal: verdict.is_met for verdict in verdicts(figures)}

    goal = "64 threads: times limits' fixed window"
    assert judged(299)[goal] is False
    assert judged(300)[goal] is True
    assert [met for other, met in judged(300).items() if other != goal and met is not None] == []


def test_the_share_used_counts_from_each_call_to_the_hundredth_after_it() -> None:
    """A hundred at once every 2 s use all; every 4 s, half."""
    for gap_us, share in ((2_000_000, 1.0), (4_000_000, 0.5)):
        starts = [window * gap_us for window in range(3) for _ in range(load.CALLS)]
        assert load.used(starts) == share


def test_all_parts_are_named_in_the_help() -> None:
    """A part that does not exist is refused."""
    with pytest.raises(SystemExit):
        main(["nothing"])
    assert "binding" in PARTS
