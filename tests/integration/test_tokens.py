"""A fleet of unchanged SDKs under requests and tokens, against a strict service: never refused, and all of it used.

The service holds what a request may cost, refuses what would be over in any window, and corrects what it holds once it
has answered, as OpenAI and Anthropic do.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import random
import threading
import time
from collections import deque
from typing import Any

import pytest

from nekkar.core.limiter import Nekkar
from nekkar.httpx2 import limit
from nekkar.rules import Rule, RuleTable
from tests.support.processes import run_to_end
from tests.support.servers import Memcached
from tests.support.web import Answering, Listener, running

PERIOD, REQUESTS = 2.0, 50
TOKENS = {"openai": {"tokens": 5_000}, "anthropic": {"input_tokens": 4_000, "output_tokens": 4_000}}
SECONDS, PROCESSES, THREADS = 7.0, 3, 8
Held = tuple[float, dict[str, int]]
JSON, EVENTS = {"Content-Type": "application/json"}, {"Content-Type": "text/event-stream"}


class StrictHandler(Answering):
    """Answers chats, whole and streamed, after some 10 ms."""

    server: StrictModel

    def do_POST(self) -> None:  # noqa: N802  as http.server asks
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        taken = -(-sum(len(message["content"]) for message in asked["messages"]) // 4)
        held = self.server.hold(taken, asked["max_tokens"])
        if held is None:
            return self.answer(429, JSON, b'{"error": {"message": "too many"}}')
        time.sleep(random.uniform(0.005, 0.03))
        given = random.randint(0, asked["max_tokens"])
        self.server.correct(held, taken, given)
        told = ANSWERS[self.server.kind](taken, given)
        if not asked.get("stream"):
            return self.answer(200, JSON, json.dumps(told[0]).encode())
        events = "".join(f"event: {each.get('type', 'chunk')}\ndata: {json.dumps(each)}\n\n" for each in told[1:])
        return self.answer(200, EVENTS, events.encode())


class StrictModel(Listener):
    """Counts requests and tokens in any two seconds; ``held``: when each request came, and its tokens by unit."""

    def __init__(self, kind: str) -> None:
        super().__init__(StrictHandler)
        self.url = f"http://127.0.0.1:{self.server_port}" + "/v1" * (kind == "openai")
        self.kind, self.limits = kind, TOKENS[kind]
        self.held: list[Held] = []
        self.refused: list[str] = []
        self._window: deque[Held] = deque()
        self._lock = threading.Lock()

    def hold(self, taken: int, most: int) -> Held | None:
        """Hold what a request may cost; None where that would be over."""
        with self._lock:
            now, held = time.monotonic(), self._costs(taken, most)
            while self._window and self._window[0][0] <= now - PERIOD:
                self._window.popleft()
            known = {unit: sum(each[1][unit] for each in self._window) for unit in self.limits}
            is_over = any(known[unit] + held[unit] > limit for unit, limit in self.limits.items())
            if len(self._window) >= REQUESTS or is_over:
                self.refused.append(f"{len(self._window)} requests, {known} and {held}")
                return None
            self._window.append((now, held))
            self.held.append((now, held))
            return now, held

    def correct(self, held: Held, taken: int, given: int) -> None:
        """Put what a request did cost in place of what was held."""
        with self._lock:
            held[1].update(self._costs(taken, given))

    def _costs(self, taken: int, given: int) -> dict[str, int]:
        units = {"tokens": taken + given, "input_tokens": taken, "output_tokens": given}
        return {unit: units[unit] for unit in self.limits}


def openai_answers(taken: int, given: int) -> list[dict[str, Any]]:
    """Return an answer as a whole, then the events of the same as a stream."""
    known = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    usage = {"prompt_tokens": taken, "completion_tokens": given, "total_tokens": taken + given}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello."}}
    delta = {"index": 0, "delta": {"content": "Hello."}}
    chunks = [known | {"choices": [delta]}, known | {"choices": [], "usage": usage}]
    return [known | {"choices": [choice], "usage": usage}, *chunks]


def anthropic_answers(taken: int, given: int) -> list[dict[str, Any]]:
    """Return the same of Anthropic's; what is read from a cache does not count."""
    usage = {"input_tokens": taken, "output_tokens": given, "cache_read_input_tokens": 900}
    known = {"id": "1", "type": "message", "role": "assistant", "model": "m", "stop_reason": None}
    begin = {"type": "message_start", "message": known | {"content": [], "usage": usage | {"output_tokens": 1}}}
    text = {"type": "text", "text": "Hello."}
    return [
        known | {"content": [text], "stop_reason": "end_turn", "usage": usage},
        begin,
        {"type": "content_block_start", "index": 0, "content_block": text},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": given}},
        {"type": "message_stop"},
    ]


ANSWERS = {"openai": openai_answers, "anthropic": anthropic_answers}


def client_of(sdk: Any, kind: str, limiter: Nekkar, rules: RuleTable, url: str) -> Any:
    """Return a client of an SDK as it is made, but for what it sends through."""
    http_client = limit(sdk.DefaultHttpxClient(trust_env=False, verify=False), limiter, rules)
    made = sdk.OpenAI if kind == "openai" else sdk.Anthropic
    return made(http_client=http_client, base_url=url, api_key="k", max_retries=0)


def work(kind: str, url: str, cache: str, ready: Any) -> None:
    """Chat in some threads until the time is over, each with a client of its own; begin once all are ``ready``."""
    sdk, limiter = importlib.import_module(kind), Nekkar(cache)
    rate = "; ".join(f"{count} {unit} per 2 seconds" for unit, count in ({"calls": REQUESTS} | TOKENS[kind]).items())
    rules = RuleTable([Rule("*", "llm-{json:model}")], {"llm-{json:model}": {"rate": rate, "meter": kind}})
    clients = [client_of(sdk, kind, limiter, rules, url) for _ in range(THREADS)]
    usage = {"stream_options": {"include_usage": True}} if kind == "openai" else {}
    ready.wait(60)
    begin = time.monotonic()

    def chat(client: Any) -> None:
        create = client.chat.completions.create if kind == "openai" else client.messages.create
        with client:
            while time.monotonic() < begin + SECONDS:
                asked: dict[str, Any] = {"model": "m", "max_tokens": random.choice([100, 200, 300])}
                asked["messages"] = [{"role": "user", "content": "x" * random.randint(40, 400)}]
                if random.random() < 0.5:
                    list(create(**asked, **usage, stream=True))
                else:
                    create(**asked)

    threads = [threading.Thread(target=chat, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("kind", TOKENS)
def test_a_fleet_of_sdks_keeps_requests_and_tokens_and_uses_them(kind: str, server: Memcached) -> None:
    """No refusal; and in the best window 85 % of the tokens are used, where without settling it would be 60 %."""
    pytest.importorskip(kind)
    context = multiprocessing.get_context("spawn")
    with running(StrictModel(kind)) as service:
        arguments = (kind, service.url, server.url, context.Barrier(PROCESSES))
        workers = [context.Process(target=work, args=arguments, daemon=True) for _ in range(PROCESSES)]
        run_to_end(workers)
    assert service.refused == []
    unit, limit = list(service.limits.items())[-1]
    ends = [at for at, _ in service.held]
    used = [sum(costs[unit] for at, costs in service.held if end - PERIOD < at <= end) for end in ends]
    assert max(used) >= 0.85 * limit  # of all windows it is the best: the machine may be busy meanwhile
