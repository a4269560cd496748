"""Signal handlers that run at one line after another: a tracer does what a signal may do between any two of them."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def handled(work: Callable[[], object], at: int, handler: Callable[[], object], *files: str) -> bool:
    """Do some work, and run a handler at the ``at``-th line of that in some files; return whether there is such a line.

    ``files``: what their paths begin with.
    """
    lines = itertools.count()

    def step(frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line" and next(lines) == at:
            handler()
        return step

    tracer = sys.gettrace()
    sys.settrace(lambda frame, *_: step if frame.f_code.co_filename.startswith(files) else None)
    try:
        work()
    finally:
        sys.settrace(tracer)
    return next(lines) > at


def outcomes(work: Callable[[], object], error: Exception, *files: str) -> list[Exception | None]:
    """Return what comes of an error that a handler raises at each line of some work; None where it vanished."""
    found = list[Exception | None]()

    def handler() -> None:
        raise error

    for at in itertools.count():
        try:
            if not handled(work, at, handler, *files):
                break
            found.append(None)
        except Exception as raised:
            found.append(raised)
    return found
