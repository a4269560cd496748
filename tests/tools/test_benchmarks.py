"""The benchmark suite measures what it says, and judges it by its own goals."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks import cost, load, size, tokens
from tests.benchmarks.__main__ import PARTS, main
from tests.benchmarks.figures import Figure
from tests.benchmarks.goals import verdicts
from tests.benchmarks.limiters import FIXED, GETS_CAS, NEKKAR
from tests.benchmarks.page import PLACE, TABLES, written

ROOT = Path(__file__).parents[2]
SERVERS_LACK = not (shutil.which("memcached") and shutil.which("redis-server"))


def smoke(folder: Path, *arguments: str) -> tuple[list[Figure], str]:
    """Run the suite as its users do, with tiny numbers; return the figures, and what it printed."""
    file = folder / "figures.json"
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", *arguments]
    files = ["--picture", str(folder / "figures.png"), "--json", str(file)]
    done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [Figure(**figure) for figure in json.loads(file.read_text())], done.stdout


@pytest.mark.skipif(SERVERS_LACK and not os.environ.get("CI"), reason="memcached or redis-server is not installed")
def test_a_smoke_run_measures_every_part(tmp_path: Path) -> None:
    """Each part yields positive figures of nekkar and of the raw cache; they are printed, judged and written."""
    figures, printed = smoke(tmp_path, "--only", f"{NEKKAR.name};nekkar async;floor: memcached")
    headings = {figure.what for figure in figures if figure.who.startswith("nekkar")}
    assert headings >= {cost.HOT, cost.COLD, cost.HOT_ASYNC, load.COMMANDS, tokens.CPU, tokens.COMMANDS}
    assert headings >= {load.THREADS.format(4), load.FORKS.format(2)}
    assert headings >= {size.BYTES.format(100), size.TASK_BYTES, "one requests call", "one httpx call", "import"}
    assert all(figure.value > 0 for figure in figures if figure.unit in ("µs", "/s"))
    assert {figure.who for figure in figures if figure.what == cost.HOT} >= {NEKKAR.name, GETS_CAS.name}
    assert all(verdict.goal.split()[0] in printed for verdict in verdicts(figures))
    assert next(figure.value for figure in figures if figure.what == load.WORST) <= 100
    assert max(figure.value for figure in figures if figure.what == tokens.WORST) <= 10_000
    assert {figure.value for figure in figures if figure.what == tokens.ERRORS} == {0}


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


def test_tokens_in_flight_count_as_reserved() -> None:
    """A call counts its 200 until it is settled, what it used from then on, and nothing once its period is over."""
    calls = [tokens.Call(0.0, 1.0, 50), tokens.Call(0.5, 0.6, 70), tokens.Call(1.5, 9.0, 100)]
    assert tokens.worst_windows(calls[:2]) == (2, 400)
    assert tokens.worst_windows([calls[0], calls[2]]) == (2, 250)
    assert tokens.worst_windows([*calls, tokens.Call(2.2, 9.0, 1)]) == (3, 470)


def test_an_ideal_limiter_uses_what_the_tokens_allow() -> None:
    """Calls use 100 of 10,000 tokens on average; those in flight hold 200: somewhat less than 5,000 a second."""
    assert 4_600 <= tokens.ideal(12.0) <= 5_000


def test_all_parts_are_named_in_the_help() -> None:
    """A part that does not exist is refused."""
    with pytest.raises(SystemExit):
        main(["nothing"])
    assert "binding" in PARTS


def test_a_run_is_written_into_pages(tmp_path: Path) -> None:
    """Its tables take the places of those of the run before; one of which nothing was measured stays."""
    page = tmp_path / "page.md"
    page.write_text(
        "Before.\n<!-- measured: binding -->\nold\n<!-- end -->\n<!-- measured: tasks -->\nkept\n<!-- end -->\n"
        "<!-- measured: goals -->\n<!-- end -->\n<!-- measured: machine -->\n<!-- end -->\n"
    )
    figures = [
        Figure(load.WORST, NEKKAR.name, 100, "calls"),
        Figure(load.WORST, FIXED.name, 200, "calls"),
        Figure(load.COMMANDS, NEKKAR.name, 4.5, ""),
    ]
    for _ in range(2):
        written([str(page)], figures, verdicts(figures), "a machine")
    assert page.read_text() == (
        "Before.\n<!-- measured: binding -->\n\n"
        "| 100 per 2 s, 8 processes | worst window | commands |\n|---|---|---|\n"
        f"| {NEKKAR.name} | 100 | 4.5 |\n| {FIXED.name} | **200** |  |\n\n<!-- end -->\n"
        "<!-- measured: tasks -->\nkept\n<!-- end -->\n<!-- measured: goals -->\n\n"
        "| goal | found | bound | |\n|---|---|---|---|\n"
        "| binding limit: cache commands per admission | 4.5 | ≤ 3 | missed: 1.50 × the bound |\n"
        "| binding limit: worst window of 100 | 100 | ≤ 100 | met |\n\n<!-- end -->\n"
        "<!-- measured: machine -->\n\na machine\n\n<!-- end -->\n"
    )


def test_the_pages_have_a_place_for_each_table() -> None:
    """And no table is asked for that a run does not make."""
    places = [
        place[2]
        for name in ("performance", "comparison")
        for place in PLACE.finditer((ROOT / "docs" / f"{name}.md").read_text())
    ]
    assert sorted(places) == sorted([*TABLES, "binding"])
