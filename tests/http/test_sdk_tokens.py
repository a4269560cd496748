"""The SDKs of OpenAI and Anthropic, not a line of them changed, are limited by requests and tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anyio
import httpx2
import openai
import pytest

from nekkar.core.limiter import Nekkar
from nekkar.httpx2 import limit
from nekkar.rules import Rule, RuleTable
from nekkar.testing import FakeClock
from tests.support.http_server import Handler, Server
from tests.support.web import running

RATE = "100/10s; 10000 tokens/10s"
RULES = RuleTable([Rule("*", "llm")], {"llm": {"rate": RATE, "meter": "openai"}})
CLAUDE_RATE = "100/10s; 10000 input_tokens/10s; 5000 output_tokens/10s"
CLAUDE = RuleTable([Rule("*", "llm")], {"llm": {"rate": CLAUDE_RATE, "meter": "anthropic"}})
MESSAGES: Any = [{"role": "user", "content": "Hello?" * 10}]
CHAT_USAGE = {"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23}
USAGE = {
    "input_tokens": 20,
    "output_tokens": 3,
    "total_tokens": 23,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 0},
}
CLAUDE_USAGE = {
    "input_tokens": 20,
    "cache_creation_input_tokens": 4,
    "cache_read_input_tokens": 900,
    "output_tokens": 3,
}
WORDS = ["Hello", " there", "."]
EVENTS = {"Content-Type": "text/event-stream"}
JSON = {"Content-Type": "application/json"}


class ModelHandler(Handler):
    """Answers as the services do, whole or streamed, after as many refusals as its server is told to give."""

    def answer_v1(self) -> None:
        assert isinstance(self.server, ModelServer)
        asked = json.loads(self.body)
        if self.server.refusals:
            return self.answer(self.server.refusals.pop(), {"Retry-After-Ms": "1", **JSON}, b'{"error": {}}')
        kind = self.rest.partition("/")[0]
        if not asked.get("stream"):
            return self.answer(200, JSON, json.dumps(WHOLE[kind]).encode())
        events = STREAMS[kind]
        if kind == "chat" and not (asked.get("stream_options") or {}).get("include_usage"):
            events = events[:-1]
        lines = [f"event: {event.get('type', 'chunk')}\ndata: {json.dumps(event)}\n\n" for event in events]
        lines += ["data: [DONE]\n\n"] if kind == "chat" else []
        return self.answer(200, EVENTS, "".join(lines).encode())


class ModelServer(Server):
    handler = ModelHandler

    def __init__(self) -> None:
        super().__init__()
        self.refusals: list[int] = []


def chunk(**told: Any) -> dict[str, Any]:
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], **told}


def response(status: str, **told: Any) -> dict[str, Any]:
    content = [{"type": "output_text", "text": "".join(WORDS), "annotations": []}]
    output = [{"type": "message", "id": "1", "role": "assistant", "status": "completed", "content": content}]
    needed = {"parallel_tool_calls": False, "tool_choice": "auto", "tools": [], "model": "m"}
    return {"id": "1", "object": "response", "created_at": 1, "status": status, "output": output, **needed, **told}


def message(**told: Any) -> dict[str, Any]:
    known = {
        "id": "1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "stop_reason": None,
        "stop_sequence": None,
    }
    return {**known, "content": [], **told}


WHOLE: dict[str, dict[str, Any]] = {
    "chat": chunk(
        object="chat.completion",
        choices=[{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "".join(WORDS)}}],
        usage=CHAT_USAGE,
    ),
    "responses": response("completed", usage=USAGE),
    "embeddings": {
        "object": "list",
        "model": "m",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}],
        "usage": {"prompt_tokens": 20, "total_tokens": 20},
    },
    "messages": message(content=[{"type": "text", "text": "".join(WORDS)}], usage=CLAUDE_USAGE),
}
STREAMS: dict[str, list[dict[str, Any]]] = {
    "chat": [
        *(chunk(choices=[{"index": 0, "delta": {"content": word}}]) for word in WORDS),
        chunk(usage=CHAT_USAGE),
    ],
    "responses": [
        {"type": "response.created", "sequence_number": 0, "response": response("in_progress", usage=None)},
        {"type": "response.completed", "sequence_number": 1, "response": response("completed", usage=USAGE)},
    ],
    "messages": [
        {"type": "message_start", "message": message(usage=CLAUDE_USAGE | {"output_tokens": 1})},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in WORDS),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ],
}


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with running(ModelServer()) as served:
        yield served


def used(limiter: Nekkar, rate: str = RATE) -> dict[str, int]:
    return {window.unit: window.used for window in limiter("llm", rate).status().windows}


def client_of(server: Server, limiter: Nekkar) -> openai.OpenAI:
    http_client = limit(httpx2.Client(trust_env=False), limiter, RULES)
    return openai.OpenAI(http_client=http_client, base_url=f"{server.url}/v1", api_key="k")


def test_openai_calls_of_each_kind_are_settled(server: ModelServer, limiter: Nekkar) -> None:
    """As soon as they return: chat, responses, embeddings."""
    with client_of(server, limiter) as client:
        chat = client.chat.completions.create(model="m", messages=MESSAGES)
        assert chat.choices[0].message.content == "Hello there."
        assert used(limiter) == {"calls": 1, "tokens": 23}
        assert client.responses.create(model="m", input="Hello?").output_text == "Hello there."
        assert used(limiter) == {"calls": 2, "tokens": 46}
        assert client.embeddings.create(model="m", input="Hello?", encoding_format="float").data[0].embedding == [0.5]
        assert used(limiter) == {"calls": 3, "tokens": 66}


def test_openai_streams_are_settled_where_they_tell(server: ModelServer, limiter: Nekkar) -> None:
    """A chat tells where it is asked to; a response by itself."""
    with client_of(server, limiter) as client:
        asked: Any = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 100}
        chunks = client.chat.completions.create(model="m", messages=MESSAGES, **asked)
        assert "".join(each.choices[0].delta.content for each in chunks if each.choices) == "Hello there."
        assert used(limiter) == {"calls": 1, "tokens": 23}
        assert [event.type for event in client.responses.create(model="m", input="Hello?", stream=True)] == [
            "response.created",
            "response.completed",
        ]
        assert used(limiter) == {"calls": 2, "tokens": 46}
        del asked["stream_options"]
        for _ in client.chat.completions.create(model="m", messages=MESSAGES, **asked):
            pass
        assert used(limiter) == {"calls": 3, "tokens": 46 + 15 + 100}


def test_what_the_sdk_repeats_costs_a_call_and_no_tokens(server: ModelServer, limiter: Nekkar) -> None:
    """Each refusal is a call."""
    server.refusals = [500, 429]
    with client_of(server, limiter) as client:
        client.chat.completions.create(model="m", messages=MESSAGES)
    assert used(limiter) == {"calls": 3, "tokens": 23}


# The SDK leaves a stream's generators at its end, of which trio warns.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <async_generator object:Warning")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_async_client_is_settled_too(server: ModelServer, limiter: Nekkar, backend: str) -> None:
    """As the sync one, under asyncio and trio."""

    async def body() -> None:
        http_client = limit(httpx2.AsyncClient(trust_env=False), limiter, RULES)
        async with openai.AsyncOpenAI(http_client=http_client, base_url=f"{server.url}/v1", api_key="k") as client:
            await client.chat.completions.create(model="m", messages=MESSAGES)
            assert used(limiter) == {"calls": 1, "tokens": 23}
            asked: Any = {"stream": True, "stream_options": {"include_usage": True}}
            chunks = await client.chat.completions.create(model="m", messages=MESSAGES, **asked)
            async for _ in chunks:
                assert used(limiter)["calls"] == 2
            assert used(limiter) == {"calls": 2, "tokens": 46}

    anyio.run(body, backend=backend)


def test_a_fleet_waits_for_tokens_before_a_service_refuses_it(
    server: ModelServer, limiter: Nekkar, clock: FakeClock
) -> None:
    """Ten answers of at most 1,000 tokens fit into 10 s; the eleventh waits, unless they took less."""
    before = clock.now
    with client_of(server, limiter) as client:
        for _ in range(10):
            client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=985)
        assert clock.now - before < 1
        asked: Any = {"stream": True, "max_tokens": 985}
        for _ in range(10):
            list(client.chat.completions.create(model="m", messages=MESSAGES, **asked))
        assert 10 <= clock.now - before < 12


def test_anthropic_counts_input_and_output_apart(server: ModelServer, limiter: Nekkar) -> None:
    """What was read from a cache does not count. Whole answers and streams."""
    anthropic: Any = pytest.importorskip("anthropic")
    http_client = limit(httpx2.Client(trust_env=False), limiter, CLAUDE)
    with anthropic.Anthropic(http_client=http_client, base_url=server.url, api_key="k") as client:
        answer = client.messages.create(model="m", max_tokens=500, messages=MESSAGES)
        assert answer.content[0].text == "Hello there."
        assert used(limiter, CLAUDE_RATE) == {"calls": 1, "input_tokens": 24, "output_tokens": 3}
        with client.messages.stream(model="m", max_tokens=500, messages=MESSAGES) as stream:
            assert "".join(stream.text_stream) == "Hello there."
        assert used(limiter, CLAUDE_RATE) == {"calls": 2, "input_tokens": 48, "output_tokens": 6}
        with client.messages.stream(model="m", max_tokens=500, messages=MESSAGES) as stream:
            next(iter(stream.text_stream))
        assert used(limiter, CLAUDE_RATE)["output_tokens"] in (9, 506)  # its end may have come already
