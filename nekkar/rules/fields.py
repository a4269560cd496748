"""The JSON body of a request, for limits that are named by a field of it, as ``openai-{json:model}`` is.

- A body is read when a rule first asks for a field of it, and once.
- Text that is not empty, numbers and booleans name a limit, as the body spells them. Everything else is as if it were
  absent: null, a list, an object, a body that is not JSON, that is a stream, or that is over ``MOST_BODY`` bytes.
- Nothing here raises: a request never fails for its body.
"""

from __future__ import annotations

import json
from typing import Any

MOST_BODY = 8_000_000  # bytes


class Body:
    """The body of one request; ``content`` is bytes or text, and anything else (None, a stream) has no fields."""

    __slots__ = ("_content", "_read")

    def __init__(self, content: object = None) -> None:
        self._content: Any = content
        self._read: Any = None

    def field(self, path: str) -> str | None:
        """Return a field as text, or None if the body lacks it; ``path`` is dotted where it is inside another."""
        if self._content is not None:
            self._read, self._content = _json(self._content), None
        value = self._read
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int):
            return str(value)
        return value if isinstance(value, str) and value else None


def _json(content: object) -> Any:
    """Parse a body; return None where it is not JSON."""
    if not isinstance(content, bytes | bytearray | str) or len(content) > MOST_BODY:
        return None
    try:
        return json.loads(content, parse_float=str, parse_constant=lambda _: None)
    except (ValueError, RecursionError):  # not JSON, not Unicode, a number of over 4,300 digits; nested too deeply
        return None
