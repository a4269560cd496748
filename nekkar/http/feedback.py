"""Hearing: from what a service answers to a call, to what the call's limit is told. One place for all HTTP clients.

- 429 is a refusal: the fleet pauses for as long as ``Retry-After`` says, or as the log has it where that says
  nothing. 503 pauses it only where it has a ``Retry-After``. Any other answer costs a comparison.
- After refusals that did not say how long to wait, the first success is told to the fleet, see ``rejections``. A status
  below 400 is one, and 404; some services refuse with 400, 403, 418 or 420.
- ``retry-after-ms``, of OpenAI and Azure, comes before ``Retry-After``.
- A limit with ``headers`` on also hears how much remains of its windows, see ``ratelimit_headers``; a refusal that says
  nothing of a wait then pauses until the reset that it tells, of whatever bucket.
- Nonsense and other buckets are ignored, and what is over ``max_hold`` capped; each kind is logged once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from nekkar.core.errors import shown
from nekkar.core.limiter import Admission, Limit, Nekkar
from nekkar.core.quota import SECOND
from nekkar.core.window.feedback import Feedback, ReportedQuota, window_of
from nekkar.http.ratelimit_headers import read
from nekkar.http.retry_after import wait_us

REFUSED, AWAY, ABSENT, FIRST_ERROR = 429, 503, 404, 400
MILLISECOND = SECOND // 1000


class Headers(Protocol):
    """The headers of an answer, whatever the library's class; names ignore case."""

    def get(self, name: str, /) -> str | None: ...
    def items(self) -> Iterable[tuple[str, str]]: ...


@dataclass(frozen=True, slots=True)
class Passage:
    """The limit of a request, and the way of its answer back to that limit.

    ``reads_budgets``: whether every answer is read for what remains of the limit, not refusals alone.
    """

    limiter: Nekkar
    limit: Limit
    reads_budgets: bool = False

    def hear(self, admission: Admission, status: int, headers: Headers) -> None:
        """Let the fleet know what an answer says of the limit; blocks for a swap where that is news."""
        if word := self._word(admission, status, headers):
            self.limit._hear(word)

    async def hear_async(self, admission: Admission, status: int, headers: Headers) -> None:
        """Hear, from a task."""
        if word := self._word(admission, status, headers):
            await self.limit._hear_async(word)

    def _word(self, admission: Admission, status: int, headers: Headers) -> Feedback | None:
        is_no = status in (REFUSED, AWAY)
        is_success = self.limit._core.is_in_a_row() and (status < FIRST_ERROR or status == ABSENT)
        if not (is_no or is_success or self.reads_budgets):
            return None
        most = round(self.limiter.max_hold * SECOND)
        pause = self._pause(headers, most) if is_no else None
        budgets, others = self._budgets(headers, most) if self.reads_budgets else ((), ())
        if pause is None and status == REFUSED:
            pause = _longest_reset(budgets) or _longest_reset(others)
        if pause is None and not (status == REFUSED or is_success or budgets):
            return None
        return Feedback(round(admission.at * SECOND), most, status == REFUSED, pause, budgets, is_success)

    def _budgets(self, headers: Headers, most: int) -> tuple[tuple[ReportedQuota, ...], tuple[ReportedQuota, ...]]:
        """Return what the service says remains of the limit's windows, and of other buckets."""
        told: dict[str, str] = {}
        for name, value in headers.items():
            lower = name.lower()
            if "ratelimit" in lower or "rate-limit" in lower:
                told[lower] = f"{told[lower]}, {value}" if lower in told else value
        if not told:
            return (), ()
        reading, quota = read(told, self.limiter.now_us(), headers.get("date")), self.limit._core.quota
        for fault in reading.faults:
            self._say("odd budget", "its service tells %s, which is ignored", shown(fault))
        budgets = tuple(one for one in reading.budgets if window_of(one, quota))
        others = (*reading.others, *(one for one in reading.budgets if one not in budgets))
        if others:
            what = "its service tells '%s', a bucket other than %s, which is ignored; if it is this limit's, write the"
            self._say("other bucket", f"{what} service's own limit in the rate", others[0], quota)
        until = _longest_reset(budgets) or 0
        if until > most:
            what = "nothing remains for %g s, says its service; held for max_hold, %g s, at most"
            self._say("long reset", what, until / SECOND, most / SECOND)
        return budgets, others

    def _pause(self, headers: Headers, most: int) -> int | None:
        """Return the µs that the service asks its callers to stay away, None where it does not say."""
        millis, text = headers.get("retry-after-ms"), headers.get("retry-after")
        if millis is None and text is None:
            return None
        now, date, pause = self.limiter.now_us(), headers.get("date"), None
        if millis is not None:
            pause = wait_us(millis, now, date, MILLISECOND)
        if pause is None and text is not None:
            pause = wait_us(text, now, date)
        if pause is None:
            self._say("no wait", "Retry-After %s is no wait, and is ignored", shown(millis if text is None else text))
        elif pause > most:
            self._say("long wait", "Retry-After asks for %g s; held for max_hold, %g s", pause / SECOND, most / SECOND)
        return pause

    def _say(self, kind: str, text: str, *values: object) -> None:
        self.limiter.once.warn(kind, f"limit %r: {text}; said once", self.limit.name, *values)


def _longest_reset(budgets: Iterable[ReportedQuota]) -> int | None:
    """Return how long until the last of the windows of which nothing remains is free again, in µs."""
    return max((one.reset_us for one in budgets if not one.remaining and one.reset_us), default=None)
