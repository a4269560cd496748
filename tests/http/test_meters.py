"""Meters: what a request may cost and an answer did cost, in the words of OpenAI and Anthropic. No HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekkar.core.errors import ConfigurationError
from nekkar.meters import Anthropic, OpenAI
from tests.support.internals.http import INLINE, RequestView, ResponseView

CHAT = "https://api.openai.com/v1/chat/completions"
EMBEDDINGS = "https://api.openai.com/v1/embeddings?api-version=1"
MESSAGES = "https://api.anthropic.com/v1/messages"
JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text() | st.sampled_from(["usage", "messages"]), children),
    max_leaves=20,
)


def asked(body: Any, url: str = CHAT) -> RequestView:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return RequestView("POST", url, {}, content)


def answered(body: Any, status: int = 200) -> ResponseView:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ResponseView(status, {}, content)


def user(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


def tokens(taken: int, given: int) -> dict[str, int]:
    return {"input_tokens": taken, "output_tokens": given, "tokens": taken + given}


# Estimates.


ESTIMATES: dict[str, tuple[Any, str, dict[str, int]]] = {
    "a chat": (user("x" * 400) | {"max_tokens": 50}, CHAT, tokens(100, 50)),
    "rounded up": (user("x" * 401) | {"max_tokens": 0}, CHAT, tokens(101, 0)),
    "no most": (user("x" * 400), CHAT, tokens(100, 1024)),
    "a most of nothing": (user("x" * 400) | {"max_tokens": None}, CHAT, tokens(100, 1024)),
    "a most that is no number": (user("x" * 400) | {"max_tokens": "9"}, CHAT, tokens(100, 1024)),
    "a negative most": (user("x" * 400) | {"max_tokens": -9}, CHAT, tokens(100, 1024)),
    "the newer name": (user("x" * 400) | {"max_completion_tokens": 60, "max_tokens": 9}, CHAT, tokens(100, 60)),
    "several answers": (user("x" * 400) | {"max_tokens": 50, "n": 3}, CHAT, tokens(100, 150)),
    "the best of several": ({"prompt": "x" * 8, "max_tokens": 5, "n": 2, "best_of": 4}, CHAT, tokens(2, 20)),
    "several prompts": ({"prompt": ["x" * 8, "y" * 8], "max_tokens": 5}, CHAT, tokens(4, 5)),
    "a prompt of tokens": ({"prompt": [1, 2, 3], "max_tokens": 5}, CHAT, tokens(3, 5)),
    "prompts of tokens": ({"prompt": [[1, 2, 3], [4]], "max_tokens": 5}, CHAT, tokens(4, 5)),
    "responses": ({"input": "x" * 40, "instructions": "y" * 40, "max_output_tokens": 7}, CHAT, tokens(20, 7)),
    "embeddings": ({"input": ["x" * 40, "y" * 40]}, EMBEDDINGS, tokens(20, 0)),
    "parts": (user([{"type": "text", "text": "x" * 40}]) | {"max_tokens": 1}, CHAT, tokens(10, 1)),
    "an image": (
        user([{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 99_999}}])
        | {"max_tokens": 1},
        CHAT,
        tokens(INLINE, 1),
    ),
    "sound": (
        user([{"type": "input_audio", "input_audio": {"data": "A" * 9999, "format": "wav"}}]),
        CHAT,
        tokens(INLINE, 1024),
    ),
    "tools": ({"messages": [], "tools": [{"name": "é" * 29}], "max_tokens": 1}, CHAT, tokens(11, 1)),
    "many characters of several bytes": (user("é" * 400) | {"max_tokens": 1}, CHAT, tokens(100, 1)),
    "no request to a model": ({"name": "x" * 400}, CHAT, tokens(0, 0)),
    "no object": (["x" * 400], CHAT, tokens(0, 0)),
    "no JSON": (b"x" * 400, CHAT, tokens(0, 0)),
    "a stream": (b"", CHAT, tokens(0, 0)),
}


@pytest.mark.parametrize("case", ESTIMATES)
def test_openai_estimates(case: str) -> None:
    """A quarter of the characters, and the most that the request allows."""
    body, url, expected = ESTIMATES[case]
    assert OpenAI().estimate(asked(body, url)) == expected


def test_anthropic_estimates() -> None:
    """The system's text and the tools count; counting tokens makes none."""
    body = user("x" * 40) | {"system": [{"type": "text", "text": "y" * 40}], "max_tokens": 300}
    assert Anthropic().estimate(asked(body, MESSAGES)) == tokens(20, 300)
    assert Anthropic().estimate(asked(body, MESSAGES + "/count_tokens")) == tokens(20, 0)
    source = {"type": "base64", "media_type": "image/png", "data": "A" * 99_999}
    image = user([{"type": "image", "source": source}]) | {"max_tokens": 1}
    assert Anthropic().estimate(asked(image, MESSAGES)) == tokens(INLINE, 1)


def test_the_default_output_and_the_tokenizer_are_the_users() -> None:
    """The tokenizer is given each text, not its role or its type."""
    seen: list[str] = []

    def tokenizer(text: str) -> int:
        seen.append(text)
        return len(text.split())

    meter = OpenAI(default_output=7, tokenizer=tokenizer)
    assert meter.estimate(asked(user([{"type": "text", "text": "one two three"}]))) == tokens(3, 7)
    assert seen == ["one two three"]
    assert OpenAI(0).estimate(asked(user("x" * 4))) == tokens(1, 0)


@pytest.mark.parametrize(
    "wrong", [{"default_output": -1}, {"default_output": 1.5}, {"default_output": True}, {"tokenizer": 4}]
)
def test_wrong_arguments_are_told_at_once(wrong: dict[str, Any]) -> None:
    """With the value and the remedy."""
    for kind in (OpenAI, Anthropic):
        with pytest.raises(ConfigurationError, match=f"{next(iter(wrong))} .*; give "):
            kind(**wrong)


# What answers tell.


def test_openai_measures_answers_of_each_kind() -> None:
    """Chat completions and completions, responses, embeddings."""
    chat = {"usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}}
    assert OpenAI().measure(answered(chat)) == tokens(10, 5)
    told = {"usage": {"input_tokens": 10, "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 4}}}
    assert OpenAI().measure(answered(told)) == tokens(10, 5)
    assert OpenAI().measure(answered({"usage": {"prompt_tokens": 8, "total_tokens": 8}})) == tokens(8, 0)


def test_anthropic_measures_what_was_not_read_from_a_cache() -> None:
    """What was written to one counts."""
    usage = {
        "input_tokens": 10,
        "cache_creation_input_tokens": 100,
        "cache_read_input_tokens": 1000,
        "output_tokens": 5,
    }
    assert Anthropic().measure(answered({"usage": usage})) == tokens(110, 5)
    assert Anthropic().measure(answered({"usage": usage | {"cache_creation_input_tokens": None}})) == tokens(10, 5)


@pytest.mark.parametrize("meter", [OpenAI(), Anthropic()], ids=["openai", "anthropic"])
@pytest.mark.parametrize("status", [307, 400, 401, 404, 429, 500, 503, 529])
def test_what_is_no_success_costs_no_tokens(meter: Any, status: int) -> None:
    """Whatever its body is."""
    for body in (b"", b"<html>", {"error": {"type": "overloaded"}}, {"usage": {"input_tokens": 5}}):
        assert meter.measure(answered(body, status)) == tokens(0, 0)


@pytest.mark.parametrize("meter", [OpenAI(), Anthropic()], ids=["openai", "anthropic"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"\xff\xfe",
        [],
        "usage",
        {},
        {"usage": None},
        {"usage": []},
        {"usage": {}},
        {"usage": {"input_tokens": "10"}},
        {"usage": {"input_tokens": -1, "prompt_tokens": 1.5}},
        {"usage": {"input_tokens": True}},
    ],
    ids=lambda body: str(body)[:30],
)
def test_an_answer_that_does_not_tell_is_none(meter: Any, body: Any) -> None:
    """Nothing is guessed; the call costs its estimate."""
    assert meter.measure(answered(body)) is None


# Streams.


def test_openai_measures_the_chunk_with_usage() -> None:
    """The last chunk of a chat, the last event of a response, complete or not."""
    meter = OpenAI()
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    assert meter.measure_event({"choices": [{"delta": {"content": "hi"}}], "usage": None}) is None
    assert meter.measure_event({"choices": [], "usage": usage}) == tokens(10, 5)
    assert meter.measure_event({"x_groq": {"id": "1", "usage": usage}}) == tokens(10, 5)
    for kind in ("response.completed", "response.incomplete", "response.failed"):
        event = {"type": kind, "response": {"usage": {"input_tokens": 10, "output_tokens": 5}}}
        assert meter.measure_event(event) == tokens(10, 5)
    assert meter.measure_event({"type": "response.created", "response": {"usage": None}}) is None


def test_anthropic_measures_the_start_and_the_end() -> None:
    """Of a stream that ends early the input alone is known: what was generated meanwhile is not told."""
    meter = Anthropic().for_stream()
    start = {"input_tokens": 10, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 900, "output_tokens": 1}
    assert meter.measure_event({"type": "message_start", "message": {"usage": start}}) == {"input_tokens": 30}
    assert meter.measure_event({"type": "content_block_delta", "delta": {"text": "hi"}}) is None
    assert meter.measure_event({"type": "message_delta", "usage": {"output_tokens": 7}}) == tokens(30, 7)
    told_again = {"input_tokens": 11, "output_tokens": 9, "cache_creation_input_tokens": None}
    assert meter.measure_event({"type": "message_delta", "usage": told_again}) == tokens(31, 9)
    assert meter.measure_event({"type": "message_stop"}) is None


def test_streams_of_one_meter_do_not_mix() -> None:
    """Each remembers its own start."""
    meter = Anthropic(default_output=9)
    one, other = meter.for_stream(), meter.for_stream()
    for stream, taken in ((one, 10), (other, 20)):
        stream.measure_event(
            {"type": "message_start", "message": {"usage": {"input_tokens": taken, "output_tokens": 1}}}
        )
    end = {"type": "message_delta", "usage": {"output_tokens": 5}}
    assert (one.measure_event(end), other.measure_event(end)) == (tokens(10, 5), tokens(20, 5))
    assert meter.measure_event(end) is None
    assert one.default_output == 9


@given(body=JSONS, status=st.integers(100, 599), url=st.sampled_from([CHAT, EMBEDDINGS, MESSAGES]))
def test_no_body_raises(body: Any, status: int, url: str) -> None:
    """Whatever is in it; and what is told is whole numbers from 0."""
    for meter in (OpenAI(), Anthropic()):
        events = [body] if isinstance(body, dict) else []
        told = [meter.estimate(asked(body, url)), meter.measure(answered(body, status))]
        events += [{"type": "message_start", "message": body}, {"type": "message_delta", "usage": body}]
        told += [meter.measure_event(event) for event in events]
        for units in filter(None, told):
            assert all(type(hits) is int and hits >= 0 for hits in units.values())
