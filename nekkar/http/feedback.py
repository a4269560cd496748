"""From the response to a call to the feedback for the call's limit. One place for all HTTP clients.

- 429 is a refusal: the fleet pauses for as long as ``Retry-After`` says, or by the rules of ``window/rejections.py``
  without one. 503 pauses the fleet only with a ``Retry-After``. Any other answer costs one comparison.
- After refusals that did not say how long to wait, the first success is shared with the fleet, see ``rejections``. A
  success is a status below 400, or 404; some services refuse with 400, 403, 418 or 420.
- ``retry-after-ms``, of OpenAI and Azure, comes before ``Retry-After``.
- A status in the limit's ``refused`` is a refusal if the answer says how long: by such a header, or because nothing
  remains until a reset. Below 500 it counts as a 429; from 500 on it pauses as a 503 does.
- For a limit with ``headers``, the answer's quotas are read too, see ``ratelimit_headers`` and ``dialects``. A refusal
  without a wait then pauses until the reset that it reports, of whatever bucket.
- A reported limit that has a period and is lower than a window is kept for a period.
- Invalid values and other buckets are ignored; pauses over ``max_hold`` are capped. Each kind is logged once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nekkar.core.errors import shown
from nekkar.core.limiter import Admission, Limit, Nekkar
from nekkar.core.quota import SECOND
from nekkar.core.window.feedback import Feedback, lower_rate, window_of
from nekkar.http.buckets import QuotaReport, longest_reset, quota_report
from nekkar.http.dialects import told_by
from nekkar.http.header_values import Headers
from nekkar.http.inspection import Inspection
from nekkar.http.ratelimit_headers import MILLISECOND
from nekkar.http.retry_after import wait_us
from nekkar.rules.dialects import Dialect

REFUSED, AWAY, ABSENT, FIRST_ERROR, FIRST_OF_SERVER = 429, 503, 404, 400, 500
NOTHING = QuotaReport()


@dataclass(frozen=True, slots=True)
class Route:
    """The limit of a request, and the way of its answer back to that limit.

    ``reads_budgets``: whether every answer is read for what remains of the limit, not refusals alone; in which
    ``dialect``, None for the RateLimit headers. ``refused``: the statuses that are refusals beside 429 and 503.
    ``inspection``: what is read of bodies, None for nothing. ``cost``, ``headroom``: what the rule says of a call's.
    """

    limiter: Nekkar
    limit: Limit
    reads_budgets: bool = False
    dialect: Dialect | None = None
    refused: tuple[int, ...] = ()
    inspection: Inspection | None = None
    cost: int | Mapping[str, int] | None = None
    headroom: float | None = None

    def report(self, admission: Admission, status: int, headers: Headers, pause_us: int | None = None) -> None:
        """Report an answer to the limit, for the whole fleet; blocks for a swap if that changes anything.

        ``pause_us``: the answer is a refusal that pauses for this time, whatever its status and headers say.
        """
        if feedback := self.feedback(admission, status, headers, pause_us):
            self.limit._apply_feedback(feedback)

    async def report_async(
        self, admission: Admission, status: int, headers: Headers, pause_us: int | None = None
    ) -> None:
        """Report, from a task."""
        if feedback := self.feedback(admission, status, headers, pause_us):
            await self.limit._apply_feedback_async(feedback)

    def feedback(
        self,
        admission: Admission,
        status: int,
        headers: Headers,
        pause_us: int | None,
        told: QuotaReport | None = None,
        may_refuse: bool = True,
    ) -> Feedback | None:
        """Return the feedback of an answer for the limit; None if it has none.

        ``told``: the limit's share of the reported quotas, where the request is under several limits. ``may_refuse``:
        a refusal concerns this limit.
        """
        is_refusal, is_named = status == REFUSED or pause_us is not None, status in self.refused
        is_no = may_refuse and (is_refusal or is_named or status == AWAY)
        is_success = not is_refusal and self.limit._core.is_in_a_row() and (status < FIRST_ERROR or status == ABSENT)
        if not (is_no or is_success or self.reads_budgets):
            return None
        most = round(self.limiter.max_hold * SECOND)
        pause = self._pause(headers, most) if is_no and pause_us is None else pause_us
        is_refusal, is_named = is_refusal and may_refuse, is_named and may_refuse
        told = self._told(headers, most, told) if self.reads_budgets or is_named else NOTHING
        if pause is None and (is_refusal or is_named):
            pause = told.pause_us(self.limit._core.quota)
        is_refusal = is_refusal or (is_named and pause is not None and status < FIRST_OF_SERVER)
        budgets = told.budgets if self.reads_budgets else ()
        if pause is None and not (is_refusal or is_success or budgets):
            return None
        return Feedback(round(admission.at * SECOND), most, is_refusal, pause, budgets, is_success)

    def _told(self, headers: Headers, most: int, share: QuotaReport | None) -> QuotaReport:
        """Return what the service says remains of the limit's windows, and of other buckets."""
        quota = self.limit._core.quota
        told = share
        if told is None:
            told = quota_report(told_by(headers, self.dialect, quota.units, self.limiter.now_us()), quota)
        if not self.reads_budgets:
            return told
        for fault in told.faults:
            self._say("odd budget", "its service tells %s, which is ignored", shown(fault))
        if told.others:
            what = "its service tells '%s', a bucket other than %s, which is ignored; if it is this limit's, write the"
            remedy = "service's own limit in the rate, and headroom to stay under it"
            self._say("other bucket", f"{what} {remedy}", told.others[0], quota)
        if lower := next((one for one in told.budgets if lower_rate(one, quota, most)), None):
            what = "its service tells '%s', lower than %s, which is kept for a period; write the service's own limit in"
            self._say("lower limit", f"{what} the rate", lower, window_of(lower, quota))
        until = longest_reset(told.budgets, quota) or 0
        if until > most:
            what = "nothing remains for %g s, says its service; held for max_hold, %g s, at most"
            self._say("long reset", what, until / SECOND, most / SECOND)
        return told

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
            self._say("no wait", "Retry-After %s is not a time; it is ignored", shown(millis if text is None else text))
        elif pause > most:
            self._say("long wait", "Retry-After asks for %g s; held for max_hold, %g s", pause / SECOND, most / SECOND)
        return pause

    def _say(self, kind: str, text: str, *values: object) -> None:
        self.limiter.once.warn(kind, f"limit %r: {text}; said once", self.limit.name, *values)
