"""What tests share: real servers, each test's own; and in a build the same examples each time."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.integration.servers import Memcached, memcached

settings.register_profile("build", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("build")


@pytest.fixture
def server() -> Iterator[Memcached]:
    """A memcached of this test's own."""
    with memcached() as running:
        yield running
