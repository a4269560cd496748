"""The figures as Markdown, in place: ``python -m tests.benchmarks --pages docs/performance.md docs/comparison.md``.

A page has ``<!-- measured: NAME -->`` and ``<!-- end -->``, each on a line; what stands between them is written anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tests.benchmarks import cost, faces, load, loops, size
from tests.benchmarks.figures import Figure
from tests.benchmarks.goals import Verdict
from tests.benchmarks.report import shown

PLACE = re.compile(r"(<!-- measured: ([a-z]+) -->\n)(.*?)(<!-- end -->\n)", re.DOTALL)
Columns = dict[str, str]  # what it heads, by the heading of the figures

NEVER_BINDS = {
    "hot, µs": cost.HOT,
    "cold, µs": cost.COLD,
    "Python calls, cold": cost.PYTHON_CALLS,
    "64 threads, /s": load.THREADS.format(64),
    "32 processes, /s": load.FORKS.format(32),
}
TASKS = {
    "hot, µs": cost.HOT_ASYNC,
    "cold, µs": cost.COLD_ASYNC,
    "beside work of 1 ms, µs": cost.BUSY_ASYNC,
    "Python calls, cold": cost.PYTHON_CALLS_ASYNC,
}
BINDING = {
    "worst window": load.WORST,
    "share used": load.USED,
    "least / largest share": load.FAIR,
    "CPU, ms": load.CPU,
    "commands": load.COMMANDS,
}
LOOPS = {
    "1 process": loops.USED.format(1, 1),
    "4 processes": loops.USED.format(1, 4),
    "1 process, 3 ms": loops.USED.format(3, 1),
    "4 processes, 3 ms": loops.USED.format(3, 4),
}
STUBBED = {"requests": faces.ADAPTER, "httpx": faces.TRANSPORT, "httpx in a task": faces.TRANSPORT_ASYNC}
SIZES = {f"{calls:,} calls, B": size.BYTES.format(calls) for calls in (100, 1_000, 10_000, 100_000)}

TABLES: dict[str, tuple[str, Columns]] = {
    "machine": ("", {}),
    "neverbinds": ("", NEVER_BINDS),
    "tasks": ("", TASKS),
    "binding": ("100 per 2 s, 8 processes", BINDING),
    "loops": ("share used", LOOPS),
    "sizes": ("", SIZES),
    "stubbed": ("µs a call", STUBBED),
    "goals": ("", {}),
}


def written(pages: Iterable[str], figures: list[Figure], verdicts: list[Verdict], where: str) -> None:
    """Write the tables of this run into pages; ``where``: what it ran on. A table without figures stays as it was."""
    values = {(figure.what, figure.who): figure.value for figure in figures}
    texts = {name: _table(corner, columns, values) for name, (corner, columns) in TABLES.items() if columns}
    texts |= {"machine": f"\n{where}\n\n", "goals": _goals(verdicts)}
    for page in pages:
        file = Path(page)
        text = file.read_text(encoding="utf-8")
        file.write_text(PLACE.sub(lambda place: place[1] + (texts[place[2]] or place[3]) + place[4], text), "utf-8")


def _table(corner: str, columns: Columns, values: dict[tuple[str, str], float]) -> str:
    """Return a table of who by columns, without those of which nothing was measured; "" where nothing was."""
    known = {head: what for head, what in columns.items() if any(heading == what for heading, _ in values)}
    lines = [f"| {corner} | {' | '.join(known)} |", f"|{'---|' * (len(known) + 1)}"]
    for who in dict.fromkeys(who for what, who in values if what in known.values()):
        cells = [_cell(what, values.get((what, who))) for what in known.values()]
        lines.append(f"| {who.removeprefix('floor: ')} | {' | '.join(cells)} |")
    return _block(lines)


def _cell(what: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"**{shown(value)}**" if what == load.WORST and value > load.CALLS else shown(value)


def _goals(verdicts: list[Verdict]) -> str:
    lines = ["| goal | found | bound | |", "|---|---|---|---|"]
    for verdict in verdicts:
        if verdict.found is not None:
            bound = f"{'≥' if verdict.at_least else '≤'} {verdict.bound:g}"
            lines.append(f"| {verdict.goal} | {shown(verdict.found)} | {bound} | {verdict.word} |")
    return _block(lines)


def _block(lines: list[str]) -> str:
    return "\n" + "".join(line + "\n" for line in lines) + "\n" if len(lines) > 2 else ""
