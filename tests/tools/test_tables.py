"""Tables: nothing in a cell is ever cut, however narrow the terminal and however long a name."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from nekkar.core.events import Waiting
from nekkar.core.limiter import Nekkar
from nekkar.progress import Progress
from tests.support.internals.cli import main
from tests.support.internals.demo import Outcome, Result, Tally
from tests.support.internals.demo import progress as demo_progress
from tests.support.internals.demo import show as show_demo
from tests.support.internals.tools import Table, bars_of, show, width_of
from tests.support.internals.tools import tables as tables_module
from tests.tools.test_progress import Terminal

NAME = "a-limit-of-an-account-with-a-long-name[bold]-and-日本語-{json:model}"
NUMBERS = ("1234567", "98765432", "10000000")
TABLE = Table(
    "Limits on memcached://[::1]:11211",
    ("limit", "window", ">used", "", ">left", "next slot"),
    [(NAME, "10000000/2592000 s", "1234567", "████░░░░", "98765432", "in 12d 13h"), ("", "3/day", "1", "█", "2", "")],
    "The [bold] limit binds.",
)
WIDTHS = (20, 30, 40, 60, 80, 200)


def bare(text: str) -> str:
    """Return a text without what a terminal adds: codes, blanks and line breaks."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\s", "", text)


def check(output: str, *texts: str) -> None:
    """Check that all of these texts are there in full; a wrapped one goes on in the next line."""
    assert "…" not in output
    for text in texts:
        assert bare(text) in bare(output), text


@pytest.mark.parametrize("width", WIDTHS)
def test_in_rich_every_cell_is_there_in_full(width: int) -> None:
    """Beside each other where there is room, else below each other; and no line is longer than the terminal is wide."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    console.print(TABLE.rich(console))
    output = console.file.getvalue()  # type: ignore[attr-defined]
    check(output, TABLE.title, TABLE.note, *(cell for row in TABLE.rows for cell in row))
    lines = re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines()
    assert max(map(width_of, lines)) <= width
    for number in NUMBERS:
        assert any(re.search(rf"\b{number}\b", line) for line in lines), "no number goes over the end of a line"


@pytest.mark.parametrize("width", [None, *WIDTHS])
def test_in_plain_text_too(width: int | None) -> None:
    """Where there is no rich; a pipe has no width."""
    output = TABLE.plain(width)
    check(output, TABLE.title, TABLE.note, *(cell for row in TABLE.rows for cell in row))
    assert ("  used: 1234567 ████░░░░" in output) == (width is not None and width < 150)


def test_columns_line_up_beside_wide_characters() -> None:
    """One of these takes two columns of a terminal."""
    table = Table("", ("name", ">n"), [("日本語", "1"), ("abc", "22")])
    assert table.plain() == "name     n\n日本語   1\nabc     22"


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\nb", "a\r\tb", "a\u202eb", "a\ud800b", "a\0b"])
def test_a_name_of_odd_characters_neither_breaks_a_row_nor_reaches_the_terminal(name: str) -> None:
    """A name may be captured from a URL. Its characters are shown by their codes, in columns of their own."""
    stream = io.StringIO()
    show([Table("title", ("limit", ">used"), [(name, "5")])], stream)
    lines = stream.getvalue().splitlines()
    assert lines[2].isprintable()
    assert lines[2].split() == [repr(name)[1:-1], "5"]
    assert len(lines) == 3


def test_a_terminal_without_rich_gets_lines_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As wide as it says it is."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(tables_module, "find_spec", lambda name: None)
    stream = Terminal()
    show([TABLE], stream)
    assert stream.getvalue() == TABLE.plain(40) + "\n" != TABLE.plain() + "\n"


# The commands.

LONG = "search-of-the-catalogue-of-a-large-customer"
RULES = f"""\
[limits]
"{LONG}" = "1234567/second; 7654321/month"

[[rules]]
url = "*"
limit = "{LONG}"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEKKAR_CACHE", "sqlite:///limits.db")
    monkeypatch.setenv("TERM", "xterm")
    Path("limits.toml").write_text(RULES)
    Nekkar("sqlite:///limits.db")(LONG, "1234567/second; 7654321/month").acquire(1_111_111)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
@pytest.mark.parametrize("width", [20, 40, 80])
@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ("status --rules limits.toml", (LONG, "1234567/second", "7654321/2592000 s", "1111111", "6543210")),
        (f"status {LONG}", (LONG, "1234567/second", "7654321/2592000 s", "1111111", "6543210")),
        ("explain GET https://x.y --rules limits.toml", (LONG, "1234567/second", "1111111", "6543210")),
        (f"hold {LONG} 5m --yes", (LONG, "7654321/2592000 s", "1111111", "6543210")),
        (
            "simulate --rules limits.toml --workers 1000 --latency 1.234567 --calls",
            ("12345 calls by 1000 workers take", LONG, "12345", "The workers bind"),
        ),
        ("check limits.toml", ("limits.toml: no fault; 1 rule, 1 limit",)),
    ],
)  # fmt: skip
def test_no_command_cuts_a_name_or_a_number(
    line: str,
    texts: tuple[str, ...],
    width: int,
    stream: Callable[[], io.StringIO],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On terminals of 20 to 80 columns and in a pipe."""
    monkeypatch.setenv("COLUMNS", str(width))
    out = stream()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert main([*line.split(), *(["GET https://x.y 12345"] if line.startswith("simulate") else [])]) == 0
    check(out.getvalue(), *texts)


def test_one_call_by_one_worker_takes(monkeypatch: pytest.MonkeyPatch, folder: None) -> None:
    """Nouns and verbs go with their counts."""
    for calls, title in ((1, "1 call by 1 worker takes "), (2, "2 calls by 1 worker take ")):
        out = io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        main(["simulate", "--rules", "limits.toml", "--calls", f"GET https://x.y {calls}"])
        assert out.getvalue().startswith(title)


@pytest.mark.parametrize("width", [20, 40, 80])
def test_the_demo_cuts_no_figure(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in its table nor while it runs."""
    monkeypatch.setenv("COLUMNS", str(width))
    limited = Outcome((Tally(accepted=1234567, in_time=1234567, operations=7654321),))
    bare_run = Outcome((Tally(accepted=1, refused=98765432),))
    out = Terminal()
    show_demo(Result(1, "1234567/second", 10.0, "sqlite:///a/long/path/limits.db", 1234567, limited, bare_run), out)
    check(out.getvalue(), "1234567", "98765433", "1 worker, 10 s", "with nekkar", "cache operations per call")
    running = Terminal()
    with demo_progress(running, 10.0) as report:
        report("with nekkar", 1.0, limited)
    check(running.getvalue(), "with nekkar")
    assert "1234567" in running.getvalue()


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_wait_shows_its_name_and_seconds_in_full(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a bar that is left out where it would take their room."""
    monkeypatch.setenv("COLUMNS", str(width))
    out = Terminal()
    progress = Progress(out)
    progress(Waiting(LONG, 1, 100.0, 100.0 + 123456.0, 0.0, 1))
    bars_of(progress).refresh()
    bars_of(progress).stop()
    assert "123456 s" in out.getvalue()
    check(re.sub("123456 s|━", "", out.getvalue()), LONG, "call waits")
