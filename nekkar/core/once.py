"""Warnings that are logged once, however often their cause happens."""

from __future__ import annotations

import logging

log = logging.getLogger("nekkar")


class Once:
    """The kinds of warnings that one ``Nekkar`` has logged. Thread-safe, except that a line may rarely appear twice."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def warn(self, kind: str, text: str, *values: object, error: BaseException | None = None) -> None:
        """Warn, with the traceback of an error where one is given, if nothing of this kind was said yet."""
        if kind not in self._said:
            self._said.add(kind)
            log.warning(text, *values, exc_info=error)
