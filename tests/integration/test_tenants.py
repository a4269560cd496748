"""Ten thousand tenants on one memcached: eight processes, each key its own limit, none of them over."""

from __future__ import annotations

import multiprocessing
import random
import struct
import time
from collections import defaultdict
from pathlib import Path

import httpx
import pytest

from nekkar.core.limiter import Nekkar
from nekkar.httpx import NekkarTransport
from nekkar.rules import Rule, RuleTable
from tests.support.checks import worst_window
from tests.support.processes import run_to_end
from tests.support.servers import Memcached

PROCESSES, TENANTS, HOT, SECONDS = 8, 10_000, 20, 4.0
NAME = "tenant-{header:Authorization}"
TERMS = {"rate": "5/second", "margin": 0.3, "max_wait": 0}
STAMP = struct.Struct("<iq")


def resident() -> int:
    """Return this process's resident memory, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def work(url: str, begin: float, file: str, seed: int) -> None:
    """Call for tenants at random, every other time one of the hot; record each call as it is sent."""
    draw, calls, refused = random.Random(seed), bytearray(), 0

    def answer(request: httpx.Request) -> httpx.Response:
        calls.extend(STAMP.pack(int(request.headers["Authorization"].split()[1]), time.time_ns() // 1000))
        return httpx.Response(200)

    transport = NekkarTransport(Nekkar(url), RuleTable([Rule("*", NAME)], {NAME: TERMS}), httpx.MockTransport(answer))
    before = resident()
    with httpx.Client(transport=transport, trust_env=False) as client:
        time.sleep(max(0.0, begin - time.time()))
        while time.time() < begin + SECONDS:
            tenant = draw.randrange(HOT if draw.random() < 0.5 else TENANTS)
            try:
                client.get("https://api.example.com/", headers={"Authorization": f"Bearer {tenant}"})
            except httpx.TimeoutException:
                refused += 1
    Path(file).write_bytes(STAMP.pack(refused, resident() - before) + calls)


def test_ten_thousand_tenants_share_one_memcached(server: Memcached, tmp_path: Path) -> None:
    """No tenant is over its 5 a second; the hot ones are held to it; no process takes 20 kB for each tenant it met."""
    if not Path("/proc/self/statm").exists():
        pytest.fail("this test reads a process's memory from /proc")
    spawn = multiprocessing.get_context("spawn")
    begin = time.time() + 3.5
    files = [str(tmp_path / str(number)) for number in range(PROCESSES)]
    workers = [spawn.Process(target=work, args=(server.url, begin, file, seed)) for seed, file in enumerate(files)]
    run_to_end(workers)
    starts: dict[int, list[int]] = defaultdict(list)
    for file in files:
        (refused, grown), *calls = STAMP.iter_unpack(Path(file).read_bytes())
        assert refused > 0
        assert grown < 20_000 * (len({tenant for tenant, _ in calls}) + refused) + 20_000_000
        for tenant, at in calls:
            starts[tenant].append(at)
    assert len(starts) > 1000
    assert all(len(starts[tenant]) > 5 for tenant in range(HOT))
    assert max(worst_window(times, 1_000_000) for times in starts.values()) <= 5
