"""httpcore's wire: where the bytes of a request leave, told by its ``trace`` extension, for httpx and httpx2.

httpcore calls ``trace(event, info)`` at each step of a request. At ``….send_request_headers.started`` the request has
its connection, and nothing of it has been sent. There the permit is checked again and used. A trace of the user's own
is called first, so that a slot does not age in it. A transport that tells no such events is not checked.

Where an attempt waits that finds its slot stale:

1. A connection that this attempt opened waits with it: the next attempt would have to open another, just as slowly.
   So does a connection from the pool, if the wait is short.
2. Otherwise the attempt ends before anything is sent, and waits without a connection: a server closes an idle
   connection after some seconds, and other requests queue for it, under the pool's timeout. An attempt whose slot went
   stale in that queue does not connect first.
3. A stream of HTTP/2 never waits, except the first of a connection: httpcore gives the stream's number to the next
   request as well until the headers are sent. So the number of a stream that gives up is used up first: httpcore2
   under trio would else close the next one's stream with it.
4. A second attempt, made by a transport inside nekkar's that repeats requests, waits where it is: what repeats it
   would start its count again. Over HTTP/2 it can't, and is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nekkar.core.errors import ConfigurationError
from nekkar.http.permit import Permit

OPENS = ("connect_tcp.started", "connect_unix_socket.started")
SENDS = "send_request_headers.started"
STEPS = (*OPENS, SENDS)  # of a dozen
MOST_HELD = 1.0  # seconds that a connection from the pool waits: some servers close an idle one after two


class NotSent(BaseException):
    """Ends an attempt before anything was sent. Not an ``Exception``: code that repeats failed requests ignores it."""


class Wire:
    """One attempt of a request on its way to the wire: the ``trace`` of a sync client's request.

    ``owner``: nekkar's transport. ``inner``: the transport that sends. ``gave_up``: the attempt was not sent, and waits
    without a connection.
    """

    _given: dict[str, Any]
    _outer: Any
    owner: object

    def __init__(self, permit: Permit, request: Any, owner: object, inner: object) -> None:
        given: dict[str, Any] = request.extensions
        outer: Any = given.get("trace")
        if (
            outer and isinstance(outer, Wire) and outer.owner is owner
        ):  # one request object, sent twice at the same time
            given, outer = outer._given, outer._outer
        self.owner, self.gave_up, self._inner = owner, False, inner
        self._permit, self._request = permit, request
        self._given, self._outer = given, outer
        self._opened, self._held = False, 0.0

    def watch(self) -> None:
        """Have the request's events told to this attempt."""
        self._request.extensions = {**self._given, "trace": self}

    def leave(self) -> None:
        """Give the request its own extensions again."""
        self._request.extensions = self._given

    def __call__(self, event: str, info: dict[str, Any]) -> Any:
        """Take an event; block where the attempt has to wait for a new slot."""
        answer = self._outer(event, info) if self._outer else None
        if event.endswith(STEPS):
            for _ in self._waits(event, info):
                self._held = self._permit.acquire()
        return answer

    def _waits(self, event: str, info: dict[str, Any]) -> Iterator[None]:
        """Yield where the permit is to be acquired with the connection in hand; ``_held``: how long that took."""
        protocol, _, step = event.partition(".")
        if step in OPENS and not self._opened:
            self._opened = True
            if not (self._permit.is_good or self._permit.is_used) and self._permit.least_wait > MOST_HELD:
                self._give_up()  # rule 2
        elif step == SENDS and not self._is_tunnel(info):
            if not self._permit.is_good:
                yield from self._exchange(info, can_wait=protocol != "http2" or info.get("stream_id") == 1)
            self._permit.is_used = True

    def _exchange(self, info: dict[str, Any], can_wait: bool) -> Iterator[None]:
        is_second, from_pool = self._permit.is_used, not self._opened
        if is_second and not can_wait:
            raise ConfigurationError(
                f"a transport inside nekkar's repeats a request to {self._request.url.host} over HTTP/2, where a second"
                " attempt can't wait for its slot; put the transport that repeats requests around nekkar's"
            )  # rule 4
        if not can_wait:
            self._use_up(info)
            self._give_up()  # rule 3
        if from_pool and not is_second and self._permit.least_wait > MOST_HELD:
            self._give_up()  # rule 2
        yield
        if from_pool and not is_second and self._held > MOST_HELD:  # other processes had booked more than was known
            self._give_up()  # with its new slot

    def _give_up(self) -> None:
        self.gave_up = True
        raise NotSent

    def _use_up(self, info: dict[str, Any]) -> None:
        """Have the number of a stream that will not be opened given to no other. httpcore has no public way to it."""
        for connection in getattr(getattr(self._inner, "_pool", None), "connections", ()):
            state = getattr(getattr(connection, "_connection", None), "_h2_state", None)
            if state and connection.can_handle_request(info["request"].url.origin):
                state.highest_outbound_stream_id = max(state.highest_outbound_stream_id, info["stream_id"])

    def _is_tunnel(self, info: dict[str, Any]) -> bool:
        """Whether httpcore sends a CONNECT of its own to a proxy."""
        return getattr(info.get("request"), "method", None) == b"CONNECT" and self._request.method != "CONNECT"


class AsyncWire(Wire):
    """The ``trace`` of an async client's request."""

    def __call__(self, event: str, info: dict[str, Any]) -> Any:
        """Return a coroutine that takes an event, and waits where the attempt has to wait for a new slot."""
        if event.endswith(STEPS):
            return self._take(event, info)
        return self._outer(event, info) if self._outer else _nothing()

    async def _take(self, event: str, info: dict[str, Any]) -> None:
        if self._outer:
            await self._outer(event, info)
        for _ in self._waits(event, info):
            self._held = await self._permit.acquire_async()


async def _nothing() -> None:
    """Do nothing."""
