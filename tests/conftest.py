"""What tests share: real servers, each test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.servers import Memcached, memcached


@pytest.fixture
def server() -> Iterator[Memcached]:
    """A memcached of this test's own."""
    with memcached() as running:
        yield running
