"""Meters: what a call costs in tokens, estimated from its request and measured in its answer.

A meter is an object with these methods; ``meter`` of a limit takes one, or the name of one that is built in:

- ``estimate(request)`` returns the hits by unit that are booked before the call starts, such as ``{"tokens": 1200}``.
- ``measure(response)`` returns what the call did cost, in the same form; None where the answer does not tell.
- ``measure_event(data)``, if it is there, returns the same of one event of a stream; the last answer counts.
- ``for_stream()``, if it is there, returns the meter of one stream, which may remember earlier events of it.

The built-in ones report ``input_tokens``, ``output_tokens`` and their sum ``tokens``.

1. The estimate of the input is a quarter of its characters, or what ``tokenizer`` counts in its texts.
2. The estimate of the output is the most that the request allows; ``default_output`` where it names no most.
3. An answer that is not a success, such as a 4xx or 5xx, costs no tokens.
4. Usage that a service does not report is not guessed: ``measure`` returns None, and the call costs its estimate.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from nekkar.core.errors import ConfigurationError, kind_of, shown

__all__ = ["Anthropic", "Meter", "OpenAI", "Request", "Response"]

INPUT, OUTPUT, TOKENS = "input_tokens", "output_tokens", "tokens"
CHARACTERS = 4  # per token, on average
INLINE = 1600  # tokens of an image or file within the request: about what a large image costs
FIRST_REFERRAL, FIRST_ERROR = 300, 400

_TEXTS = ("messages", "input", "prompt", "system", "instructions")
_SCHEMAS = ("tools", "functions")  # whole: a model reads the names too
_MARKS = {
    "role",
    "type",
    "id",
    "call_id",
    "tool_call_id",
    "tool_use_id",
    "cache_control",
}  # no model reads them as text


class Request(Protocol):
    """A request as a meter sees it. ``content``: the body, ``b""`` where it is a stream. ``headers`` ignore case."""

    method: str
    url: str
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:
        """Return what the body holds; raise ValueError if that is not JSON."""


class Response(Protocol):
    """An answer as a meter sees it. ``content``: the decoded body. ``headers`` ignore case."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:
        """Return what the body holds; raise ValueError if that is not JSON."""


class Meter(Protocol):
    """What ``meter`` of a limit takes. ``measure_event`` and ``for_stream`` are optional."""

    def estimate(self, request: Request) -> Mapping[str, int]:
        """Return what the call may cost, by unit."""

    def measure(self, response: Response) -> Mapping[str, int] | None:
        """Return what the call did cost, by unit; None where the answer does not tell."""


class _Tokens:
    """What the meters of language models share; each knows where its service's usage stands."""

    def __init__(self, default_output: int = 1024, tokenizer: Callable[[str], int] | None = None) -> None:
        if isinstance(default_output, bool) or not isinstance(default_output, int) or default_output < 0:
            raise ConfigurationError(
                f"default_output {shown(default_output)} is not a number of tokens; give an int from 0"
            )
        if tokenizer is not None and not callable(tokenizer):
            raise ConfigurationError(f"tokenizer {kind_of(tokenizer)} is not callable; give a function of one text")
        self.default_output, self.tokenizer = default_output, tokenizer

    def estimate(self, request: Request) -> dict[str, int]:
        """Return the tokens of the request and the most that its answer may have; 0 for other requests.

        Takes time in proportion to the body.
        """
        asked = _object(request)
        if not any(key in asked for key in _TEXTS):
            return _usage(0, 0)
        return _usage(self._input(asked), self._output(request.url.partition("?")[0], asked))

    def measure(self, response: Response) -> dict[str, int] | None:
        """Return the tokens that the answer reports; 0 if it is not a success, None if it reports none."""
        return _usage(0, 0) if response.status_code >= FIRST_REFERRAL else self._used(_object(response).get("usage"))

    def _input(self, asked: dict[str, Any]) -> int:
        texts, tokens = [], 0
        for found in _read([asked.get(key) for key in _TEXTS]):
            if isinstance(found, str):
                texts.append(found)
            else:
                tokens += found
        texts += [json.dumps(asked[key], ensure_ascii=False) for key in _SCHEMAS if asked.get(key)]
        if self.tokenizer:
            return tokens + sum(map(self.tokenizer, texts))
        return tokens - -sum(map(len, texts)) // CHARACTERS

    def _output(self, path: str, asked: dict[str, Any]) -> int:
        raise NotImplementedError

    def _used(self, usage: Any) -> dict[str, int] | None:
        raise NotImplementedError


class OpenAI(_Tokens):
    """The tokens of OpenAI's chat completions, completions, responses and embeddings, and of services that speak these.

    ``default_output``: the tokens of an answer that are booked where the request names no most (``max_tokens``,
    ``max_completion_tokens``, ``max_output_tokens``). ``tokenizer``: a function from a text to its number of tokens;
    else a quarter of its characters. A stream tells its usage where the request asks for it:
    ``stream_options={"include_usage": True}`` (the responses API does by itself). Raises ConfigurationError.
    """

    def measure_event(self, data: dict[str, Any]) -> dict[str, int] | None:
        """Return the tokens that an event of a stream reports; None for events that report none."""
        for holder in (data, data.get("response"), data.get("x_groq")):
            if isinstance(holder, dict) and (used := self._used(holder.get("usage"))):
                return used
        return None

    def _output(self, path: str, asked: dict[str, Any]) -> int:
        if path.endswith("/embeddings"):
            return 0
        named = (asked.get(key) for key in ("max_completion_tokens", "max_output_tokens", "max_tokens"))
        most = next((count for count in map(_count, named) if count is not None), self.default_output)
        return most * max(1, _count(asked.get("n")) or 1, _count(asked.get("best_of")) or 1)

    def _used(self, usage: Any) -> dict[str, int] | None:
        if not isinstance(usage, dict):
            return None
        taken = _first(usage, "prompt_tokens", INPUT)
        return None if taken is None else _usage(taken, _first(usage, "completion_tokens", OUTPUT) or 0)


class Anthropic(_Tokens):
    """The tokens of Anthropic's messages. What was read from a cache does not count; what was written to one does.

    ``default_output`` and ``tokenizer``: as of ``OpenAI``. Raises ConfigurationError.
    """

    _begun: dict[str, Any] | None = None

    def for_stream(self) -> Anthropic:
        """Return a meter that remembers how one stream began: only that event tells what the input took."""
        return copy.copy(self)

    def measure_event(self, data: dict[str, Any]) -> dict[str, int] | None:
        """Return the tokens that an event of a stream tells: of its start the input alone, of its end both."""
        if data.get("type") == "message_start":
            message = data.get("message")
            self._begun = message.get("usage") if isinstance(message, dict) else None
            used = self._used(self._begun)
            return used and {INPUT: used[INPUT]}
        if data.get("type") == "message_delta" and isinstance(data.get("usage"), dict):
            begun = self._begun if isinstance(self._begun, dict) else {}
            return self._used({**begun, **{key: told for key, told in data["usage"].items() if told is not None}})
        return None

    def _output(self, path: str, asked: dict[str, Any]) -> int:
        most = _count(asked.get("max_tokens"))
        return 0 if path.endswith("/count_tokens") else self.default_output if most is None else most

    def _used(self, usage: Any) -> dict[str, int] | None:
        if not isinstance(usage, dict):
            return None
        taken, given = _count(usage.get(INPUT)), _count(usage.get(OUTPUT))
        if taken is None:
            return None
        return _usage(taken + (_count(usage.get("cache_creation_input_tokens")) or 0), given or 0)


BUILT_IN: dict[str, Callable[[], Meter]] = {"openai": OpenAI, "anthropic": Anthropic}


def meter_of(setting: Any) -> Meter:
    """Return the meter that a table's ``meter`` means, which was checked as the table was built."""
    return BUILT_IN[setting]() if isinstance(setting, str) else setting


def _usage(taken: int, given: int) -> dict[str, int]:
    return {INPUT: taken, OUTPUT: given, TOKENS: taken + given}


def _object(body: Request | Response) -> dict[str, Any]:
    """Return the JSON object in a body; an empty one where it holds something else."""
    try:
        found = body.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _first(usage: dict[str, Any], *keys: str) -> int | None:
    return next((count for key in keys if (count := _count(usage.get(key))) is not None), None)


def _read(values: list[Any]) -> Iterator[str | int]:
    """Yield the texts in values, however deep, and a number of tokens for an image or a file."""
    left = values
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield INLINE if value.startswith("data:") and ";base64," in value[:100] else value
        elif isinstance(value, list):
            if value and all(type(each) is int for each in value):
                yield len(value)  # tokens already
            else:
                left += value
        elif isinstance(value, dict):
            if isinstance(value.get("data"), str) and ("media_type" in value or "format" in value):
                yield INLINE
            else:
                left += [each for key, each in value.items() if key not in _MARKS]
