"""What tests share: a clock, a site, real servers, each test's own; and in a build the same examples each time."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import requests
from hypothesis import HealthCheck, settings

from nekkar.testing import FakeClock
from tests.support.servers import Memcached, memcached
from tests.support.web import Site, running

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell: what tests start would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine may be busy with other things, and slow at drawing examples too.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("build", settings.get_profile("here"), derandomize=True)
settings.load_profile("build" if os.environ.get("CI") else "here")


@pytest.fixture
def server() -> Iterator[Memcached]:
    """A memcached of this test's own."""
    with memcached() as running:
        yield running


@pytest.fixture
def clock() -> FakeClock:
    """A clock that jumps over every wait."""
    return FakeClock()


@pytest.fixture
def site() -> Iterator[Site]:
    """A site on this machine."""
    with running(Site()) as made:
        yield made


@pytest.fixture
def session() -> Iterator[requests.Session]:
    """A session that takes nothing from the environment."""
    with requests.Session() as made:
        made.trust_env = False
        yield made
