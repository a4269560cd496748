"""Tables for people: rich on a terminal, plain columns elsewhere, with the same cells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    import rich.table

BAR = 8


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a title. ``columns``: their heads, one that begins with ``>`` stands to the right."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""

    def plain(self) -> str:
        """Return lines with a title, heads and aligned cells."""
        heads = tuple(column.removeprefix(">") for column in self.columns)
        widths = [max(map(len, cells)) for cells in zip(heads, *self.rows, strict=True)]
        lines = ["  ".join(map(self._cell, row, widths, self.columns)).rstrip() for row in (heads, *self.rows)]
        return "\n".join(filter(None, (self.title, *lines, self.note)))

    def rich(self) -> rich.table.Table:
        """Return it as rich's."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(
            title=self.title,
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            title_style="bold",
            title_justify="left",
        )
        table.caption, table.caption_justify = self.note, "left"
        for column in self.columns:
            right = column.startswith(">")
            justify: Literal["left", "right"] = "right" if right else "left"
            table.add_column(column.removeprefix(">"), justify=justify, no_wrap=bool(table.columns), overflow="fold")
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table

    def _cell(self, text: str, width: int, column: str) -> str:
        return text.rjust(width) if column.startswith(">") else text.ljust(width)


def is_rich(stream: TextIO) -> bool:
    """Tell whether to show in rich: on a terminal, where it is installed."""
    return stream.isatty() and find_spec("rich") is not None


def show(tables: Sequence[Table], stream: TextIO) -> None:
    """Print tables."""
    if is_rich(stream):
        from rich.console import Console

        console = Console(file=stream, highlight=False)
        for table in tables:
            console.print(table.rich())
    else:
        print("\n\n".join(table.plain() for table in tables), file=stream, flush=True)


def show_json(value: Any, stream: TextIO) -> None:
    """Print a value as JSON on one line."""
    print(json.dumps(value), file=stream, flush=True)


def bar(part: float) -> str:
    """Return a bar of which so much is full."""
    full = round(min(max(part, 0.0), 1.0) * BAR)
    return "█" * full + "░" * (BAR - full)


def duration(seconds: float) -> str:
    """Return seconds as people read them, such as ``12.0 s``, ``5m 2s`` or ``3h 20m``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)]
    left, parts = round(seconds), list[str]()
    for unit, length in units:
        count, left = divmod(left, length)
        if count or parts:
            parts.append(f"{count}{unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0"))
