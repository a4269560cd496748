"""Several limits of one request, as one, and the way of its answer back to them.

What a service tells belongs to the limit that its header names: by its count, its resource or its unit, else to the
first of the rule (``buckets``). So does a refusal: the limit of which nothing remains pauses, else the first. The other
limits hear what else is told of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from nekkar.core.admission import JointAdmission
from nekkar.core.joint import JointLimit
from nekkar.core.limiter import Admission, Limit
from nekkar.core.window.feedback import Feedback
from nekkar.http.buckets import Heard, refusing, shared_out
from nekkar.http.dialects import told_by
from nekkar.http.feedback import Passage
from nekkar.http.header_values import Headers
from nekkar.http.inspection import Inspection


@dataclass(frozen=True, slots=True)
class Passages:
    """The limits of a request that falls under several, with a ``Passage`` for each.

    ``names``: of the limits, as the rules spell them. ``inspection``, ``cost``, ``headroom``: as of a ``Passage``.
    """

    parts: tuple[Passage, ...]
    limit: JointLimit
    names: tuple[str, ...]
    inspection: Inspection | None = None
    cost: int | Mapping[str, int] | None = None
    headroom: float | None = None

    def hear(self, admission: Admission, status: int, headers: Headers, pause_us: int | None = None) -> None:
        """Let the fleet know what an answer says of the limits; blocks for a swap of each for which that is news."""
        for limit, word in self._words(admission, status, headers, pause_us):
            limit._hear(word)

    async def hear_async(
        self, admission: Admission, status: int, headers: Headers, pause_us: int | None = None
    ) -> None:
        """Hear, from a task."""
        for limit, word in self._words(admission, status, headers, pause_us):
            await limit._hear_async(word)

    def _words(
        self, admission: Admission, status: int, headers: Headers, pause_us: int | None
    ) -> Iterator[tuple[Limit, Feedback]]:
        assert isinstance(admission, JointAdmission)
        number, shares = self._shares(status, headers)
        for index, (passage, part) in enumerate(zip(self.parts, admission.parts, strict=True)):
            is_its_own = index == number
            heard = passage.word(
                part, status, headers, pause_us if is_its_own else None, told=shares[index], may_refuse=is_its_own
            )
            if heard:
                yield passage.limit, heard

    def _shares(self, status: int, headers: Headers) -> tuple[int, tuple[Heard, ...]]:
        """Return the number of the limit that a refusal is of, and what each limit is told."""
        readers = [part for part in self.parts if part.reads_budgets or status in part.refused]
        if not readers:
            return 0, (Heard(),) * len(self.parts)
        quotas = [part.limit._core.quota for part in self.parts]
        units = list(dict.fromkeys(unit for quota in quotas for unit in quota.units))
        first = next((part for part in readers if part.dialect), readers[0])
        reading = told_by(headers, first.dialect, units, first.limiter.now_us())
        limits = list(zip(self.names, quotas, strict=True))
        return refusing(reading, limits), shared_out(reading, limits)
