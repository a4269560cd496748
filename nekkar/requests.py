"""requests: adapters that make each attempt of a request wait for its slot.

    session.mount("https://", NekkarAdapter(limiter, rules))   # or all that a session mounts:
    limit(session, limiter, rules)

The request's method and URL are resolved to a limit through the rule table; an attempt starts once the limit
admits it. The wait is outside the HTTP timeouts, but inside ``response.elapsed``.

- Every hop of a redirect and every step of an authentication is a request of its own.
- The first attempt is admitted before anything is sent, whatever sends it; each retry where urllib3 makes it.
- Where callers wait for a connection (``pool_block``), the first is too: its slot would go stale in that queue.
- A slot that went stale while the connection was opened is exchanged before the bytes leave, see ``http.urllib3``.
- What a limited session mounts later is limited too: its ``adapters`` wrap what is put into them, and are wrapped again
  where others take their place.
- The answer to each attempt is reported where urllib3 sees it, also of those that it retries; a mock's once it is back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar
from weakref import ReferenceType, ref

from nekkar.core.errors import CacheError, ConfigurationError, CorruptLog, WaitTooLong, kind_of, missing
from nekkar.core.limiter import Nekkar
from nekkar.http.bodies import bytes_of
from nekkar.http.inspection import Refused
from nekkar.http.limiter import NO_OPTIONS, CallOptions, HttpLimiter
from nekkar.http.permit import Errors, Permit
from nekkar.rules import RuleTable

try:
    import requests
except ModuleNotFoundError as error:
    raise missing("nekkar.requests", "requests", error) from error

from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.connectionpool import HTTPConnectionPool

from nekkar.http.attempts import AdmittedAttempts
from nekkar.http.urllib3 import AttemptRefused, attempts, hook_pool

__all__ = [
    "NekkarAdapter",
    "RequestCacheError",
    "RequestConfigurationError",
    "RequestCorruptLog",
    "RequestWaitTooLong",
    "limit",
    "options",
]

S = TypeVar("S", bound=requests.Session)

_OWN = ("_http", "_adapter")

_options: ContextVar[CallOptions] = ContextVar("nekkar's options", default=NO_OPTIONS)


class RequestWaitTooLong(WaitTooLong, requests.exceptions.Timeout):
    """A ``WaitTooLong`` that ``except requests.Timeout`` catches; the attempt was not sent."""

    def __init__(self, name: str, retry_after: float, max_wait: float, request: Any = None) -> None:
        super().__init__(name, retry_after, max_wait)
        self.request, self.response = request, None


class RequestCacheError(CacheError, requests.exceptions.ConnectionError):
    """A ``CacheError`` that ``except requests.ConnectionError`` catches; the attempt was not sent."""


class RequestCorruptLog(CorruptLog, RequestCacheError):
    """A ``CorruptLog`` that ``except requests.ConnectionError`` catches; the attempt was not sent."""


class RequestConfigurationError(requests.exceptions.RequestException, ConfigurationError):
    """A ``ConfigurationError`` that ``except requests.RequestException`` catches; the attempt was not sent."""


_ERRORS = Errors(RequestWaitTooLong, RequestCacheError, RequestCorruptLog, RequestConfigurationError)


def limit(
    session: S,
    limiter: Nekkar,
    rules: RuleTable,
    *,
    max_wait: float | None = None,
    refused: Refused | None = None,
) -> S:
    """Limit all that the session mounts, now and later; return the session.

    Its adapters go on sending, each behind a ``NekkarAdapter`` under the same prefix; so does each that is mounted
    later, or is in a dict that takes the place of ``session.adapters``, unless it is a ``NekkarAdapter`` itself.
    ``max_wait``: the longest wait of each attempt in seconds, before the limit's own. ``refused``: a function of each
    response that returns the seconds to pause, None where it is not a refusal. Raises ConfigurationError, and changes
    nothing, where an adapter is limited already.
    """
    if not isinstance(session, requests.Session):
        raise ConfigurationError(f"session must be a requests.Session, got {kind_of(session)}")
    if isinstance(session.adapters, _LimitedAdapters):
        raise ConfigurationError(f"session {kind_of(session)} is limited already; give its limits in one RuleTable")
    for adapter in session.adapters.values():
        _check(adapter, {})
    wrap = partial(NekkarAdapter, limiter, rules, max_wait=max_wait, refused=refused)
    session.adapters = _LimitedAdapters.of(session.adapters, wrap)
    session.get_adapter = partial(_adapter_of, ref(session), wrap)  # type: ignore[method-assign]
    return session


@contextmanager
def options(
    *, cost: int | Mapping[str, int] | None = None, max_wait: float | None = None, headroom: float | None = None
) -> Iterator[None]:
    """Set what each attempt inside the block asks for: its ``cost``, at most ``max_wait`` seconds of waiting.

    ``cost``: a number of calls, or hits by unit such as ``{"tokens": 1200}``. ``headroom``: the part of each window,
    from 0 to below 1, that it leaves free. What is not given stays as it is outside
    the block. Holds in this thread or task, and wherever its context is copied to (``asyncio.to_thread``). Raises
    ConfigurationError for what can't be either.
    """
    outside = _options.get()
    inside = CallOptions(
        outside.cost if cost is None else cost,
        outside.max_wait if max_wait is None else max_wait,
        outside.headroom if headroom is None else headroom,
    )
    token = _options.set(inside)
    try:
        yield
    finally:
        _options.reset(token)


class NekkarAdapter(HTTPAdapter):
    """A transport adapter for ``requests.Session.mount`` that waits for the limit of each attempt.

    ``adapter``: the adapter that sends, whose attributes this one then shows; else it sends itself, made with
    ``http_adapter_args``, those of ``requests.adapters.HTTPAdapter``. ``max_wait``: the longest wait in seconds;
    that of ``options`` comes before it, the limit's own after it. ``refused``: a function of each response that returns
    the seconds to pause, None for other answers; up to 64 kB of a body are read for that. Responses carry the
    admission of their last attempt as ``response.nekkar`` (None where no rule applied). Thread-safe; pickles with its
    limits if the cache and ``refused`` do.

    ``send`` blocks, and raises RequestWaitTooLong, RequestCacheError, RequestConfigurationError, and what sending
    raises.
    """

    __attrs__ = [*HTTPAdapter.__attrs__, *_OWN]  # noqa: RUF012  requests' own

    def __init__(
        self,
        limiter: Nekkar,
        rules: RuleTable,
        adapter: BaseAdapter | None = None,
        *,
        max_wait: float | None = None,
        refused: Refused | None = None,
        **http_adapter_args: Any,
    ) -> None:
        self._http = HttpLimiter(limiter, rules, max_wait, refused)
        if adapter is not None:
            _check(adapter, http_adapter_args)
        self._adapter = adapter
        if adapter is None:
            super().__init__(**http_adapter_args)
        self._hook_pools()

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send the request, each attempt as soon as its limit admits it."""
        send = super().send if self._adapter is None else self._adapter.send
        try:
            body = _content(request) if self._http.rules.needs_body else None
            route = self._http.route(request.method or "GET", request.url, request.headers, body)
        except ConfigurationError as error:
            raise RequestConfigurationError(*error.args, request=request) from error
        permit = None
        if route:
            asked = self._http.acquire_args(_options.get(), route, request, _content)
            permit = Permit(route, asked, _ERRORS, request)
        sent = AdmittedAttempts(permit)
        token = attempts.set(sent)
        try:
            if not self._waits_for_connections(send):
                sent.admit_ahead()
            response = send(request, *args, **kwargs)
        except AttemptRefused as refused:
            raise refused.error from refused.error.__cause__
        finally:
            attempts.reset(token)
        made = response.content if response.raw is None else response.raw  # an adapter may make the answer itself
        sent.report(response.status_code, response.headers, made)
        response.nekkar = permit and permit.whole  # type: ignore[attr-defined]
        response.connection = self  # the next step of a digest goes through it
        return response

    def close(self) -> None:
        """Close the connections, those of a wrapped adapter too."""
        if self._adapter is None:
            super().close()
        else:
            self._adapter.close()

    def __getattr__(self, name: str) -> Any:
        """Show what the wrapped adapter has: its retries, its pools, whatever its class adds."""
        adapter = self.__dict__.get("_adapter")
        return getattr(super() if adapter is None else adapter, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set what the wrapped adapter has: ``max_retries`` set here is of use only there."""
        adapter = None if name in _OWN else self.__dict__.get("_adapter")
        if adapter is None:
            super().__setattr__(name, value)
        else:
            setattr(adapter, name, value)

    def __getstate__(self) -> dict[str, Any]:
        names = self.__attrs__ if self._adapter is None else _OWN
        return {name: getattr(self, name, None) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["_adapter"] is None:
            super().__setstate__(state)  # type: ignore[misc]
        self.__dict__.update(state)
        self._hook_pools()

    def _hook_pools(self) -> None:
        """Make the pools of the adapter that sends ask before each attempt; twice is as once.

        Each is caught as ``send`` looks it up: it may be a proxy's, made when the environment first names it.
        """
        adapter = self if self._adapter is None else self._adapter
        if isinstance(adapter, HTTPAdapter):
            adapter.get_connection_with_tls_context = partial(_found, ref(adapter))  # type: ignore[method-assign]

    def _waits_for_connections(self, send: Any) -> bool:
        """Whether ``send`` is requests' own, and takes from a pool that blocks; a mock of it asks no pool."""
        return getattr(send, "__globals__", None) is vars(requests.adapters) and bool(self._pool_block)


class _LimitedAdapters(OrderedDict[str, Any]):
    """The adapters of a limited session: one that is put in is wrapped, however it comes here.

    Adapters that were wrapped before stay as they are, so pickling and copying a session changes none.
    """

    wrap: Callable[[BaseAdapter], NekkarAdapter] | None = None

    @classmethod
    def of(cls, adapters: Mapping[str, Any], wrap: Callable[[BaseAdapter], NekkarAdapter]) -> _LimitedAdapters:
        limited = cls()
        limited.wrap = wrap
        limited.update(adapters)
        return limited

    def __setitem__(self, prefix: str, adapter: Any) -> None:
        if not isinstance(adapter, NekkarAdapter) and self.wrap:
            wrapped = (known for known in self.values() if known.__dict__.get("_adapter") is adapter)
            adapter = next(wrapped, None) or self.wrap(adapter)
        super().__setitem__(prefix, adapter)


def _adapter_of(held: ReferenceType[requests.Session], wrap: Callable[[BaseAdapter], NekkarAdapter], url: str) -> Any:
    """Return the adapter that a limited session has for a URL, though its ``adapters`` were replaced as a whole."""
    session = held()
    assert session is not None, "the caller holds the session"
    if type(session.adapters) is not _LimitedAdapters:
        session.adapters = _LimitedAdapters.of(session.adapters, wrap)
    return type(session).get_adapter(session, url)


def _content(request: requests.PreparedRequest) -> bytes:
    return bytes_of(request.body)


def _check(adapter: object, http_adapter_args: dict[str, Any]) -> None:
    """Raise ConfigurationError for what can't be wrapped."""
    if http_adapter_args or not isinstance(adapter, BaseAdapter):
        also = f" and {', '.join(http_adapter_args)}" if http_adapter_args else ""
        raise ConfigurationError(
            f"adapter {kind_of(adapter)}{also}: give an adapter to wrap, or arguments to make one, not both"
        )
    if isinstance(adapter, NekkarAdapter):
        raise ConfigurationError(
            f"adapter {kind_of(adapter)} is limited already; limit a session once, with all rules in one RuleTable"
        )


def _found(held: ReferenceType[HTTPAdapter], *args: Any, **kwargs: Any) -> HTTPConnectionPool:
    adapter = held()
    assert adapter is not None, "the caller holds the adapter"
    find: Any = type(adapter).get_connection_with_tls_context
    return hook_pool(find(adapter, *args, **kwargs))
