"""For tests of programs that use nekkar, and of caches written for it.

``FakeClock`` never makes a test wait, ``assert_never_over`` checks that calls kept a limit, and ``CacheConformance``
tests a cache of your own. None of them needs pytest. With pytest there are two fixtures, ``nekkar_clock`` and
``nekkar_limiter`` (see ``fixtures``); ``-p no:nekkar`` turns them off.
"""

from nekkar.testing.clock import START_US, FakeClock
from nekkar.testing.conformance import CacheConformance
from nekkar.testing.windows import assert_never_over

__all__ = ["START_US", "CacheConformance", "FakeClock", "assert_never_over"]
