"""Tables for people: rich on a terminal, plain columns elsewhere, with the same cells.

- No cell is ever cut: of a number without its end nobody knows that it is one. Where a table does not fit between
  the edges of a terminal, each row becomes lines of its own, ``head: cell``, and long ones wrap.
- What is not a terminal (a pipe, a file) has no edges: there all columns stand beside each other.
- Texts are shown as they are: brackets in the name of a limit are not markup. Characters that are not printable, as a
  name may have that was captured from a URL, are shown by their code: they could move the cursor or break a row.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, TextIO
from unicodedata import combining, east_asian_width

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a title. ``columns``: their heads, one that begins with ``>`` stands to the right.

    ``styles``: rich's styles of columns, by their heads. An empty head goes with the column before it.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Row]
    note: str = ""
    styles: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", [tuple(map(_printable, row)) for row in self.rows])

    @property
    def heads(self) -> Row:
        """The heads of the columns, without their signs."""
        return tuple(column.removeprefix(">") for column in self.columns)

    @property
    def widths(self) -> list[int]:
        """How many columns of a terminal each column takes."""
        return [max(map(width_of, cells)) for cells in zip(self.heads, *self.rows, strict=True)]

    def plain(self, width: int | None = None) -> str:
        """Return lines with a title, heads and aligned cells; below each other where that takes over ``width``."""
        lines = [self._line(row) for row in (self.heads, *self.rows)]
        if width is not None and max(map(width_of, lines)) > width:
            lines = list(self._lines())
        return "\n".join(filter(None, (self.title, *lines, self.note)))

    def rich(self, console: Console) -> RenderableType:
        """Return it as rich's, for the width of a console."""
        from rich.box import SIMPLE_HEAD
        from rich.console import Group
        from rich.measure import Measurement
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for column, head in zip(self.columns, self.heads, strict=True):
            justify: Literal["left", "right"] = "right" if column.startswith(">") else "left"
            table.add_column(Text(head), justify=justify, no_wrap=True, style=self.styles.get(head, ""))
        for row in self.rows:
            table.add_row(*map(Text, row))
        unbounded = console.options.update(max_width=sum(self.widths) + 4 * len(self.columns))
        fits = Measurement.get(console, unbounded, table).maximum <= console.width
        body = table if fits else Text("\n".join(self._lines()), overflow="fold")
        title, note = Text(self.title, style="bold", overflow="fold"), Text(self.note, style="dim", overflow="fold")
        return Group(*(part for part in (title, body, note) if part))

    def _line(self, row: Row) -> str:
        """Return a row's cells beside each other."""
        cells = zip(row, self.widths, self.columns, strict=True)
        return "  ".join(_padded(text, width, column.startswith(">")) for text, width, column in cells).rstrip()

    def _lines(self) -> Iterator[str]:
        """Yield a row's cells below each other, under its first one."""
        for first, *rest in self.rows:
            if first:
                yield first
            parts = list[str]()
            for head, text in zip(self.heads[1:], rest, strict=True):
                if text and head:
                    parts.append(f"  {head}: {text}")
                elif text:
                    parts[-1] += f" {text}"
            yield from parts


def is_rich(stream: TextIO) -> bool:
    """Return whether to show in rich: on a terminal, where it is installed."""
    return stream.isatty() and find_spec("rich") is not None


def show(tables: Sequence[Table], stream: TextIO) -> None:
    """Print tables."""
    if is_rich(stream):
        from rich.console import Console

        console = Console(file=stream, highlight=False)
        for table in tables:
            console.print(table.rich(console))
    else:
        width = shutil.get_terminal_size().columns if stream.isatty() else None
        print("\n\n".join(table.plain(width) for table in tables), file=stream, flush=True)


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text takes: one of China or Japan takes two a character."""
    if text.isascii():
        return len(text)
    return sum(0 if combining(char) else 1 + (east_asian_width(char) in "WF") for char in text)


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _padded(text: str, width: int, to_the_right: bool) -> str:
    blanks = " " * (width - width_of(text))
    return blanks + text if to_the_right else text + blanks
