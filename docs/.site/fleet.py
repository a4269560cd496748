"""The picture of a fleet with nekkar and without: ``python docs/.site/fleet.py FILE`` runs both and draws them.

The runs are those of ``nekkar demo``: worker processes against a strict server on this machine. Unlike the demo's
picture it counts what was sent, refused calls too: that is what a service sees of a fleet.
"""

from __future__ import annotations

import sys
from tempfile import TemporaryDirectory
from typing import Any

from nekkar.core.quota import SECOND, quota
from nekkar.demo.fleet import Outcome, run_fleet
from nekkar.demo.worker import Terms
from nekkar.plot import in_window

WORKERS, RATE, SECONDS = 4, "20/second", 6.0
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#444444"  # Okabe and Ito's: told apart by the colour-blind


def draw(runs: dict[str, Outcome], path: str) -> None:
    """Draw each run: what was sent in the last period, and each worker's calls."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(runs), sharex=True, sharey="row", gridspec_kw={"height_ratios": [2, 1]})
    for (title, run), above, below in zip(runs.items(), *grid, strict=True):
        above.set_title(title)
        draw_sent(above, run)
        draw_workers(below, run)
    grid[0][0].set_ylim(bottom=0)
    figure.legend(*grid[0][-1].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=120)


def draw_sent(place: Any, run: Outcome) -> None:
    """Draw the calls of the last period: all in one colour, those that were accepted over them in another."""
    (rate,) = quota(RATE).rates
    period = rate.period_us / SECOND
    for refused_too, colour, hatch, label in (
        (True, VERMILION, "///", "refused with 429"),
        (False, BLUE, None, "accepted"),
    ):
        times = [answer.asked + answer.waited for _, answer in run.calls if refused_too or answer.status == 200]
        at, counts = in_window(sorted(times), period)
        place.fill_between(at, counts, step="post", facecolor="white", linewidth=0)
        place.fill_between(at, counts, step="post", facecolor=colour, alpha=0.45, hatch=hatch, linewidth=0, label=label)
    place.axhline(rate.count, color=GREY, linestyle="--", linewidth=1.5, label=f"limit: {rate}")
    place.set(ylabel=f"calls sent in the last {period:g} s", xlim=(0, SECONDS))
    place.locator_params(axis="y", integer=True)


def draw_workers(place: Any, run: Outcome) -> None:
    """Draw each worker's calls on a line of its own: a bar for each that was accepted, a cross where it was refused."""
    for status, marker, colour in ((200, "|", BLUE), (429, "x", VERMILION)):
        calls = [(answer.asked + answer.waited, worker + 1) for worker, answer in run.calls if answer.status == status]
        place.scatter(*zip(*calls, strict=True) if calls else ([], []), marker=marker, color=colour, s=36, linewidths=1)
    place.set(
        xlabel="seconds since the start", ylabel="worker", ylim=(WORKERS + 0.6, 0.4), yticks=range(1, WORKERS + 1)
    )


def main(path: str) -> None:
    """Run both fleets, and draw them."""
    rates = quota(RATE).rates
    with TemporaryDirectory() as folder:
        terms = Terms(f"sqlite:///{folder}/limits.db", "fleet", RATE)
        limited, bare = (run_fleet(WORKERS, rates, SECONDS, each, lambda *_: None) for each in (terms, None))
    told = [f"{run.total('accepted')} accepted, {run.total('refused')} refused" for run in (limited, bare)]
    draw({f"with nekkar: {told[0]}": limited, f"without: {told[1]}": bare}, path)


if __name__ == "__main__":
    main(sys.argv[1])
