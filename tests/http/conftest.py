"""What the tests of HTTP share: a server that streams, and a limiter on a clock that jumps over each wait."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nekkar.core.limiter import Nekkar
from nekkar.testing import FakeClock
from tests.support.streams import StreamServer
from tests.support.web import running


@pytest.fixture
def streams() -> Iterator[StreamServer]:
    """A server that streams what it is told."""
    with running(StreamServer()) as served:
        yield served


@pytest.fixture
def limiter(clock: FakeClock) -> Nekkar:
    """A limiter of this test's own."""
    return Nekkar(clock=clock)
