"""Inspection: what is read of a limit's requests and answers beyond status and headers, and how it is used.

- ``refused=`` is called with every answer. Up to 64 kB of a body are read before that, never of a stream.
- A meter's estimate completes the cost of the call. The call's own cost comes first, then its rule's, then the meter's.
- What a meter measures settles the call's admission, once the body has ended or was closed. What it can't read or
  measure keeps costing its estimate.
- Of several limits with different meters, each is settled by its own meter; one without a meter, by the first.
- Neither ever fails a call of the user's. An exception or an invalid value is logged, once for each kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nekkar.core.admission import Admission, JointAdmission
from nekkar.core.cost import CALLS, merged
from nekkar.core.errors import CacheError, ConfigurationError, kind_of, shown
from nekkar.core.joint import JointLimit
from nekkar.core.limiter import Limit, Nekkar
from nekkar.core.quota import SECOND
from nekkar.http.bodies import (
    MOST_AHEAD,
    MOST_MEASURED,
    Answer,
    Decoder,
    Events,
    RequestView,
)
from nekkar.http.encodings import Unreadable
from nekkar.meters import FIRST_ERROR, Meter, Response

Refused = Callable[[Response], float | None]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is read of the requests and answers of a rule's limits: for ``meter``, and for ``refused``.

    ``parts``: where the limits have different meters, what is read for each of them, None for nothing.
    """

    limiter: Nekkar
    limit: Limit | JointLimit
    meter: Meter | None = None
    refused: Refused | None = None
    parts: tuple[Inspection | None, ...] = ()

    def cost(self, known: Mapping[str, int], request: RequestView) -> dict[str, int]:
        """Return the known cost of a call, completed by its meters' estimates, and by 0 for units that no meter names.

        Of several meters that name a unit, the largest estimate counts: a call has one cost for all its limits.
        """
        estimated: dict[str, int] = {}
        for part in filter(None, self.parts or (self,)):
            for unit, hits in part._estimated(request).items():
                estimated[unit] = max(hits, estimated.get(unit, 0))
        return merged(known, self._counted(estimated), {unit: 0 for unit in self._units if unit != CALLS})

    def reads_ahead(self, answer: Answer) -> bool:
        """Whether the body is to be read before the response is handed on."""
        if self.refused is None or answer.status < 200 or answer.is_stream:
            return False
        length = answer.headers.get("content-length") or ""
        return not (length.isdecimal() and (len(length) > 9 or int(length) > MOST_AHEAD))

    def pause(self, answer: Answer, body: bytes | None) -> int | None:
        """Return the pause that ``refused`` asks for, in µs; None where the usual rules apply.

        ``body``: as it came; None where it is too long, or was not read.
        """
        if self.refused is None:
            return None
        try:
            seconds = self.refused(answer.view(_decoded(answer, body)))
        except Exception as error:
            self._failed("refused=", error, "the usual rules apply")
            return None
        if seconds is None:
            return None
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
            what = "refused= must return None or a number of seconds from 0, got %s; the usual rules apply"
            self._say("odd refusal", what, kind_of(seconds))
            return None
        most = self.limiter.max_hold
        if seconds > most:
            self._say(
                "long refusal", "refused= asks for a pause of %s s; held for max_hold, %g s", shown(seconds), most
            )
        return math.ceil(min(seconds, most) * SECOND)

    def measuring(self, admission: Admission, answer: Answer) -> Measuring | None:
        """Return what measures an answer as its body passes; None without a meter."""
        if isinstance(admission, JointAdmission) and self.parts:
            parts = [(part, own) for part, own in zip(self.parts, admission.parts, strict=True) if part]
        else:
            parts = [(self, admission)]
        return (
            Measuring([Measurement(part, part.meter, own, answer) for part, own in parts if part.meter])
            if self.meter
            else None
        )

    def _estimated(self, request: RequestView) -> dict[str, int]:
        try:
            return self._counted(self.meter.estimate(request)) or {} if self.meter else {}
        except Exception as error:
            self._failed("estimate", error, "the call costs 0 of each unit that it estimates")
            return {}

    @property
    def _units(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(unit for quota in self.limit._quotas() for unit in quota.units))

    def _counted(self, hits: Any) -> dict[str, int] | None:
        """Return a meter's hits in the units that the limit counts, each at most a whole window; None for None."""
        if hits is None:
            return None
        if not isinstance(hits, Mapping) or not all(map(_is_count, hits.values())):
            raise TypeError(f"a meter returns whole numbers from 0 by unit, got {shown(hits)}")
        quotas = self.limit._quotas()
        most = {unit: min(quota.most(unit) for quota in quotas if unit in quota.units) for unit in self._units}
        return {unit: min(hits[unit], most[unit]) for unit in self._units if unit in hits}

    def _failed(self, what: str, error: Exception, so: str) -> None:
        self._say(f"{what} failed", f"{what} failed with %s; {so}", type(error).__name__, error=error)

    def _say(self, kind: str, text: str, *values: object, error: Exception | None = None) -> None:
        text = f"limit %r: {text}; said once"
        self.limiter.once.warn(kind, text, self.limit.name, *values, error=error)


class Measuring:
    """One answer whose body passes: its measurements get each piece, and settle at the end what the call did cost."""

    def __init__(self, measurements: Sequence[Measurement]) -> None:
        self._measurements = measurements

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body, as it came."""
        for measurement in self._measurements:
            measurement.feed(data)

    def settle(self) -> None:
        """Settle the admission by what was measured, once; blocks for a swap of each limit that has a meter."""
        for measurement in self._measurements:
            measurement.settle()

    async def settle_async(self) -> None:
        """Settle, from a task; see ``settle``."""
        for measurement in self._measurements:
            await measurement.settle_async()


class Measurement:
    """The measurement of an answer by one meter, for the admission under its limits."""

    def __init__(self, inspection: Inspection, meter: Meter, admission: Admission, answer: Answer) -> None:
        self._inspection, self._meter, self._admission, self._answer = inspection, meter, admission, answer
        self._decoder: Decoder | None = None
        self._events: Events | None = None
        self._pieces: list[bytes] = []
        self._newest: Any = None
        self._is_over = False
        if answer.is_event_stream:
            if not hasattr(meter, "measure_event"):
                return
            self._events = Events(MOST_MEASURED)
            self._meter = self._for_stream()
        try:
            self._decoder = Decoder(answer.encoding, MOST_MEASURED)
        except Unreadable:
            self._give_up()

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body, as it came."""
        if self._decoder is None or self._is_over:
            return
        try:
            made = self._decoder.decode(data)
            if self._events is None:
                self._pieces.append(made)
            else:
                self._feed(self._events, made)
        except Unreadable:
            self._give_up()

    def settle(self) -> None:
        """Settle the admission by what was measured, once; blocks for a swap."""
        if units := self._measured():
            try:
                self._admission.settle(**units)
            except (CacheError, ConfigurationError) as error:
                self._unsettled(error)

    async def settle_async(self) -> None:
        """Settle, from a task; see ``settle``."""
        if units := self._measured():
            try:
                await self._admission.settle_async(**units)
            except (CacheError, ConfigurationError) as error:
                self._unsettled(error)

    def _measured(self) -> dict[str, int] | None:
        """Return what the call did cost, the first time this is called; None if it is not known."""
        if self._is_over:
            return None
        self._is_over = True
        try:
            return self._inspection._counted(self._asked())
        except Exception as error:
            self._inspection._failed("measure", error, "the call costs its estimate")
            return None

    def _asked(self) -> Any:
        """Return what the meter measured. It is asked about an error even if the body can't be read."""
        if self._events and self._decoder:
            self._feed(self._events, b"\n\n")  # some services leave out the end of the last event
        if self._decoder and not self._events:
            return self._meter.measure(self._answer.view(b"".join(self._pieces)))
        if self._newest is None and self._answer.status >= FIRST_ERROR:
            return self._meter.measure(self._answer.view())
        return self._newest

    def _feed(self, events: Events, made: bytes) -> None:
        for event in events.feed(made):
            try:
                hits = self._meter.measure_event(event)  # type: ignore[attr-defined]
            except Exception as error:
                self._inspection._failed("measure_event", error, "the event is ignored")
                continue
            if hits is not None:
                self._newest = hits

    def _for_stream(self) -> Meter:
        try:
            return self._meter.for_stream() if hasattr(self._meter, "for_stream") else self._meter
        except Exception as error:
            self._inspection._failed("for_stream", error, "the meter itself measures the stream")
            return self._meter

    def _give_up(self) -> None:
        self._decoder, self._pieces = None, []
        if self._answer.status >= FIRST_ERROR:
            return
        what = "its meter can't read an answer encoded as %r, or over 8 MB; the call costs its estimate"
        self._inspection._say("unreadable", what, self._answer.encoding)

    def _unsettled(self, error: Exception) -> None:
        if isinstance(error, CacheError):  # a ConfigurationError means that the user has settled it by hand
            self._inspection._say("unsettled", "a call is not settled, and costs its estimate: %s", error)


def _decoded(answer: Answer, body: bytes | None) -> bytes:
    try:
        return Decoder(answer.encoding, MOST_AHEAD).decode(body) if body else b""
    except Unreadable:
        return b""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
