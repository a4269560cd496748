"""Several limits of one request, as one, and the way of its answer back to them.

A reported quota goes to the limit that its header names: by count, resource or unit, else to the first of the rule
(``buckets``). A refusal pauses the limit whose bucket is empty, else the first whose ``refused`` names the status, else
the first. The other limits get the other quotas. Each limit reads its own dialect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from nekkar.core.admission import JointAdmission
from nekkar.core.joint import JointLimit
from nekkar.core.limiter import Admission, Limit
from nekkar.core.window.feedback import Feedback
from nekkar.http.buckets import QuotaReport, refusing, shared_out
from nekkar.http.dialects import told_by
from nekkar.http.feedback import NOTHING, Route
from nekkar.http.header_values import Headers
from nekkar.http.inspection import Inspection


@dataclass(frozen=True, slots=True)
class Routes:
    """The limits of a request that falls under several, with a ``Route`` for each.

    ``names``: of the limits, as the rules spell them. ``inspection``, ``cost``, ``headroom``: as of a ``Route``.
    """

    parts: tuple[Route, ...]
    limit: JointLimit
    names: tuple[str, ...]
    inspection: Inspection | None = None
    cost: int | Mapping[str, int] | None = None
    headroom: float | None = None

    def report(self, admission: Admission, status: int, headers: Headers, pause_us: int | None = None) -> None:
        """Report an answer to the limits, for the whole fleet; blocks for a swap of each limit that it changes."""
        for limit, feedback in self._feedback(admission, status, headers, pause_us):
            limit._apply_feedback(feedback)

    async def report_async(
        self, admission: Admission, status: int, headers: Headers, pause_us: int | None = None
    ) -> None:
        """Report, from a task."""
        for limit, feedback in self._feedback(admission, status, headers, pause_us):
            await limit._apply_feedback_async(feedback)

    def _feedback(
        self, admission: Admission, status: int, headers: Headers, pause_us: int | None
    ) -> Iterator[tuple[Limit, Feedback]]:
        assert isinstance(admission, JointAdmission)
        named = [number for number, part in enumerate(self.parts) if status in part.refused]
        number, shares = self._shares(headers, named)
        for index, (route, part) in enumerate(zip(self.parts, admission.parts, strict=True)):
            is_its_own = index == number
            if is_its_own and named and index not in named:  # its bucket is the empty one, and others name the status
                route = replace(route, refused=(status,))
            feedback = route.feedback(
                part, status, headers, pause_us if is_its_own else None, told=shares[index], may_refuse=is_its_own
            )
            if feedback:
                yield route.limit, feedback

    def _shares(self, headers: Headers, named: Sequence[int]) -> tuple[int, Sequence[QuotaReport]]:
        """Return the number of the limit that a refusal belongs to, and the quotas of each limit, read in its dialect.

        ``named``: the numbers of the limits whose ``refused`` names the status.
        """
        readers = [number for number, part in enumerate(self.parts) if part.reads_budgets or number in named]
        if not readers:
            return 0, (NOTHING,) * len(self.parts)
        quotas = [part.limit._core.quota for part in self.parts]
        units = list(dict.fromkeys(unit for quota in quotas for unit in quota.units))
        limits = list(zip(self.names, quotas, strict=True))
        dialects = [self.parts[number if number in readers else readers[0]].dialect for number in range(len(limits))]
        now_us = self.parts[0].limiter.now_us()
        readings = {dialect: told_by(headers, dialect, units, now_us) for dialect in dict.fromkeys(dialects)}
        shares = [shared_out(readings[dialect], limits)[number] for number, dialect in enumerate(dialects)]
        return refusing(readings.values(), limits, named or range(len(limits))), shares
