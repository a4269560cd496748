"""Pictures: what is drawn is what happened, labelled; and a file that can't be drawn to is told before all else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.internals.cli import main
from tests.support.internals.core import Rate
from tests.support.internals.tools import Mark, Panel, draw, in_window

PNG = b"\x89PNG"
RATES = [("search", Rate(1_000_000, 3)), ("search", Rate(4_000_000, 6))]
MARKS = [
    Mark(worker, at - wait, at, name="search") for worker, at, wait in ((0, 0.0, 0.0), (1, 0.1, 0.0), (0, 2.0, 1.5))
]


@pytest.fixture(autouse=True)
def matplotlib() -> None:
    pytest.importorskip("matplotlib")


def test_a_window_counts_the_calls_of_its_period() -> None:
    """Each call counts from its start on, for the period."""
    at, counts = in_window([0.0, 0.5, 1.2], 1.0)
    assert list(zip(at, counts, strict=True)) == [(0, 0), (0, 1), (0.5, 2), (1, 1), (1.2, 2), (1.5, 1), (2.2, 0)]


def test_axes_are_labelled_with_units_and_bounded_by_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A panel for each window, in which the limit's line is in sight, and one for the workers."""
    from matplotlib.figure import Figure

    figures: list[Any] = []
    saved = Figure.savefig

    def save(figure: Figure, *args: Any, **more: Any) -> None:
        figures.append(figure)
        saved(figure, *args, **more)

    monkeypatch.setattr(Figure, "savefig", save)
    panel = Panel("run", 2, [*MARKS, Mark(1, 2.5, 2.5, True, "search")], RATES, [("search", 1.0, 1.8)])
    draw([panel], "Title", str(tmp_path / "plot.png"))
    axes = figures[0].axes
    assert [place.get_ylabel() for place in axes] == [
        "search\ncalls in the last 1 s", "search\ncalls in the last 4 s", "worker",
    ]  # fmt: skip
    assert axes[-1].get_xlabel() == "seconds since the start"
    assert [max(place.lines[0].get_ydata()) for place in axes[:2]] == [2, 3]  # what was refused does not count
    assert [place.get_ylim()[1] > rate.count for place, (_, rate) in zip(axes, RATES, strict=False)] == [True, True]
    legend = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert set(legend) == {"calls in the window", "limit", "waits for its slot", "call starts", "refused", "hold"}


@pytest.mark.parametrize(("name", "head"), [("plot.png", PNG), ("plot.svg", b"<?xml"), ("plot.pdf", b"%PDF")])
def test_pictures_are_drawn_in_three_kinds(name: str, head: bytes, tmp_path: Path) -> None:
    """By the file's ending."""
    draw([Panel("run", 2, MARKS, RATES)] * 2, "Title", str(tmp_path / name))
    assert (tmp_path / name).read_bytes().startswith(head)


def test_a_plan_and_a_demo_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Besides what they print."""
    monkeypatch.chdir(tmp_path)
    Path("limits.toml").write_text('[limits]\na = "10/second; 15/3 s"\n[[rules]]\nurl = "x.y"\nlimit = "a"\n')
    plan = ["--calls", "GET https://x.y/ 50", "GET https://free.y/ 5", "--workers", "3", "--hold", "a 1s 2s"]
    assert main(["simulate", "--rules", "limits.toml", *plan, "--plot", "plan.png"]) == 0
    assert Path("plan.png").read_bytes().startswith(PNG)
    main(["demo", "--workers", "2", "--seconds", "1", "--plot", "demo.png", "--json"])
    assert Path("demo.png").read_bytes().startswith(PNG)


def test_a_demo_that_cannot_be_drawn_does_not_begin(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong file name is told at once, not after the run."""
    assert main(["demo", "--plot", "demo.bmp"]) == 2
    assert "plot must be a file that ends in .png" in capsys.readouterr().err
