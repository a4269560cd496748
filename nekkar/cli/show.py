"""Output of the commands: tables, JSON, and values in a readable form."""

from __future__ import annotations

import json
from typing import Any, TextIO

from nekkar.tables import Table, is_rich, show

__all__ = ["Table", "bar", "duration", "is_rich", "show", "show_json"]

BAR = 8


def show_json(value: Any, stream: TextIO) -> None:
    """Print a value as JSON on one line."""
    print(json.dumps(value), file=stream, flush=True)


def bar(part: float) -> str:
    """Return a bar of which ``part``, from 0 to 1, is filled."""
    full = round(min(max(part, 0.0), 1.0) * BAR)
    return "█" * full + "░" * (BAR - full)


def duration(seconds: float) -> str:
    """Return seconds in a readable form, such as ``12.0 s``, ``5m 2s`` or ``3h 20m``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    units = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)]
    left, parts = round(seconds), list[str]()
    for unit, length in units:
        count, left = divmod(left, length)
        if count or parts:
            parts.append(f"{count}{unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0"))
