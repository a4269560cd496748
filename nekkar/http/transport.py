"""The transports of httpx and httpx2: how a request is admitted and sent, its response read, a client limited.

- This module names no class of either library: each face (``nekkar.httpx``, ``nekkar.httpx2``) inherits from here
  beside its library's own base, and brings the classes.
- The options of a call are read, and its limit found, before anything is sent; so a bad option sends nothing.
- A request is admitted by its method, its URL, its headers and its options. Its body is read for a meter or for a limit
  named by a field of it, unless it is a stream. While the request is sent, its ``trace`` extension is nekkar's (see
  ``wire``); nothing else of it changes.
- Of the response the status and headers are read; for a meter or ``refused=`` the body is read on its way (``taps``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

from nekkar.core.errors import ConfigurationError, kind_of
from nekkar.core.limiter import Nekkar
from nekkar.http.inspection import Refused
from nekkar.http.limiter import NO_OPTIONS, CallOptions, HttpLimiter
from nekkar.http.permit import Errors, Permit
from nekkar.http.taps import Whole
from nekkar.http.wire import AsyncWire, NotSent, Wire
from nekkar.rules import RuleTable

T = TypeVar("T")
Inner = TypeVar("Inner")  # the library's transport, request and response
Request = TypeVar("Request")
Response = TypeVar("Response")

KEY = "nekkar"  # of the extensions, the request's and the response's


class Transport(Generic[Inner]):
    """What sync and async transports share.

    ``_errors``: the library's. ``_make``: makes the library's own transport. ``_method``: what a transport has to have.
    ``_tap``: makes a stream of the library's of another one, which is read on its way.
    """

    _errors: ClassVar[Errors]
    _make: ClassVar[Callable[..., Any]]
    _method: ClassVar[str]
    _tap: ClassVar[type[Any]]

    def __init__(
        self,
        limiter: Nekkar,
        rules: RuleTable,
        transport: Inner | None = None,
        *,
        max_wait: float | None = None,
        refused: Refused | None = None,
        **http_transport_args: Any,
    ) -> None:
        self._http = HttpLimiter(limiter, rules, max_wait, refused)
        self._transport: Any = _inner(transport, self._method, self._make, http_transport_args)

    def _permit(self, request: Any) -> Permit | None:
        """Return what a request needs to be sent; None where it is unlimited."""
        try:
            given = request.extensions.get(KEY)
            options = NO_OPTIONS if given is None else CallOptions.read(given)
            body = _content(request) if self._http.rules.needs_body else None
            route = self._http.route(request.method, request.url, request.headers, body)
        except ConfigurationError as error:
            raise self._errors.configuration_error(str(error), request=request) from error
        if route is None:
            return None
        return Permit(route, self._http.acquire_args(options, route, request, _content), self._errors, request)

    def _body(self, response: Any, permit: Permit) -> Any:
        """Return the body of the response, where it is to be read on its way."""
        if permit.route.inspection is None:
            return None
        if response.is_stream_consumed:
            return Whole(response.content)
        response.stream = body = self._tap(response.stream)
        return body


class SyncTransport(Transport[Inner], Generic[Inner, Request, Response]):
    """The body of a sync transport."""

    _method = "handle_request"

    def handle_request(self, request: Request) -> Response:
        """Wait for the request's limit, send it, and share a refusal with the fleet; blocks."""
        permit = self._permit(request)
        if permit is None:
            return cast(Response, _noted(self._transport.handle_request(request), None))
        while True:
            permit.acquire()
            wire = Wire(permit, request, self, self._transport)
            wire.watch()
            try:
                response = self._transport.handle_request(request)
                break
            except (NotSent, Exception) as error:
                if not wire.gave_up:
                    permit.explain(error)
                    raise
            finally:
                wire.leave()
        try:
            permit.report(response.status_code, response.headers, self._body(response, permit))
        except BaseException:  # an interrupt: nobody gets the response, which has a connection
            response.close()
            raise
        return cast(Response, _noted(response, permit))

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


class AsyncTransport(Transport[Inner], Generic[Inner, Request, Response]):
    """The body of an async transport: under asyncio and trio, a wait holds up no other task."""

    _method = "handle_async_request"

    async def handle_async_request(self, request: Request) -> Response:
        """Wait for the request's limit, send it, and share a refusal with the fleet."""
        permit = self._permit(request)
        if permit is None:
            return cast(Response, _noted(await self._transport.handle_async_request(request), None))
        while True:
            await permit.acquire_async()
            wire = AsyncWire(permit, request, self, self._transport)
            wire.watch()
            try:
                response = await self._transport.handle_async_request(request)
                break
            except (NotSent, Exception) as error:
                if not wire.gave_up:
                    permit.explain(error)
                    raise
            finally:
                wire.leave()
        try:
            await permit.report_async(response.status_code, response.headers, self._body(response, permit))
        except BaseException:
            await response.aclose()
            raise
        return cast(Response, _noted(response, permit))

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


def not_a_client(given: object, library: str) -> ConfigurationError:
    """Return the error for what is no client of one of the two libraries, but perhaps one of the other."""
    other = "httpx" if library == "httpx2" else "httpx2"
    is_of_other = any(base.__module__.partition(".")[0] == other for base in type(given).__mro__)
    remedy = f" of {other}; nekkar.{other}.limit takes it" if is_of_other else ""
    return ConfigurationError(
        f"client must be an {library}.Client or an {library}.AsyncClient, got {kind_of(given)}{remedy}"
    )


def limit_client(client: Any, wrap: Callable[[Any], Any], wrapper: type[Any]) -> None:
    """Put a wrapper around each transport that a client has, those of its proxies and mounts too.

    What is mounted as None stays so: it stands for the client's default transport. Neither library has a public name
    for what a client mounts.
    """
    mounts = client._mounts
    if any(isinstance(transport, wrapper) for transport in (client._transport, *mounts.values())):
        raise ConfigurationError(f"client {kind_of(client)} is limited already; give its limits in one RuleTable")
    made = [transport and wrap(transport) for transport in (client._transport, *mounts.values())]
    client._transport, client._mounts = made[0], dict(zip(mounts, made[1:], strict=True))


def _content(request: Any) -> bytes:
    try:
        content: bytes = request.content
    except RuntimeError:  # RequestNotRead, of either library: the body is a stream
        return b""
    return content


def _noted(response: Any, permit: Permit | None) -> Any:
    response.extensions[KEY] = permit.whole if permit else None
    return response


def _inner(transport: Any, method: str, make: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Return the transport to wrap: the one given, which must have ``method``, or one made of the arguments."""
    if transport is None:
        return make(**arguments)
    if arguments:
        raise ConfigurationError(
            f"transport {kind_of(transport)} and {', '.join(arguments)}: give a transport to wrap, or arguments to"
            " make one, not both"
        )
    if isinstance(transport, type) or not callable(getattr(transport, method, None)):
        raise ConfigurationError(
            f"transport {kind_of(transport)} has no {method}; give one such as {make.__name__}(), or None for that"
        )
    return transport
