"""httpx: transports that make each request wait for its slot, and ``limit`` for a client as it is.

    client = limit(httpx.Client(), limiter, rules)
    client = httpx.Client(transport=NekkarTransport(limiter, rules))

- The request's method and URL are resolved to a limit through the rule table; the request waits until the
  limit admits it, and then goes to the wrapped transport as it is. The wait is outside the HTTP timeouts.
- Every redirect and every step of an authentication is a request of its own, and waits for its own slot.
  ``HTTPTransport(retries=…)`` repeats failed connects alone, which never reached the service.
- ``extensions={"nekkar": {"cost": 3, "max_wait": 5}}`` on a call asks for so many hits and bounds the wait, in
  seconds. ``response.extensions["nekkar"]`` is the Admission, or None where no rule applied.
- What a client has a proxy or a mount for never passes its ``transport=``, and a client given one does not look
  for the environment's proxies: ``limit`` keeps all these, and limits them.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from nekkar.core.errors import CacheError, ConfigurationError, CorruptLog, WaitTooLong, kind_of
from nekkar.core.limiter import Nekkar
from nekkar.http.limiter import Gate
from nekkar.http.transport import Door, Errors, heard, heard_async, inner, limit_client
from nekkar.rules import RuleTable

__all__ = [
    "AsyncNekkarTransport",
    "NekkarTransport",
    "RequestCacheError",
    "RequestCorruptLog",
    "RequestWaitTooLong",
    "limit",
]

AnyClient = TypeVar("AnyClient", bound=httpx.Client | httpx.AsyncClient)


class RequestWaitTooLong(WaitTooLong, httpx.TimeoutException):
    """A ``WaitTooLong`` that ``except httpx.TimeoutException`` catches; the request was not sent."""

    def __init__(self, name: str, retry_after: float, max_wait: float, request: httpx.Request | None = None) -> None:
        httpx.TimeoutException.__init__(self, "", request=request)
        WaitTooLong.__init__(self, name, retry_after, max_wait)  # last: it sets the arguments


class RequestCacheError(CacheError, httpx.TransportError):
    """A ``CacheError`` that ``except httpx.TransportError`` catches; the request was not sent."""


class RequestCorruptLog(RequestCacheError, CorruptLog):
    """A ``CorruptLog`` that ``except httpx.TransportError`` catches; the request was not sent."""


_ERRORS = Errors(RequestWaitTooLong, RequestCacheError, RequestCorruptLog)


class NekkarTransport(httpx.BaseTransport):
    """A transport for ``httpx.Client(transport=…)`` that waits for the limit of each request.

    ``transport``: the one that sends; else an ``httpx.HTTPTransport`` is made with ``http_transport_args``.
    ``max_wait``: the longest wait in seconds, before the limit's own. Thread-safe.
    Raises ConfigurationError; requests raise RequestWaitTooLong, RequestCacheError, and what sending raises.
    """

    def __init__(
        self,
        limiter: Nekkar,
        rules: RuleTable,
        transport: httpx.BaseTransport | None = None,
        *,
        max_wait: float | None = None,
        **http_transport_args: Any,
    ) -> None:
        self._door = Door(Gate(limiter, rules, max_wait), _ERRORS)
        self._transport = inner(transport, "handle_request", httpx.HTTPTransport, http_transport_args)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Wait for the request's limit, send it, and let the fleet know of a refusal; blocks."""
        admitted = self._door.admit(request)
        response: httpx.Response = heard(self._transport.handle_request(request), admitted)
        return response

    def close(self) -> None:
        """Close the wrapped transport."""
        self._transport.close()

    def __enter__(self) -> Self:
        self._transport.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._transport.__exit__(kind, error, traceback)


class AsyncNekkarTransport(httpx.AsyncBaseTransport):
    """A transport for ``httpx.AsyncClient(transport=…)``: as NekkarTransport, under asyncio and trio.

    Waiting holds up no other task, and a cancelled wait keeps no slot.
    """

    def __init__(
        self,
        limiter: Nekkar,
        rules: RuleTable,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        max_wait: float | None = None,
        **http_transport_args: Any,
    ) -> None:
        self._door = Door(Gate(limiter, rules, max_wait), _ERRORS)
        self._transport = inner(transport, "handle_async_request", httpx.AsyncHTTPTransport, http_transport_args)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Wait for the request's limit, send it, and let the fleet know of a refusal."""
        admitted = await self._door.admit_async(request)
        response: httpx.Response = await heard_async(await self._transport.handle_async_request(request), admitted)
        return response

    async def aclose(self) -> None:
        """Close the wrapped transport."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._transport.__aexit__(kind, error, traceback)


def limit(client: AnyClient, limiter: Nekkar, rules: RuleTable, *, max_wait: float | None = None) -> AnyClient:
    """Limit all that a client sends from now on, proxies and mounts included; return the same client.

    ``client``: an ``httpx.Client`` or ``httpx.AsyncClient``. ``max_wait``: the longest wait of each request in
    seconds, before the limit's own. Raises ConfigurationError, a second time too.
    """
    if not isinstance(client, httpx.Client | httpx.AsyncClient):
        raise ConfigurationError(f"client {kind_of(client)} is not httpx's; give an httpx.Client or AsyncClient")
    wrapper = NekkarTransport if isinstance(client, httpx.Client) else AsyncNekkarTransport
    limit_client(client, wrapper, lambda transport: wrapper(limiter, rules, transport, max_wait=max_wait))
    return client
