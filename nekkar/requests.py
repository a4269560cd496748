"""requests: adapters that make each attempt of a request wait for its slot.

    session.mount("https://", NekkarAdapter(limiter, rules))   # or all that a session mounts:
    limit(session, limiter, rules)

The request's method and URL are resolved to a limit through the rule table; an attempt starts once the limit
admits it. The wait is outside the HTTP timeouts, but inside ``response.elapsed``.

- Every hop of a redirect and every step of an authentication is a request of its own.
- The first attempt is admitted before anything is sent, whatever sends it; each retry where urllib3 makes it.
- Where callers wait for a connection (``pool_block``), the first is too: its slot would get old in that queue.
- The answer to each attempt is heard where urllib3 sees it, those that it retries too; a mock's once it is back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from weakref import ReferenceType, ref

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3.connectionpool import HTTPConnectionPool

from nekkar.core.errors import CacheError, ConfigurationError, CorruptLog, WaitTooLong, kind_of
from nekkar.core.limiter import Admission, Nekkar
from nekkar.http.feedback import Headers, Passage
from nekkar.http.limiter import NO_OPTIONS, Gate, Options
from nekkar.http.urllib3 import Refused, ask_first, asking, hearing
from nekkar.rules import RuleTable

__all__ = ["NekkarAdapter", "RequestCacheError", "RequestCorruptLog", "RequestWaitTooLong", "limit", "options"]

S = TypeVar("S", bound=requests.Session)

_OWN = ("_gate", "_adapter")

_options: ContextVar[Options] = ContextVar("nekkar's options", default=NO_OPTIONS)


class RequestWaitTooLong(WaitTooLong, requests.exceptions.Timeout):
    """A ``WaitTooLong`` that ``except requests.Timeout`` catches; the attempt was not sent."""

    def __init__(self, name: str, retry_after: float, max_wait: float, request: Any = None) -> None:
        super().__init__(name, retry_after, max_wait)
        self.request, self.response = request, None


class RequestCacheError(CacheError, requests.exceptions.ConnectionError):
    """A ``CacheError`` that ``except requests.ConnectionError`` catches; the attempt was not sent."""


class RequestCorruptLog(CorruptLog, RequestCacheError):
    """A ``CorruptLog`` that ``except requests.ConnectionError`` catches; the attempt was not sent."""


def limit(session: S, limiter: Nekkar, rules: RuleTable, *, max_wait: float | None = None) -> S:
    """Limit all that the session mounts; return the session.

    Its adapters go on sending, each behind a ``NekkarAdapter`` under the same prefix. What is mounted later is
    not limited. ``max_wait``: the longest wait of each attempt in seconds, before the limit's own.
    Raises ConfigurationError, and changes nothing, where an adapter is limited already.
    """
    if not isinstance(session, requests.Session):
        raise ConfigurationError(f"session {kind_of(session)} is no requests.Session; give one such as Session()")
    adapters = {id(adapter): adapter for adapter in session.adapters.values()}
    limited = {key: NekkarAdapter(limiter, rules, adapter, max_wait=max_wait) for key, adapter in adapters.items()}
    session.adapters.update({prefix: limited[id(adapter)] for prefix, adapter in session.adapters.items()})
    return session


@contextmanager
def options(*, cost: int | None = None, max_wait: float | None = None) -> Iterator[None]:
    """Set what each attempt inside the block asks for: ``cost`` hits, at most ``max_wait`` seconds of waiting.

    What is not given stays as it is outside the block. Holds in this thread or task, and wherever its context
    is copied to (``asyncio.to_thread``). Raises ConfigurationError for what can't be either.
    """
    outside = _options.get()
    inside = Options(
        outside.cost if cost is None else cost,
        outside.max_wait if max_wait is None else max_wait,
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
    that of ``options`` comes before it, the limit's own after it. Responses carry the admission of their last
    attempt as ``response.nekkar`` (None where no rule applied). Thread-safe; pickles with its limits if the
    cache does.

    ``send`` blocks, and raises RequestWaitTooLong, RequestCacheError, and what sending raises.
    """

    __attrs__ = [*HTTPAdapter.__attrs__, *_OWN]  # noqa: RUF012  requests' own

    def __init__(
        self,
        limiter: Nekkar,
        rules: RuleTable,
        adapter: BaseAdapter | None = None,
        *,
        max_wait: float | None = None,
        **http_adapter_args: Any,
    ) -> None:
        self._gate = Gate(limiter, rules, max_wait)
        if adapter is not None:
            _check(adapter, http_adapter_args)
        self._adapter = adapter
        if adapter is None:
            super().__init__(**http_adapter_args)
        self._ask_first()

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send the request, each attempt as soon as its limit admits it."""
        send = super().send if self._adapter is None else self._adapter.send
        passage = self._gate.passage(request.method or "GET", request.url, request.headers)
        attempts = _Attempts(request, self._gate, passage)
        asks, hears = asking.set(attempts), hearing.set(attempts.hear)
        try:
            if not self._waits_for_connections(send):
                attempts.admit_ahead()
            response = send(request, *args, **kwargs)
        except Refused as refused:
            raise refused.error from refused.error.__cause__
        finally:
            asking.reset(asks)
            hearing.reset(hears)
        attempts.hear(response.status_code, response.headers)
        response.nekkar = attempts.admission  # type: ignore[attr-defined]
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
        self._ask_first()

    def _ask_first(self) -> None:
        """Make the pools of the adapter that sends ask before each attempt; twice is as once.

        Each is caught as ``send`` looks it up: it may be a proxy's, made when the environment first names it.
        """
        adapter = self if self._adapter is None else self._adapter
        if isinstance(adapter, HTTPAdapter):
            adapter.get_connection_with_tls_context = partial(_found, ref(adapter))  # type: ignore[method-assign]

    def _waits_for_connections(self, send: Any) -> bool:
        """Whether ``send`` is requests' own, and takes from a pool that blocks; a mock of it asks no pool."""
        return getattr(send, "__globals__", None) is vars(requests.adapters) and bool(self._pool_block)


@dataclass(slots=True, eq=False)
class _Attempts:
    """The attempts of one request, each admitted once and heard once; ``admission`` is the last one's."""

    request: requests.PreparedRequest
    gate: Gate
    passage: Passage | None
    admission: Admission | None = None
    is_ahead: bool = False
    is_heard: bool = False

    def __call__(self) -> None:
        """Admit an attempt that starts now, if that was not done ahead of it."""
        if self.is_ahead:
            self.is_ahead = False
        elif self.passage is not None:
            self.admission, self.is_heard = self._admitted(self.passage), False

    def admit_ahead(self) -> None:
        """Admit the first attempt before it is sent."""
        self()
        self.is_ahead = True

    def hear(self, status: int, headers: Headers) -> None:
        """Hear what came back of an attempt: in its pool, or else of the adapter that sent it."""
        if self.passage and self.admission and not self.is_heard:
            self.is_heard = True
            self.passage.hear(self.admission, status, headers)

    def _admitted(self, passage: Passage) -> Admission:
        try:
            return passage.limit.acquire(**self.gate.asked(_options.get()))
        except WaitTooLong as error:
            raise RequestWaitTooLong(error.name, error.retry_after, error.max_wait, self.request) from error
        except CacheError as error:
            kind = RequestCorruptLog if isinstance(error, CorruptLog) else RequestCacheError
            raise kind(*error.args, request=self.request) from error


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
    assert adapter is not None, "whoever calls holds it"
    find: Any = type(adapter).get_connection_with_tls_context
    return ask_first(find(adapter, *args, **kwargs))
