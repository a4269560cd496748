"""What people see of the faults: progress, and one table at the end; rich on a terminal, else plain lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from tests.integration.outcome import Outcome

HEADS = (
    *("fault", "runs", "worst window", "used", "recovery s", "silence s", "of one s"),
    *("lost", "late ms", "spares", "stall ms"),
)

Results = dict[str, list[Outcome]]
Report = Callable[[str, float], None]


def rows(results: Results) -> list[tuple[str, ...]]:
    """Return a row for each fault: its worst of all runs, and how much was used at least and at most."""
    return [_row(name, outcomes) for name, outcomes in results.items()]


def show(results: Results, stream: TextIO) -> None:
    """Print the table."""
    (_show_rich if stream.isatty() else _show_plain)(results, stream)


@contextmanager
def progress(stream: TextIO, seconds: float) -> Iterator[Report]:
    """Give a function that shows what is played now, and how many of all ``seconds`` are over."""
    if stream.isatty():
        with _bar(stream, seconds) as report:
            yield report
    else:
        yield _lines(stream, seconds)


def _row(name: str, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    worst = f"{max(outcome.worst for outcome in outcomes)} of {outcomes[0].limit}"
    if endpoints := [outcome.endpoint for outcome in outcomes if outcome.endpoint]:
        worst += f", {max(endpoints)[0]} of {endpoints[0][1]}"
    used = sorted(outcome.used for outcome in outcomes)
    lost = [outcome.lost for outcome in outcomes if outcome.lost is not None]
    took = [outcome.recovery for outcome in outcomes]
    return (
        name,
        str(len(outcomes)),
        worst,
        _range(f"{used[0]:.0%}", f"{used[-1]:.0%}"),
        "-" if None in took else _or_dash(max(one for one in took if one is not None), "{:.2f}"),
        f"{max(outcome.silence for outcome in outcomes):.2f}",
        f"{max(outcome.starved for outcome in outcomes):.2f}",
        f"{sum(lost)} to {sum(outcome.kills for outcome in outcomes)} kills" if lost else "-",
        f"{max(outcome.late for outcome in outcomes) * 1e3:.0f}",
        _or_dash(max(outcome.spared for outcome in outcomes), "{:.0%}"),
        f"{max(outcome.stall for outcome in outcomes) * 1e3:.0f}",
    )


def _range(least: str, most: str) -> str:
    return least if least == most else f"{least} to {most}"


def _or_dash(figure: float, form: str) -> str:
    return form.format(figure) if figure else "-"


def _lines(stream: TextIO, seconds: float) -> Report:
    """Say what begins, and each minute how far it is."""
    told: tuple[str, int] | None = None

    def report(label: str, elapsed: float) -> None:
        nonlocal told
        minute = max(0, int(elapsed)) // 60
        if told != (label, minute):
            told = label, minute
            print(f"{max(0.0, elapsed):.0f} of {seconds:.0f} s: {label}", file=stream, flush=True)

    return report


def _show_plain(results: Results, stream: TextIO) -> None:
    table = [HEADS, *rows(results)]
    widths = [max(len(row[index]) for row in table) for index in range(len(HEADS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    print("", *lines, sep="\n", file=stream, flush=True)


@contextmanager
def _bar(stream: TextIO, seconds: float) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<28}"), BarColumn(32), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=stream, highlight=False), refresh_per_second=8) as shown:
        task = shown.add_task("", total=seconds)
        yield lambda label, elapsed: shown.update(task, description=label, completed=elapsed)


def _show_rich(results: Results, stream: TextIO) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(*HEADS, box=SIMPLE_HEAD)
    for row, outcomes in zip(rows(results), results.values(), strict=True):
        over = any(outcome.is_over for outcome in outcomes)
        table.add_row(*row, style="red" if over else "")
    Console(file=stream, highlight=False).print(table)
