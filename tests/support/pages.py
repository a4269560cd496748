"""The README and the pages of ``docs``, as tests read them: fences of code, and the files that a reader has by then."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]

_FENCE = re.compile(r"^( *)```(\w+)(?: +title=\"([^\"]+)\")?[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Fence:
    """A fence of code. ``files``: by name, what the fences before it on its page (and its own) put into files.

    TOML without a title is ``limits.toml``.
    """

    page: Path
    line: int
    language: str
    code: str
    files: dict[str, str]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def fences(page: Path, language: str) -> Iterator[Fence]:
    """Yield the fences of a page in one language, in order."""
    text, files = page.read_text(encoding="utf-8"), dict[str, str]()
    for found in _FENCE.finditer(text):
        title, code = found[3] or ("limits.toml" if found[2] == "toml" else None), dedent(found[4])
        if title:
            files[title] = code
        if found[2] == language:
            yield Fence(page, text.count("\n", 0, found.start()) + 1, language, code, dict(files))


def all_fences(language: str) -> list[Fence]:
    """Return the fences of all pages in one language."""
    return [fence for page in PAGES for fence in fences(page, language)]


LIMITS_TOML = next(fences(DOCS / "how-to" / "rule-files.md", "toml")).code
