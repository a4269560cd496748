"""The attempts of one request of the library requests, as reported by the adapter and by urllib3's pools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nekkar.http.header_values import Headers
from nekkar.http.permit import Permit
from nekkar.http.urllib3_taps import body_of


@dataclass(slots=True, eq=False)
class AdmittedAttempts:
    """Each attempt is admitted once, and its answer read once. Without a permit all are unlimited."""

    permit: Permit | None
    is_ahead: bool = False
    is_reported: bool = False

    def ask(self) -> None:
        """Admit an attempt that starts now, unless it was admitted ahead."""
        if self.is_ahead:
            self.is_ahead = False
        elif self.permit:
            self.permit.is_used = True
            self.permit.acquire()
            self.is_reported = False

    def confirm(self) -> float:
        """Admit the attempt again if its slot went stale; return the seconds waited."""
        return self.permit.acquire() if self.permit else 0.0

    def admit_ahead(self) -> None:
        """Admit the first attempt before it is sent."""
        self.ask()
        self.is_ahead = True

    def report(self, status: int, headers: Headers, raw: Any) -> None:
        """Read the answer to an attempt: in its pool, or else from the adapter that sent it.

        ``raw``: the response of urllib3, or the bytes of a body that was read already.
        """
        if self.permit and not self.is_reported:
            self.is_reported = True
            self.permit.report(status, headers, body_of(raw) if self.permit.route.inspection else None)
