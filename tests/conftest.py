"""What tests share: real servers, each test's own; and in a build the same examples each time."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.integration.servers import Memcached, memcached

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell: what tests start would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("any", deadline=None)  # a busy machine is slow
settings.register_profile("build", deadline=None, derandomize=True)
settings.load_profile("build" if os.environ.get("CI") else "any")


@pytest.fixture
def server() -> Iterator[Memcached]:
    """A memcached of this test's own."""
    with memcached() as running:
        yield running
