"""How an HTTP client is limited: from a request to the limit that it waits for, whatever library sends it.

It names no class of any HTTP library: each face (``nekkar.requests``, ``nekkar.httpx``, ``nekkar.httpx2``)
brings the method, the URL, the headers and the options of a call, and turns the errors into those of its library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import iscoroutinefunction
from typing import Any

from nekkar.core.cost import CALLS, merged
from nekkar.core.errors import ConfigurationError, kind_of, shown
from nekkar.core.joint import JointLimit
from nekkar.core.limiter import Limit, Nekkar, terms
from nekkar.core.quota import Quota, read_headroom, to_us, whole
from nekkar.http.bodies import RequestView
from nekkar.http.feedback import Route
from nekkar.http.inspection import Inspection, Refused
from nekkar.http.routes import Routes
from nekkar.meters import Meter, meter_of
from nekkar.rules import Match, RuleTable
from nekkar.rules.settings import TERMS

_OPTIONS = ("cost", "max_wait", "headroom")


@dataclass(frozen=True, slots=True)
class CallOptions:
    """The options of one call: its ``cost``, ``max_wait`` and ``headroom``. None: not given.

    ``cost``: a number of calls, or hits by unit. ``max_wait``: the seconds that it waits at most. ``headroom``: the
    part of each window that it leaves free. Raises ConfigurationError for invalid values.
    """

    cost: int | Mapping[str, int] | None = None
    max_wait: float | None = None
    headroom: float | None = None

    def __post_init__(self) -> None:
        if self.cost is not None and not isinstance(self.cost, Mapping):
            whole(self.cost, "cost")  # the units of a mapping are checked where the limit is known
        if self.max_wait is not None:
            to_us(self.max_wait, "max_wait")
        if self.headroom is not None:
            read_headroom(self.headroom, "headroom")

    @classmethod
    def read(cls, given: object) -> CallOptions:
        """Return the options that a mapping such as ``{"cost": 3, "max_wait": 5}`` gives; None gives none."""
        if given is None:
            return NO_OPTIONS
        if not isinstance(given, Mapping) or not set(given) <= set(_OPTIONS):
            known = ", ".join(_OPTIONS)
            raise ConfigurationError(f"options {shown(given)} are not known; give a dict with any of {known}")
        return cls(**given)


NO_OPTIONS = CallOptions()


@dataclass(frozen=True, slots=True)
class HttpLimiter:
    """A limiter and the rules that say which of its limits a request falls under; picklable if the cache is.

    ``max_wait``: the longest wait in seconds; a call's own comes before it, the limit's after it. ``refused``: a
    function of each answer that tells a refusal by its seconds, see ``inspection``.
    """

    limiter: Nekkar
    rules: RuleTable
    max_wait: float | None = None
    refused: Refused | None = None
    _terms: dict[str, tuple[Quota, float | None]] = field(init=False, repr=False, compare=False)
    _meters: dict[str, Meter] = field(init=False, repr=False, compare=False)
    _headrooms: dict[str, int] = field(init=False, repr=False, compare=False)
    _made: dict[int, Route | Routes] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.limiter, Nekkar):
            raise ConfigurationError(f"limiter must be a Nekkar, such as Nekkar(), got {kind_of(self.limiter)}")
        if not isinstance(self.rules, RuleTable):
            raise ConfigurationError(
                f"rules must be a RuleTable, such as RuleTable([Rule(url, limit)], limits), got {kind_of(self.rules)}"
            )
        if self.max_wait is not None:
            to_us(self.max_wait, "max_wait")
        if self.refused is not None and (not callable(self.refused) or iscoroutinefunction(self.refused)):
            raise ConfigurationError(
                "refused must be a plain function of a response that returns None or the seconds to pause, got"
                f" {kind_of(self.refused)}"
            )
        settings = {name: given["meter"] for name, given in self.rules.limits.items() if given.get("meter")}
        built_in = {setting: meter_of(setting) for setting in settings.values() if isinstance(setting, str)}
        meters = {name: built_in[one] if isinstance(one, str) else one for name, one in settings.items()}
        given = self.rules.limits.items()
        headrooms = {name: read_headroom(one.get("headroom") or 0, f"limit {name!r}: headroom") for name, one in given}
        object.__setattr__(self, "_headrooms", headrooms)
        object.__setattr__(self, "_meters", meters)
        object.__setattr__(self, "_terms", {name: _terms(name, given) for name, given in self.rules.limits.items()})
        for name in self.rules.limits:  # told now, where the terms are written, and not by a request
            if not self.rules.is_template(name):
                self.limiter._check_terms(name, self._terms[name][0])

    def __reduce__(self) -> tuple[Any, ...]:
        return HttpLimiter, (self.limiter, self.rules, self.max_wait, self.refused)

    def route(
        self, method: str, url: object, headers: Mapping[str, str] | None = None, body: object = None
    ) -> Route | Routes | None:
        """Return the limit of a request, with the way back for its answer; None where it is unlimited.

        ``body``: the request's, if it is there already; only where ``rules.needs_body``.
        Raises ConfigurationError where no rule matches and the table refuses such requests.
        """
        match = self.rules.route(method, url, headers, body)
        if match is None:
            return None
        made = self._made.get(id(match))
        if made is None:
            made = self._route(match)
            if not any(self.rules.is_template(one.limit) for one in match.parts):
                self._made[id(match)] = made  # the table keeps such a match, one for each rule
        return made

    def _route(self, match: Match) -> Route | Routes:
        if not match.also:
            alone, meter = self._limit(match), self._meters.get(match.limit)
            inspection = Inspection(self.limiter, alone, meter, self.refused) if meter or self.refused else None
            return self._part(match, alone, inspection, is_alone=True)
        parts = [self._part(one, self._limit(one)) for one in match.parts]
        limit = JointLimit([part.limit for part in parts])
        inspection = self._inspection(limit, [self._meters.get(one.limit) for one in match.parts])
        names = tuple(one.limit for one in match.parts)
        return Routes(tuple(parts), limit, names, inspection, match.cost, match.headroom)

    def _inspection(self, limit: JointLimit, meters: list[Meter | None]) -> Inspection | None:
        meter, parts = next(filter(None, meters), None), tuple[Inspection | None, ...]()
        if any(other not in (None, meter) for other in meters):
            parts = tuple(
                Inspection(self.limiter, one, own or meter) if own or one._core.quota.units != (CALLS,) else None
                for one, own in zip(limit.limits, meters, strict=True)
            )
        return Inspection(self.limiter, limit, meter, self.refused, parts) if meter or self.refused else None

    def _limit(self, match: Match) -> Limit:
        quota, longest = self._terms[match.limit]
        return self.limiter._limit_of(match.name, quota, longest, self._headrooms[match.limit], by_hand=False)

    def _part(self, match: Match, limit: Limit, inspection: Inspection | None = None, is_alone: bool = False) -> Route:
        dialect = self.rules.dialect(match.headers) if isinstance(match.headers, str) else None
        cost, headroom = (match.cost, match.headroom) if is_alone else (None, None)
        return Route(self.limiter, limit, bool(match.headers), dialect, match.refused, inspection, cost, headroom)

    def acquire_args(
        self, options: CallOptions, route: Route | Routes, request: Any, content: Callable[[Any], bytes]
    ) -> dict[str, Any]:
        """Return the arguments for the limit's ``acquire``: the call's own cost and max_wait come first.

        ``content``: returns the request's body, ``b""`` where it is a stream; a meter alone needs it.
        """
        cost: int | Mapping[str, int] = 1 if options.cost is None else options.cost
        if route.inspection and route.inspection.meter:
            view = RequestView(request.method, str(request.url), request.headers, content(request))
            cost = route.inspection.cost(merged(options.cost, route.cost), view)
        elif route.cost is not None:
            cost = merged(options.cost, route.cost)
        longest = self.max_wait if options.max_wait is None else options.max_wait
        headroom = route.headroom if options.headroom is None else options.headroom
        return {"cost": cost, "max_wait": longest, "headroom": headroom}


def _terms(name: str, given: Mapping[str, Any]) -> tuple[Quota, float | None]:
    """Read a limit of the table once, not at each request."""
    return terms(name, given["rate"], **{key: given[key] for key in TERMS if key in given})
