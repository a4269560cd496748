"""Warnings that are worth a line in the log once, however often what they tell of happens."""

from __future__ import annotations

import logging

log = logging.getLogger("nekkar")


class Once:
    """What one ``Nekkar`` has said already, by kind. Thread-safe but for a rare second line."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def warn(self, kind: str, text: str, *values: object, error: BaseException | None = None) -> None:
        """Warn, with the traceback of an error where one is given, if nothing of this kind was said yet."""
        if kind not in self._said:
            self._said.add(kind)
            log.warning(text, *values, exc_info=error)
