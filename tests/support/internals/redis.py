"""The Redis cache, its client and its protocol."""

from __future__ import annotations

from typing import Any

from nekkar.redis import RedisCache, cache
from nekkar.redis.cache import COUNT, DESCENT, _after


def client_of(redis: RedisCache) -> Any:
    """Return the client that the user gave to a cache, or that it made."""
    return redis._client
