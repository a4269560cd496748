"""A permit: the slot on which one request makes its next attempt, and what happens to that slot before the bytes leave.

1. An attempt takes its slot before it waits for anything else, so no connection is held while the limit is full.
2. What comes next may take long: a queue for a connection, a name server, a handshake, a proxy. Where the bytes leave,
   the slot is looked at again. A stale one, older than half of the margin, is spent; the attempt waits for a new one.
3. ``max_wait`` bounds all waits of one attempt for its limit together.

The core's errors become those of an HTTP library here; this module names no class of any.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from nekkar.core.errors import CacheError, ConfigurationError, CorruptLog, CostNotGiven, WaitTooLong
from nekkar.core.limiter import Admission
from nekkar.http.bodies import Answer
from nekkar.http.feedback import Route
from nekkar.http.header_values import Headers
from nekkar.http.inspection import Measuring
from nekkar.http.routes import Routes


@dataclass(frozen=True, slots=True)
class Errors:
    """The errors of one library, each made with the arguments of nekkar's own error and with ``request``."""

    wait_too_long: Callable[..., Exception]
    cache_error: Callable[..., Exception]
    corrupt_log: Callable[..., Exception]
    configuration_error: Callable[..., Exception]


class Body(Protocol):
    """The body of an answer. ``is_whole``: it was read already, so that nothing will pass."""

    is_whole: bool

    def tap(self, measuring: Measuring) -> None:
        """Have the body measured as it passes."""

    def read_ahead(self) -> bytes | None:
        """Return the body as it came, None where it is over 64 kB; later readers get it unchanged."""


class AsyncBody(Protocol):
    """The body of an answer that is read in a task; otherwise as ``Body``."""

    is_whole: bool

    def tap(self, measuring: Measuring) -> None: ...

    async def read_ahead_async(self) -> bytes | None: ...


@dataclass(slots=True, eq=False)
class Permit:
    """The slots of one request: ``admission`` is the newest.

    ``arguments``: what the limit's ``acquire`` is called with. ``is_used``: an attempt went out on the newest slot, so
    another attempt needs another.
    """

    route: Route | Routes
    arguments: dict[str, Any]
    errors: Errors
    request: Any
    admission: Admission | None = None
    is_used: bool = False
    _waited: float = 0.0
    _refusal: tuple[Exception, Exception] | None = None

    @property
    def whole(self) -> Admission | None:
        """The newest admission, with all that its attempt waited."""
        if not self.admission or not self._waited:
            return self.admission
        return self.admission._after(self._waited + self.admission.waited)

    @property
    def is_good(self) -> bool:
        """Whether an attempt may start now on the slot in hand."""
        return self.admission is not None and not self.is_used and self.route.limit._is_good(self.admission)

    @property
    def least_wait(self) -> float:
        """The seconds that a new slot is away at least, as far as this process knows."""
        return self.route.limit._least_wait(self.admission) if self.admission else 0.0

    def acquire(self) -> float:
        """Block until an attempt may start; return the seconds waited, 0 where the slot in hand is good.

        Raises the library's errors.
        """
        if self.admission and self.is_good:
            return 0.0
        limit, stale = self.route.limit, self.admission and self._stale()
        try:
            if stale is None:
                return self._take(limit.acquire(**self.arguments))
            return self._take(limit._exchange(stale, self._left()))
        except (WaitTooLong, CacheError, ConfigurationError) as error:
            raise self._refused(error) from error

    async def acquire_async(self) -> float:
        """Wait, in a task, until an attempt may start; otherwise as ``acquire``."""
        if self.admission and self.is_good:
            return 0.0
        limit, stale = self.route.limit, self.admission and self._stale()
        try:
            if stale is None:
                return self._take(await limit.acquire_async(**self.arguments))
            return self._take(await limit._exchange_async(stale, self._left()))
        except (WaitTooLong, CacheError, ConfigurationError) as error:
            raise self._refused(error) from error

    def report(self, status: int, headers: Headers, body: Body | None = None) -> None:
        """Report the answer to the newest attempt, for the whole fleet; blocks for a swap if that changes anything.

        ``body``: given where the limit has an inspection. Up to 64 kB of it may be read, which blocks.
        """
        if not self.admission:
            return
        if body is None:
            self.route.report(self.admission, status, headers)
            return
        answer = Answer(status, headers, is_decoded=body.is_whole)
        measuring = self._measuring(answer, body)
        ahead = body.read_ahead() if self._reads_ahead(answer) else None
        self.route.report(self.admission, status, headers, self._pause(answer, ahead))
        if measuring and body.is_whole:
            measuring.settle()

    async def report_async(self, status: int, headers: Headers, body: AsyncBody | None = None) -> None:
        """Report it from a task; see ``report``."""
        if not self.admission:
            return
        if body is None:
            await self.route.report_async(self.admission, status, headers)
            return
        answer = Answer(status, headers, is_decoded=body.is_whole)
        measuring = self._measuring(answer, body)
        ahead = await body.read_ahead_async() if self._reads_ahead(answer) else None
        await self.route.report_async(self.admission, status, headers, self._pause(answer, ahead))
        if measuring and body.is_whole:
            await measuring.settle_async()

    def explain(self, error: BaseException) -> None:
        """Give an error of ``acquire`` its cause again, which httpcore takes from what passes through it."""
        if self._refusal and self._refusal[0] is error:
            error.__cause__ = self._refusal[1]

    def _measuring(self, answer: Answer, body: Body | AsyncBody) -> Measuring | None:
        """Have the body measured as it passes, for a limit with a meter."""
        inspection, admission = self.route.inspection, self.whole
        measuring = inspection.measuring(admission, answer) if inspection and admission else None
        if measuring:
            body.tap(measuring)
        return measuring

    def _reads_ahead(self, answer: Answer) -> bool:
        return bool(self.route.inspection and self.route.inspection.reads_ahead(answer))

    def _pause(self, answer: Answer, ahead: bytes | None) -> int | None:
        return self.route.inspection.pause(answer, ahead) if self.route.inspection else None

    @property
    def _longest(self) -> float | None:
        given: float | None = self.arguments["max_wait"]
        return self.route.limit.max_wait if given is None else given

    def _stale(self) -> Admission | None:
        """Return the admission to exchange, once: None where an attempt went out on it, or an exchange has failed."""
        stale = None if self.is_used else self.admission
        self._waited = self._waited + stale.waited if stale else 0.0
        self.is_used = True
        return stale

    def _left(self) -> float | None:
        """Return the seconds that the attempt may wait still."""
        return None if self._longest is None else max(0.0, self._longest - self._waited)

    def _take(self, admission: Admission) -> float:
        self.admission, self.is_used = admission, False
        return admission.waited

    def _refused(self, error: WaitTooLong | CacheError | ConfigurationError) -> Exception:
        errors = self.errors
        if isinstance(error, WaitTooLong):
            refused = errors.wait_too_long(error.name, error.retry_after, self._longest, self.request)
        elif isinstance(error, ConfigurationError):
            remedy = "; or give the limit a meter, or its rule a cost" if isinstance(error, CostNotGiven) else ""
            refused = errors.configuration_error(f"{error}{remedy}", request=self.request)
        else:
            kind = errors.corrupt_log if isinstance(error, CorruptLog) else errors.cache_error
            refused = kind(str(error), request=self.request)
        self._refusal = (refused, error)
        return refused
