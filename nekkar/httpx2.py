"""httpx2: transports that make each request wait for its slot, and ``limit`` for a client as it is.

    client = limit(httpx2.Client(), limiter, rules)
    client = httpx2.Client(transport=NekkarTransport(limiter, rules))

- The rule table finds the limit of each request, each redirect and each step of an authentication. The request waits
  for its slot, and then for a connection; a slot that goes stale there is exchanged (see ``nekkar.http.wire``).
- ``extensions={"nekkar": {"cost": 3, "max_wait": 5}}`` on a call sets its cost (by unit: ``{"tokens": 1200}``)
  and bounds the wait, in seconds. ``response.extensions["nekkar"]`` is the Admission, or None where no rule applied.
- What a client has a proxy or a mount for never passes its ``transport=``, and a client given one does not look
  for the environment's proxies: ``limit`` keeps all these, and limits them.
"""

from __future__ import annotations

from typing import TypeVar

from nekkar.core.errors import CacheError, ConfigurationError, CorruptLog, WaitTooLong, missing
from nekkar.core.limiter import Nekkar
from nekkar.http.inspection import Refused
from nekkar.http.permit import Errors
from nekkar.http.taps import AsyncTap, SyncTap
from nekkar.http.transport import AsyncTransport, SyncTransport, limit_client, not_a_client
from nekkar.rules import RuleTable

try:
    import httpx2
except ModuleNotFoundError as error:
    raise missing("nekkar.httpx2", "httpx2", error) from error

__all__ = [
    "AsyncNekkarTransport",
    "NekkarTransport",
    "RequestCacheError",
    "RequestConfigurationError",
    "RequestCorruptLog",
    "RequestWaitTooLong",
    "limit",
]

AnyClient = TypeVar("AnyClient", bound=httpx2.Client | httpx2.AsyncClient)


class RequestWaitTooLong(WaitTooLong, httpx2.TimeoutException):
    """A ``WaitTooLong`` that ``except httpx2.TimeoutException`` catches; the request was not sent."""

    def __init__(self, name: str, retry_after: float, max_wait: float, request: httpx2.Request | None = None) -> None:
        httpx2.TimeoutException.__init__(self, "", request=request)
        WaitTooLong.__init__(self, name, retry_after, max_wait)  # last: it sets the arguments


class RequestCacheError(CacheError, httpx2.TransportError):
    """A ``CacheError`` that ``except httpx2.TransportError`` catches; the request was not sent."""


class RequestCorruptLog(RequestCacheError, CorruptLog):
    """A ``CorruptLog`` that ``except httpx2.TransportError`` catches; the request was not sent."""


class RequestConfigurationError(httpx2.TransportError, ConfigurationError):
    """A ``ConfigurationError`` that ``except httpx2.TransportError`` catches; the request was not sent."""


_ERRORS = Errors(RequestWaitTooLong, RequestCacheError, RequestCorruptLog, RequestConfigurationError)


class _SyncTap(SyncTap, httpx2.SyncByteStream):
    """A stream of httpx2's that is read on its way."""


class _AsyncTap(AsyncTap, httpx2.AsyncByteStream):
    """An async stream of httpx2's that is read on its way."""


class NekkarTransport(SyncTransport[httpx2.BaseTransport, httpx2.Request, httpx2.Response], httpx2.BaseTransport):
    """A transport for ``httpx2.Client(transport=…)`` that waits for the limit of each request.

    ``transport``: the one that sends; else an ``httpx2.HTTPTransport`` is made with ``http_transport_args``.
    ``max_wait``: the longest wait in seconds, before the limit's own. ``refused``: a function of each response that
    returns the seconds to pause, None for other answers; up to 64 kB of a body are read for that. Thread-safe.
    Raises ConfigurationError; requests raise RequestWaitTooLong, RequestCacheError, RequestConfigurationError, and
    what sending raises.
    """

    _errors, _make, _tap = _ERRORS, httpx2.HTTPTransport, _SyncTap


class AsyncNekkarTransport(
    AsyncTransport[httpx2.AsyncBaseTransport, httpx2.Request, httpx2.Response], httpx2.AsyncBaseTransport
):
    """A transport for ``httpx2.AsyncClient(transport=…)``: as NekkarTransport, under asyncio and trio.

    Waiting holds up no other task, and a cancelled wait keeps no slot.
    """

    _errors, _make, _tap = _ERRORS, httpx2.AsyncHTTPTransport, _AsyncTap


def limit(
    client: AnyClient,
    limiter: Nekkar,
    rules: RuleTable,
    *,
    max_wait: float | None = None,
    refused: Refused | None = None,
) -> AnyClient:
    """Limit all that a client sends from now on, proxies and mounts included; return the same client.

    ``client``: an ``httpx2.Client`` or ``httpx2.AsyncClient``. ``max_wait``: the longest wait of each request in
    seconds, before the limit's own. ``refused``: a function of each response that returns the seconds to pause, None
    for other answers. Raises ConfigurationError, a second time too.
    """
    if not isinstance(client, httpx2.Client | httpx2.AsyncClient):
        raise not_a_client(client, "httpx2")
    wrapper = NekkarTransport if isinstance(client, httpx2.Client) else AsyncNekkarTransport
    limit_client(client, lambda inner: wrapper(limiter, rules, inner, max_wait=max_wait, refused=refused), wrapper)
    return client
