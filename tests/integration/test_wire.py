"""A wire that fails in every way, between nekkar and a real memcached: a typed error or a right answer, in time."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pytest

from nekkar import CacheError, Nekkar, NekkarError, WaitTooLong
from nekkar.core.cache import MemcachedCache
from nekkar.core.limit import Limit
from tests.checks import worst_window
from tests.integration import proxy as faulty
from tests.integration.proxy import Fault, Proxy
from tests.integration.servers import Memcached

TIMEOUT = 0.5
BOUND = 4 * TIMEOUT + 1.0  # a read, a swap, the read that tells whether it landed, another swap; and a busy machine

FAULTS: dict[str, Fault] = {
    "swallowed": faulty.swallow,
    "delayed a little": faulty.delay(0.2),
    "delayed past the timeout": faulty.delay(0.7),
    "delayed for long": faulty.delay(3.0),
    "dribbled": faulty.dribble,
    "cut": faulty.cut,
    "closed": faulty.close,
    "garbled": faulty.garble,
    "repeated": faulty.repeat,
}


@pytest.fixture
def wire(server: Memcached) -> Iterator[Proxy]:
    with faulty.proxy(server.port) as running:
        yield running


def limit_through(port: int, rate: str, margin: float, timeout: float = TIMEOUT) -> Limit:
    cache = MemcachedCache("127.0.0.1", port, timeout=timeout)
    return Nekkar(cache, clock="local")("wire", rate, margin=margin)  # the proxy passes no log on


@pytest.mark.parametrize("only", [b"", b"ms"], ids=["every answer", "answers to stores"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_every_call_ends_in_time_in_a_typed_error_or_a_right_answer(fault: Fault, only: bytes, wire: Proxy) -> None:
    """On a connection that had worked and on a new one; with the wire whole again, everything works at once."""
    limit = limit_through(wire.port, "10/minute", 4 * TIMEOUT)  # a slot is good for longer than an answer is awaited
    slots = [limit.acquire().at]
    for _ in range(2):
        wire.fault, wire.only = fault, only
        began = time.monotonic()
        errors = []
        try:
            slots.append(limit.acquire(max_wait=0).at)
        except CacheError as error:
            errors.append(str(error))
        assert all(f"memcached at 127.0.0.1:{wire.port}" in error for error in errors)
        assert time.monotonic() - began < BOUND
        wire.fault = faulty.pass_on
    slots.append(limit.acquire(max_wait=0).at)
    used = limit.status().windows[0].used
    assert len(slots) <= used <= 2 + 2 * 2  # what was lost on the way may have been booked, each call's once or twice


def test_stores_that_land_with_no_answer_for_long_are_an_error_and_do_not_fill_the_limit(wire: Proxy) -> None:
    """With a timeout over half the margin each slot is found too late: two are booked for a call, not all there are."""
    limit = limit_through(wire.port, "100/minute", margin=TIMEOUT)
    limit.acquire()
    wire.fault, wire.only = faulty.swallow, b"ms"
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(CacheError, match="did not answer within"):
            limit.acquire()
        assert time.monotonic() - began < 2 * BOUND
    wire.fault = faulty.pass_on
    limit.acquire()
    assert limit.status().windows[0].used <= 8  # five, and more where the machine itself is late


def call_until(end: float, limit: Limit, starts: list[int], errors: list[NekkarError]) -> None:
    while time.monotonic() < end:
        try:
            limit.acquire(max_wait=3.0)
            starts.append(time.time_ns() // 1000)
        except (CacheError, WaitTooLong) as error:
            errors.append(error)


def test_threads_behind_a_faulty_wire_and_one_beside_it_are_never_over(server: Memcached, wire: Proxy) -> None:
    """10 a second for 8 s: the worst second has 10, over what each saw start; the one beside it goes on throughout."""
    random.seed(20)
    wire.fault = faulty.now_and_then(0.25, *FAULTS.values())
    end = time.monotonic() + 8.0
    limits = [limit_through(wire.port, "10/second", 0.5) for _ in range(4)]
    limits.append(limit_through(server.port, "10/second", 0.5, timeout=10.0))
    starts: list[list[int]] = [[] for _ in limits]
    errors: list[list[NekkarError]] = [[] for _ in limits]
    limits[-1].acquire()  # who comes to an empty log first must not be the one whose view is clouded
    threads = [
        threading.Thread(target=call_until, args=(end, limit, own, failed))
        for limit, own, failed in zip(limits, starts, errors, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    everything = sorted(start for own in starts for start in own)
    assert worst_window(everything, 1_000_000) <= 10
    assert errors[-1] == []
    assert len(starts[-1]) >= 5
    assert sum(map(len, errors[:-1])) >= 4
    assert sum(map(len, starts[:-1])) >= 4
