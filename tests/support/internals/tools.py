"""Tables and plots, telemetry, and helpers of nekkar.testing."""

from __future__ import annotations

from typing import Any

from nekkar import tables
from nekkar.plot import Mark, Panel, draw, in_window
from nekkar.progress import Progress
from nekkar.tables import Table, show, width_of
from nekkar.testing import threads


def bars_of(progress: Progress) -> Any:
    """Return the bars that a progress shows by rich."""
    display: Any = progress._display
    return display._bars
