"""The openai SDK on a limited client: each attempt on the wire takes a slot, its own retries too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anyio
import httpx2
import openai
import pytest

from nekkar.core.cache import MemoryCache
from nekkar.core.errors import WaitTooLong
from nekkar.core.limiter import Nekkar
from nekkar.httpx2 import RequestWaitTooLong, limit
from nekkar.rules import Rule, RuleTable
from nekkar.testing import FakeClock
from tests.support.http_server import Handler, Server
from tests.support.web import running

RULES = RuleTable([Rule("*/v1/chat/completions", "chat", methods=["POST"])], {"chat": "4/minute"})
MESSAGES: Any = [{"role": "user", "content": "Hello?"}]
WORDS = ["Hello", " there", "."]


class ChatHandler(Handler):
    """Answers /v1/chat/completions, whole or streamed, after as many refusals as its server is told to give."""

    def answer_v1(self) -> None:
        assert isinstance(self.server, ChatServer)
        if self.server.refusals:
            status = self.server.refusals.pop()
            return self.answer(status, self.server.wait, b"{}")
        if json.loads(self.body).get("stream"):
            events = [json.dumps(chunk("chat.completion.chunk", delta={"content": word})) for word in WORDS]
            text = "".join(f"data: {event}\n\n" for event in [*events, "[DONE]"])
            return self.answer(200, {"Content-Type": "text/event-stream"}, text.encode())
        message = {"role": "assistant", "content": "".join(WORDS)}
        body = json.dumps(chunk("chat.completion", message=message, finish_reason="stop")).encode()
        return self.answer(200, {"Content-Type": "application/json"}, body)


class ChatServer(Server):
    handler = ChatHandler

    def __init__(self) -> None:
        super().__init__()
        self.refusals: list[int] = []
        self.wait = {"Retry-After-Ms": "1"}


def chunk(kind: str, **choice: Any) -> dict[str, Any]:
    return {"id": "1", "object": kind, "created": 1, "model": "m", "choices": [{"index": 0, **choice}]}


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with running(ChatServer()) as served:
        yield served


def client_of(server: Server, limiter: Nekkar, **options: Any) -> openai.OpenAI:
    client = limit(httpx2.Client(trust_env=False), limiter, RULES, max_wait=options.pop("max_wait", None))
    return openai.OpenAI(http_client=client, base_url=f"{server.url}/v1", api_key="k", **options)


def async_client_of(server: Server, limiter: Nekkar, **options: Any) -> openai.AsyncOpenAI:
    client = limit(httpx2.AsyncClient(trust_env=False), limiter, RULES, max_wait=options.pop("max_wait", None))
    return openai.AsyncOpenAI(http_client=client, base_url=f"{server.url}/v1", api_key="k", **options)


def used(limiter: Nekkar) -> int:
    return limiter("chat", "4/minute").status().windows[0].used


def test_calls_and_retries_take_a_slot_each(server: ChatServer, clock: FakeClock) -> None:
    """A whole answer after two refusals, then a streamed one: four requests on the wire, four admissions."""
    limiter = Nekkar(clock=clock)
    server.refusals = [500, 429]
    with client_of(server, limiter) as client:
        whole = client.chat.completions.create(model="m", messages=MESSAGES)
        assert whole.choices[0].message.content == "Hello there."
        assert used(limiter) == len(server.seen) == 3
        stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        assert [event.choices[0].delta.content for event in stream] == WORDS
        assert used(limiter) == len(server.seen) == 4
        before = clock.now
        client.chat.completions.create(model="m", messages=MESSAGES)
        assert clock.now - before > 60


# The SDK leaves a stream's generators at its end, of which trio warns.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <async_generator object:Warning")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_async_calls_and_retries_take_a_slot_each(server: ChatServer, clock: FakeClock, backend: str) -> None:
    """As with the sync client, under asyncio and trio."""
    limiter = Nekkar(clock=clock)
    server.refusals = [500, 429]

    async def body() -> None:
        async with async_client_of(server, limiter) as client:
            whole = await client.chat.completions.create(model="m", messages=MESSAGES)
            assert whole.choices[0].message.content == "Hello there."
            stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
            assert [event.choices[0].delta.content async for event in stream] == WORDS
            assert used(limiter) == len(server.seen) == 4
            before = clock.now
            await client.chat.completions.create(model="m", messages=MESSAGES)
            assert clock.now - before > 60

    anyio.run(body, backend=backend)


def test_a_refusal_is_the_sdks_timeout(server: ChatServer, clock: FakeClock) -> None:
    """With ``max_retries=0`` it comes at once, and tells when to come again."""
    with client_of(server, Nekkar(clock=clock), max_wait=5, max_retries=0) as client:
        for _ in range(4):
            client.chat.completions.create(model="m", messages=MESSAGES)
        with pytest.raises(openai.APITimeoutError) as raised:
            client.chat.completions.create(model="m", messages=MESSAGES)
    cause = raised.value.__cause__
    assert isinstance(cause, RequestWaitTooLong)
    assert isinstance(cause, WaitTooLong)
    assert 60 <= cause.retry_after < 61
    assert len(server.seen) == 4


def test_repeated_refusals_never_reach_the_service(
    server: ChatServer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK repeats what was refused as it repeats a timeout; no repetition is sent, none takes a slot."""
    limiter = Nekkar(clock=clock)
    with client_of(server, limiter, max_wait=5, max_retries=3) as client:
        for _ in range(4):
            client.chat.completions.create(model="m", messages=MESSAGES)
        backoffs: list[int] = []
        monkeypatch.setattr(client, "_sleep_for_retry", lambda **told: backoffs.append(told["retries_taken"]))
        with pytest.raises(openai.APITimeoutError):
            client.chat.completions.create(model="m", messages=MESSAGES)
    assert backoffs == [0, 1, 2]
    assert used(limiter) == len(server.seen) == 4


@pytest.fixture
def sleeps(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the SDK sleeps before it repeats a call; time passes meanwhile."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.advance(seconds)

    async def sleep_async(seconds: float) -> None:
        sleep(seconds)

    monkeypatch.setattr("openai._base_client.time.sleep", sleep)
    monkeypatch.setattr("openai._base_client.anyio.sleep", sleep_async)
    return slept


def held(other: Nekkar) -> float:
    """Return for how long another process of the fleet would have to wait."""
    until = other("chat", "4/minute").status().hold_until
    return 0.0 if until is None else round(until - other.now_us() / 1e6, 3)


def test_a_refusal_is_heard_by_the_fleet_and_waited_for_once(
    server: ChatServer, clock: FakeClock, sleeps: list[float]
) -> None:
    """The SDK sleeps the 20 s of ``Retry-After`` and repeats the call; the pause of the fleet is over just then."""
    cache = MemoryCache()
    other = Nekkar(cache, clock=clock)
    server.refusals, server.wait = [429], {"Retry-After": "20"}
    with client_of(server, Nekkar(cache, clock=clock), max_retries=0) as client, pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="m", messages=MESSAGES)
    assert held(other) == 20
    clock.advance(30)
    server.refusals, before = [429], clock.now
    with client_of(server, Nekkar(cache, clock=clock)) as client:
        assert client.chat.completions.create(model="m", messages=MESSAGES).choices[0].message.content == "Hello there."
    assert sleeps == [20]
    assert clock.now - before == pytest.approx(20)
    assert len(server.seen) == 3


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_async_client_is_heard_too(server: ChatServer, clock: FakeClock, sleeps: list[float], backend: str) -> None:
    """As with the sync client, under asyncio and trio."""
    cache = MemoryCache()
    server.refusals, server.wait = [503], {"Retry-After": "20"}

    async def body() -> float:
        async with async_client_of(server, Nekkar(cache, clock=clock)) as client:
            before = clock.now
            await client.chat.completions.create(model="m", messages=MESSAGES)
            return clock.now - before

    assert anyio.run(body, backend=backend) == pytest.approx(20)
    assert sleeps == [20]
    assert Nekkar(cache, clock=clock)("chat", "4/minute").status().windows[0].used == 2
