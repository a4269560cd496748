"""pytest fixtures, there wherever nekkar is installed (see ``plugin``): a clock that never waits, a limiter on it.

This module is loaded in every pytest run where nekkar is installed: it imports no extra, no cache's
library and no event loop. ``pytest -p no:nekkar`` leaves it out.
"""

from __future__ import annotations

import pytest

from nekkar.core.limiter import Nekkar
from nekkar.testing.clock import FakeClock


@pytest.fixture
def nekkar_clock() -> FakeClock:
    """A clock of this test's own, which jumps over every wait; ``nekkar_limiter`` runs on it."""
    return FakeClock()


@pytest.fixture
def nekkar_limiter(nekkar_clock: FakeClock) -> Nekkar:
    """A limiter of this test's own, in memory, on ``nekkar_clock``: its limits are exact, and nothing waits."""
    return Nekkar(clock=nekkar_clock)
