"""One worker's refusal pauses the fleet: real processes, each of another HTTP client, and a service that refuses."""

from __future__ import annotations

import time

from tests.integration.servers import Memcached
from tests.integration.service import Plan, callers, serving

FACES = ["requests", "httpx", "httpx2", "async"]
S = 1_000_000


def test_one_workers_refusal_pauses_the_whole_fleet(server: Memcached) -> None:
    """50 calls a second, evenly; one is refused with ``Retry-After: 3``: those on the wire or booked for the next
    100 ms still arrive, nobody for the rest of the 3 s, and then all go on."""
    begin = time.time() + 3
    refused: list[int] = []

    def refuse_one(at: int) -> tuple[int, dict[str, str]]:
        if at < (begin + 1.5) * S or refused:
            return 200, {}
        refused.append(at)
        return 429, {"Retry-After": "3"}

    with serving(refuse_one) as service:
        plan = Plan(server.url, service.url, {"rate": "50/second", "spacing": "even"}, begin, begin + 6.5)
        with callers(plan, FACES):
            pass
        arrived = service.at(200)
    before = [at for at in arrived if refused[0] - S <= at < refused[0]]
    inside = [at for at in arrived if refused[0] < at < refused[0] + 3 * S]
    late = [at for at in inside if at > refused[0] + S]
    after = [at for at in arrived if refused[0] + 3 * S <= at < refused[0] + 4 * S]
    assert len(before) >= 20
    assert len(inside) <= 15  # 5 of a horizon, 4 on the wire, and what a busy machine adds; 150 if nobody heard
    assert not late
    assert len(after) >= 20
