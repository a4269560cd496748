"""Pictures of what a fleet did: calls in each window against its limit, and each worker's calls, waits and holds.

Needs matplotlib. The colours are safe for colour-blind readers (Okabe and Ito's), and nothing depends on colour alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nekkar.core.errors import ConfigurationError, plain, shown
from nekkar.core.quota import SECOND, Rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_WINDOWS = 4
KINDS = (".png", ".svg", ".pdf")

_UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))
_STEPS = (
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
    20,
    30,
    60,
    120,
    300,
    600,
    1200,
    1800,
    3600,
    7200,
    18_000,
    43_200,
    86_400,
    604_800,
)
_BLUE, _ORANGE, _RED, _GREY = "#0072B2", "#E69F00", "#D55E00", "#555555"


@dataclass(frozen=True, slots=True)
class Mark:
    """A call: asked for by ``worker`` (from 0), started, or refused, ``at``; seconds from the beginning."""

    worker: int
    asked: float
    at: float
    refused: bool = False
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """One fleet's run. ``windows``: (the limit's name, a rate of it). ``holds``: (the limit's name, from, to), in s."""

    title: str
    workers: int
    marks: Sequence[Mark]
    windows: Sequence[tuple[str, Rate]]
    holds: Sequence[tuple[str, float, float]] = ()


def check_path(path: str) -> None:
    """Raise ConfigurationError, before anything is run, for a file that can't be drawn to."""
    if Path(path).suffix.lower() not in KINDS:
        raise ConfigurationError(f"plot must be a file that ends in {', '.join(KINDS)}, got {shown(path)}")
    if not Path(path).absolute().parent.is_dir():
        raise ConfigurationError(f"plot {shown(path)}: its folder does not exist")


def draw(panels: Sequence[Panel], title: str, path: str) -> None:
    """Draw runs side by side, each under its title, on one scale. Blocks for a second or so."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = 1 + max(min(len(panel.windows), MOST_WINDOWS) for panel in panels)
    workers = max(panel.workers for panel in panels)
    heights = [2.2] * (rows - 1) + [min(1.2 + 0.25 * workers, 5.0)]
    figure = Figure(figsize=(7.0 * len(panels) + 1.0, sum(heights) + 1.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=13)
    grid = figure.subplots(
        rows, len(panels), squeeze=False, sharex=True, sharey="row", gridspec_kw={"height_ratios": heights}
    )
    end = max((mark.at for panel in panels for mark in panel.marks), default=1.0)
    for column, panel in enumerate(panels):
        _draw_panel([row[column] for row in grid], panel, end)
        _mark_time(grid[-1][column], end)
    _legend(figure, grid)
    figure.savefig(path, dpi=130)


def in_window(times: Sequence[float], period: float) -> tuple[list[float], list[int]]:
    """Return when the number of ``times`` in the last ``period`` changes, and to what; ``times`` ascend."""
    events = sorted([(time, 1) for time in times] + [(time + period, -1) for time in times])
    at, counts, inside = [0.0], [0], 0
    for time, step in events:
        inside += step
        at.append(time)
        counts.append(inside)
    return at, counts


def _draw_panel(axes: Sequence[Axes], panel: Panel, end: float) -> None:
    axes[0].set_title(panel.title, fontsize=11)
    for place, (name, rate) in zip(axes, panel.windows, strict=False):
        times = sorted(mark.at for mark in panel.marks if mark.name == name and not mark.refused)
        _draw_window(place, name, rate, times, end)
        _draw_holds(place, [hold for hold in panel.holds if hold[0] == name])
    for place in axes[len(panel.windows) : -1]:
        place.set_axis_off()
    _draw_workers(axes[-1], panel)
    _draw_holds(axes[-1], panel.holds)
    for place in axes:
        place.spines[["top", "right"]].set_visible(False)


def _mark_time(place: Axes, end: float) -> None:
    """Scale the axis of time, in seconds, minutes or hours, whichever is read most easily."""
    step = next((step for step in _STEPS if end <= 12 * step), _STEPS[-1])
    unit, length = next((unit, length) for unit, length in _UNITS if length <= step or length == 1)
    place.set_xlim(0, end * 1.02)
    place.set_xticks([number * step for number in range(int(end / step) + 1)])
    place.xaxis.set_major_formatter(lambda time, _: f"{plain(time / length)}")
    place.set_xlabel(f"{unit} since the start")


def _draw_window(place: Axes, name: str, rate: Rate, times: Sequence[float], end: float) -> None:
    period = rate.period_us / SECOND
    at, counts = in_window(times, period)
    until = bisect_right(at, end)
    at, counts = [*at[:until], end], [*counts[:until], counts[until - 1]]
    place.step(at, counts, where="post", color=_BLUE, linewidth=1.2, label="calls in the window")
    place.fill_between(at, counts, step="post", color=_BLUE, alpha=0.15, linewidth=0)
    place.axhline(rate.count, color=_RED, linestyle="--", linewidth=1.5, label="limit")
    place.set_ylabel(f"{_short(name)}\ncalls in the last {plain(period)} s", fontsize=9)
    place.set_ylim(0, max(rate.count, *counts) * 1.18)


def _draw_holds(place: Axes, holds: Sequence[tuple[str, float, float]]) -> None:
    for _, start, stop in holds:
        place.axvspan(start, stop, facecolor="none", edgecolor=_GREY, hatch="//", alpha=0.35, label="hold")


def _draw_workers(place: Axes, panel: Panel) -> None:
    waits = [mark for mark in panel.marks if mark.at - mark.asked > 0.001]
    place.hlines(
        [mark.worker + 1 for mark in waits], [mark.asked for mark in waits], [mark.at for mark in waits],
        color=_ORANGE, linewidth=3, alpha=0.55, label="waits for its slot",
    )  # fmt: skip
    for refused, marker, colour, size, label in (
        (False, "|", _BLUE, 60, "call starts"),
        (True, "x", _RED, 28, "refused"),
    ):
        marks = [mark for mark in panel.marks if mark.refused == refused]
        kwargs: dict[str, Any] = {"marker": marker, "color": colour, "s": size, "linewidths": 1.1, "label": label}
        if marks:
            place.scatter([mark.at for mark in marks], [mark.worker + 1 for mark in marks], zorder=3, **kwargs)
    place.set_ylabel("worker", fontsize=9)
    place.set_ylim(panel.workers + 0.6, 0.4)
    place.locator_params(axis="y", integer=True)


def _legend(figure: Any, grid: Any) -> None:
    """Put one legend under all, with each label once."""
    found: dict[str, Any] = {}
    for place in grid.flat:
        for handle, label in zip(*place.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=len(found), frameon=False)


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:20]}…{name[-7:]}"
