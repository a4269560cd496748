"""What was measured, to look at: tables on the terminal, the same as Markdown for the docs, and a picture."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from rich.console import Console
from rich.table import Table

from tests.benchmarks import cost, load
from tests.benchmarks.figures import Figure
from tests.benchmarks.goals import Verdict

PICTURED = [cost.HOT, cost.COLD, load.THREADS.format(64), load.FORKS.format(32), load.USED, load.CPU]


def show(console: Console, figures: list[Figure], verdicts: list[Verdict]) -> None:
    """Print all figures, by heading, and each goal with met or not met."""
    table = Table("what", "who", "", "unit", title="Measured", header_style="bold")
    table.columns[2].justify = "right"
    for what, group in grouped(figures):
        for index, figure in enumerate(group):
            table.add_row("" if index else what, figure.who, shown(figure.value), figure.unit)
        table.add_section()
    console.print(table)
    goals = Table("goal", "found", "bound", "", title="Goals", header_style="bold")
    for verdict in verdicts:
        goals.add_row(verdict.goal, *_found(verdict))
    console.print(goals)


def _found(verdict: Verdict) -> tuple[str, str, str]:
    bound = f"{'≥' if verdict.at_least else '≤'} {verdict.bound:g}"
    found = "" if verdict.found is None else shown(verdict.found)
    colour = {None: "dim", True: "green", False: "red"}[verdict.is_met]
    return found, bound, f"[{colour}]{verdict.word}[/]"


def grouped(figures: list[Figure]) -> Iterator[tuple[str, list[Figure]]]:
    """Yield the figures of each heading, in the order measured."""
    groups: dict[str, list[Figure]] = {}
    for figure in figures:
        groups.setdefault(figure.what, []).append(figure)
    yield from groups.items()


def shown(value: float) -> str:
    """Return three digits of a value, or all of a large one."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def draw(figures: list[Figure], file: str) -> bool:
    """Draw a bar for each figure of some headings; False where there is none, or matplotlib is not installed."""
    groups = [(what, group) for what, group in grouped(figures) if what in PICTURED]
    if not groups or not find_spec("matplotlib"):
        return False
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    height = sum(0.8 + 0.28 * len(group) for _, group in groups)
    ratios = [1 + 0.3 * len(group) for _, group in groups]
    page, axes = pyplot.subplots(len(groups), 1, figsize=(9, height), squeeze=False, height_ratios=ratios)
    for (what, group), axis in zip(groups, axes[:, 0], strict=True):
        names, values = [figure.who for figure in group], [figure.value for figure in group]
        colours = [_colour(name) for name in names]
        axis.barh(names, values, color=colours)
        axis.bar_label(axis.containers[0], labels=[shown(value) for value in values], padding=3, fontsize=8)
        axis.set_title(f"{what} ({group[0].unit})" if group[0].unit else what, loc="left", fontsize=10)
        axis.invert_yaxis()
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.12)
    page.tight_layout()
    page.savefig(file, dpi=120)
    pyplot.close(page)
    return True


def _colour(name: str) -> str:
    return "#1b7f5c" if name.startswith("nekkar") else "#b0b0b0" if name.startswith("floor") else "#4a6fa5"
