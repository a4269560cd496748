"""A fleet of unchanged SDKs under requests and tokens, against a strict service: never refused, and all of it used.

The service holds what a request may cost, refuses what would be over in any window, and corrects what it holds once it
has answered, as OpenAI and Anthropic do.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import threading
import time
from collections import deque
from typing import Any

import httpx2
import openai

from nekkar.core.limiter import Nekkar
from nekkar.httpx2 import limit
from nekkar.rules import Rule, RuleTable
from tests.support.processes import run_to_end
from tests.support.servers import Memcached
from tests.support.web import Answering, Listener, running

PERIOD, REQUESTS, TOKENS = 2.0, 50, 5_000
RATE = f"{REQUESTS} per 2 seconds; {TOKENS} tokens per 2 seconds"
SECONDS, PROCESSES, THREADS = 7.0, 3, 8
JSON, EVENTS = {"Content-Type": "application/json"}, {"Content-Type": "text/event-stream"}


class StrictHandler(Answering):
    """Answers chats, whole and streamed, after some 10 ms."""

    server: StrictModel

    def do_POST(self) -> None:  # noqa: N802  as http.server asks
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        taken = -(-sum(len(message["content"]) for message in asked["messages"]) // 4)
        held = self.server.hold(taken + asked["max_tokens"])
        if held is None:
            return self.answer(429, JSON, b'{"error": {"message": "too many"}}')
        time.sleep(random.uniform(0.005, 0.03))
        given = random.randint(0, asked["max_tokens"])
        self.server.correct(held, taken + given)
        usage = {"prompt_tokens": taken, "completion_tokens": given, "total_tokens": taken + given}
        if not asked.get("stream"):
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello."}}
            return self.answer(200, JSON, json.dumps(chunk(choices=[choice], usage=usage)).encode())
        chunks = [chunk(choices=[{"index": 0, "delta": {"content": "Hello."}}]), chunk(choices=[], usage=usage)]
        text = "".join(f"data: {json.dumps(each)}\n\n" for each in chunks)
        return self.answer(200, EVENTS, f"{text}data: [DONE]\n\n".encode())


class StrictModel(Listener):
    """Counts requests and tokens in any two seconds; ``held``: when each request came, and its tokens."""

    def __init__(self) -> None:
        super().__init__(StrictHandler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.held: list[list[float]] = []
        self.refused: list[str] = []
        self._window: deque[list[float]] = deque()
        self._lock = threading.Lock()

    def hold(self, tokens: int) -> list[float] | None:
        """Hold what a request may cost; None where that would be over."""
        with self._lock:
            now = time.monotonic()
            while self._window and self._window[0][0] <= now - PERIOD:
                self._window.popleft()
            known = sum(each[1] for each in self._window)
            if len(self._window) >= REQUESTS or known + tokens > TOKENS:
                self.refused.append(f"{len(self._window)} requests, {known} + {tokens} tokens")
                return None
            held = [now, tokens]
            self._window.append(held)
            self.held.append(held)
            return held

    def correct(self, held: list[float], tokens: int) -> None:
        """Put what a request did cost in place of what was held."""
        with self._lock:
            held[1] = tokens


def chunk(**told: Any) -> dict[str, Any]:
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", **told}


def work(url: str, cache: str, ready: Any) -> None:
    """Chat in some threads until the time is over, each with a client of its own; begin once all are ``ready``."""
    rules = RuleTable([Rule("*", "llm-{json:model}")], {"llm-{json:model}": {"rate": RATE, "meter": "openai"}})
    limiter = Nekkar(cache)
    ready.wait(60)
    begin = time.monotonic()

    def chat() -> None:
        http_client = limit(httpx2.Client(trust_env=False, verify=False), limiter, rules)
        with openai.OpenAI(http_client=http_client, base_url=url, api_key="k", max_retries=0) as client:
            while time.monotonic() < begin + SECONDS:
                asked: dict[str, Any] = {"model": "m", "max_tokens": random.choice([100, 200, 300])}
                asked["messages"] = [{"role": "user", "content": "x" * random.randint(40, 400)}]
                if random.random() < 0.5:
                    asked |= {"stream": True, "stream_options": {"include_usage": True}}
                answer = client.chat.completions.create(**asked)
                if asked.get("stream"):
                    list(answer)

    threads = [threading.Thread(target=chat) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_fleet_of_sdks_keeps_requests_and_tokens_and_uses_them(server: Memcached) -> None:
    """No refusal; and in the best window 85 % of the tokens are used, where without settling it would be 60 %."""
    context = multiprocessing.get_context("spawn")
    with running(StrictModel()) as service:
        arguments = (service.url, server.url, context.Barrier(PROCESSES))
        workers = [context.Process(target=work, args=arguments, daemon=True) for _ in range(PROCESSES)]
        run_to_end(workers)
    assert service.refused == []
    ends = [at for at, _ in service.held]
    used = [sum(tokens for at, tokens in service.held if end - PERIOD < at <= end) for end in ends]
    assert max(used) >= 0.85 * TOKENS  # of all windows it is the best: the machine may be busy meanwhile
