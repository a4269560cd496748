"""The transports of httpx and httpx2, but for their names: how a request is admitted, its answer heard, what is raised.

- It names no class of either library: each face (``nekkar.httpx``, ``nekkar.httpx2``) brings its own.
- The options of a call are read, and its limit found, before anything is sent; so a bad option sends nothing.
- A request is admitted by its method, its URL, its headers and its options alone: neither it nor its body is
  touched. Of the response status and headers are heard.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from nekkar.core.errors import CacheError, ConfigurationError, CorruptLog, WaitTooLong, kind_of
from nekkar.core.limiter import Admission
from nekkar.http.feedback import Passage
from nekkar.http.limiter import Gate, Options

T = TypeVar("T")

KEY = "nekkar"  # of the extensions, the request's and the response's


@dataclass(frozen=True, slots=True)
class Errors:
    """The errors of one library, each called with what nekkar's own tells and with ``request``."""

    wait_too_long: Callable[..., Exception]
    cache_error: Callable[..., Exception]
    corrupt_log: Callable[..., Exception]

    def of(self, error: WaitTooLong | CacheError, request: Any) -> Exception:
        """Return the library's own error for nekkar's."""
        if isinstance(error, WaitTooLong):
            return self.wait_too_long(error.name, error.retry_after, error.max_wait, request)
        kind = self.corrupt_log if isinstance(error, CorruptLog) else self.cache_error
        return kind(str(error), request=request)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that may be sent: the way that its response goes, and its admission."""

    passage: Passage
    admission: Admission


@dataclass(frozen=True, slots=True)
class Door:
    """Where the requests of one transport wait; raises the errors of its library."""

    gate: Gate
    errors: Errors

    def admit(self, request: Any) -> Admitted | None:
        """Block until a request may be sent; None where it is unlimited."""
        passage, asked = self._asked(request)
        if passage is None:
            return None
        try:
            return Admitted(passage, passage.limit.acquire(**asked))
        except (WaitTooLong, CacheError) as error:
            raise self.errors.of(error, request) from error

    async def admit_async(self, request: Any) -> Admitted | None:
        """Wait, in a task, until a request may be sent; None where it is unlimited."""
        passage, asked = self._asked(request)
        if passage is None:
            return None
        try:
            return Admitted(passage, await passage.limit.acquire_async(**asked))
        except (WaitTooLong, CacheError) as error:
            raise self.errors.of(error, request) from error

    def _asked(self, request: Any) -> tuple[Passage | None, dict[str, Any]]:
        options = Options.read(request.extensions.get(KEY))
        return self.gate.passage(request.method, request.url, request.headers), self.gate.asked(options)


def heard(response: Any, admitted: Admitted | None) -> Any:
    """Let the fleet know what a response says; return it, with its admission in its extensions."""
    if admitted:
        try:
            admitted.passage.hear(admitted.admission, response.status_code, response.headers)
        except BaseException:  # an interrupt: nobody gets the response, which has a connection
            response.close()
            raise
    return _noted(response, admitted)


async def heard_async(response: Any, admitted: Admitted | None) -> Any:
    """Let the fleet know, from a task; see ``heard``."""
    if admitted:
        try:
            await admitted.passage.hear_async(admitted.admission, response.status_code, response.headers)
        except BaseException:
            await response.aclose()
            raise
    return _noted(response, admitted)


def _noted(response: Any, admitted: Admitted | None) -> Any:
    response.extensions[KEY] = admitted.admission if admitted else None
    return response


def inner(transport: T | None, method: str, make: Callable[..., T], arguments: Mapping[str, Any]) -> T:
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


def limit_client(client: Any, wrapper: type[Any], wrap: Callable[[Any], Any]) -> None:
    """Put a wrapper around each transport that a client has, those of its proxies and mounts too.

    What is mounted as None stays so: it stands for the client's default transport. Neither library has a
    public name for what a client mounts.
    """
    mounts = client._mounts
    if any(isinstance(transport, wrapper) for transport in (client._transport, *mounts.values())):
        raise ConfigurationError(f"client {kind_of(client)} is limited already; give its limits in one RuleTable")
    default = wrap(client._transport)
    mounted = {pattern: None if transport is None else wrap(transport) for pattern, transport in mounts.items()}
    client._transport, client._mounts = default, mounted
