"""The numbered rules of the concepts: each is named in the core at a line that keeps it, and none without a page."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nekkar.core
from tests.support.pages import DOCS

CORE = Path(nekkar.core.__file__).parent
LISTED = re.compile(r"^(\d+)\. \*\*", re.MULTILINE)
NAMED = re.compile(r"\b[Rr]ules?\s(\d+(?:(?:,| and| to)\s\d+)*)")


def named(text: str) -> set[int]:
    """Return the numbers of the rules that a text names."""
    return {int(number) for found in NAMED.findall(text) for number in re.findall(r"\d+", found)}


def on_pages() -> set[int]:
    """Return the numbers of the rules that the concepts list, or state in their text."""
    pages = [page.read_text(encoding="utf-8") for page in (DOCS / "concepts").glob("*.md")]
    return {int(number) for page in pages for number in LISTED.findall(page)}.union(*map(named, pages))


def in_core() -> set[int]:
    """Return the numbers of the rules that the core names beside its code: what heads a file does not count."""
    numbers = set[int]()
    for path in CORE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        heading = ast.get_docstring(ast.parse(text), clean=False) or ""
        numbers |= named(text.replace(heading, "", 1))
    return numbers


def test_each_rule_is_named_at_a_line_that_keeps_it() -> None:
    """A rule that nobody keeps is found here, and so is a number that no page explains."""
    assert in_core() == on_pages()
    assert len(on_pages()) > 30
