"""Contenders that hold requests and tokens at once, and give back what a call did not use; all from tasks, on a server.

Each is made, within a running loop, to a call that waits until ``RESERVED`` tokens are free, and returns how to settle.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from tests.benchmarks.limiters import Contender, Servers, Terms

TOKENS_A_CALL = 100  # a limit of N requests counts 100 × N tokens too
RESERVED = 200
Settle = Callable[[int], Awaitable[Any]]
Reserve = Callable[[], Awaitable[Settle]]
sent = [0]  # commands that this process sent to Redis, of those that can't be told by the server's count


def nekkar(cache: str) -> Callable[[Servers, Terms], Reserve]:
    """nekkar, on memcached or Redis."""

    def make(servers: Servers, terms: Terms) -> Reserve:
        from nekkar.core.limiter import Nekkar

        urls = {
            "memcached": f"memcached://127.0.0.1:{servers.memcached}",
            "redis": f"redis://127.0.0.1:{servers.redis}/0",
        }
        per = f"per {round(terms.period)} seconds"
        limit = Nekkar(urls[cache])(terms.name, f"{terms.calls} {per}; {terms.calls * TOKENS_A_CALL} tokens {per}")

        async def reserve() -> Settle:
            admission = await limit.acquire_async({"tokens": RESERVED})
            return lambda used: admission.settle_async(tokens=used)

        return reserve

    return make


def token_throttle(servers: Servers, terms: Terms) -> Reserve:
    """token-throttle: token buckets behind a lock."""
    from token_throttle import PerModelConfig, Quota, RateLimiter, RedisBackendBuilder, UsageQuotas

    period = round(terms.period)
    quotas = UsageQuotas(
        [
            Quota(metric="requests", limit=terms.calls, per_seconds=period),
            Quota(metric="tokens", limit=terms.calls * TOKENS_A_CALL, per_seconds=period),
        ]
    )
    backend = RedisBackendBuilder(_counted(servers), key_prefix=terms.name, lock_blocking_timeout_seconds=60)
    limiter = RateLimiter(PerModelConfig(quotas=quotas), backend=backend)

    async def reserve() -> Settle:
        held = await limiter.acquire_capacity({"requests": 1, "tokens": RESERVED}, model="model")
        return lambda used: limiter.refund_capacity({"requests": 1, "tokens": used}, held)

    return reserve


def llm_rate_limiter(servers: Servers, terms: Terms) -> Reserve:
    """LLMRateLimiter: one script. It corrects output tokens alone, so all tokens are of the output here."""
    from llmratelimiter import RateLimitConfig, RateLimiter

    config = RateLimitConfig(
        rpm=terms.calls,
        output_tpm=terms.calls * TOKENS_A_CALL,
        window_seconds=round(terms.period),
        smooth_requests=False,
    )
    limiter = RateLimiter(redis=_counted(servers), model=terms.name, config=config)

    async def reserve() -> Settle:
        held = await limiter.acquire(input_tokens=0, output_tokens=RESERVED)
        return lambda used: limiter.adjust(held.record_id, used)

    return reserve


def _counted(servers: Servers) -> Any:
    """Return a Redis client whose commands are counted as they are sent: the server counts those in scripts as well."""
    from redis.asyncio import Connection, ConnectionPool, Redis

    class Counted(Connection):
        def pack_command(self, *words: Any) -> Any:
            sent[0] += 1
            return super().pack_command(*words)

        def pack_commands(self, commands: Any) -> Any:
            each = list(commands)
            sent[0] += len(each)
            return super().pack_commands(each)

    pool: Any = ConnectionPool(connection_class=Counted, host="127.0.0.1", port=servers.redis, max_connections=1000)
    return Redis(connection_pool=pool)


NEKKAR = Contender("nekkar async, memcached", "nekkar", "memcached", nekkar("memcached"), exact=True)
NEKKAR_REDIS = Contender("nekkar async, redis", "redis", "redis", nekkar("redis"), exact=True)
TOKEN_THROTTLE = Contender("token-throttle, redis", "token_throttle", "", token_throttle)
LLM_RATE_LIMITER = Contender("LLMRateLimiter, redis", "llmratelimiter", "", llm_rate_limiter)
TOKENS = [NEKKAR, NEKKAR_REDIS, TOKEN_THROTTLE, LLM_RATE_LIMITER]
TOKENS_BY_NAME = {each.name: each for each in TOKENS}
