"""What callers ask of a ledger, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class Ask(Protocol):
    """What a caller wants: ``cost`` hits, by ``deadline`` (µs; None: whenever)."""

    @property
    def cost(self) -> int: ...
    @property
    def deadline(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Slot:
    """``cost`` hits booked at ``at`` in the log's ``epoch``."""

    at: int
    cost: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """No slot before ``at``, which is past the deadline; nothing was booked."""

    at: int
