"""OpenTelemetry metrics of a limiter: ``instrument(limiter)``.

=========================  =========  ===========  ==================================================
metric                     kind       unit         what
=========================  =========  ===========  ==================================================
nekkar.wait.duration       histogram  s            how long admitted calls waited, those too that need not
nekkar.admissions          counter    {call}       calls admitted
nekkar.refusals            counter    {call}       calls refused, since their slot lay past their max_wait
nekkar.failures            counter    {call}       calls that ended otherwise, by ``error.type``
nekkar.holds               counter    {hold}       holds that this process learned of
nekkar.cache.errors        counter    {error}      times that the cache was lost
=========================  =========  ===========  ==================================================

The attribute ``nekkar.limit`` is the limit's name, for a limit of a template such as ``user-{user}`` the template.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from nekkar.core.cost import CALLS
from nekkar.core.errors import missing
from nekkar.core.events import Admitted, CacheLost, Event, Held, Left, Listening, Refused
from nekkar.core.limiter import Nekkar
from nekkar.rules import RuleTable

try:
    from opentelemetry.metrics import MeterProvider, get_meter
except ModuleNotFoundError as error:
    raise missing("nekkar.opentelemetry", "opentelemetry", error) from error

__all__ = ["instrument"]

LIMIT = "nekkar.limit"
UNIT = "nekkar.unit"
ERROR_TYPE = "error.type"
OTHER = "_OTHER"
MOST_NAMES = 100

# From a call that need not wait to an hour's wait.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


def instrument(
    limiter: Nekkar, rules: RuleTable | None = None, meter_provider: MeterProvider | None = None
) -> Listening:
    """Record metrics of ``limiter``'s limits from now on, until ``stop()`` on what is returned.

    ``rules``: so that the limits of a template count together. Without them, or for names that they don't have, the
    first 100 names count for themselves and all others as ``_OTHER``. ``meter_provider``: the global one unless given.
    """
    return limiter.listen(_Metrics(_labels(rules), meter_provider))


class _Metrics:
    """A listener that records each event."""

    def __init__(self, label: Callable[[str], str], provider: MeterProvider | None) -> None:
        meter = get_meter("nekkar", meter_provider=provider)
        self._label = label
        about = "How long admitted calls waited for their slot."
        self._waits = meter.create_histogram(
            "nekkar.wait.duration", "s", about, explicit_bucket_boundaries_advisory=BUCKETS
        )
        self._admissions = meter.create_counter("nekkar.admissions", "{call}", "Calls admitted.")
        self._hits = meter.create_counter("nekkar.reserved", "{hit}", "Hits reserved in units other than calls.")
        self._refusals = meter.create_counter("nekkar.refusals", "{call}", "Calls refused for their max_wait.")
        self._failures = meter.create_counter("nekkar.failures", "{call}", "Calls that ended without a slot.")
        self._holds = meter.create_counter("nekkar.holds", "{hold}", "Holds that this process learned of.")
        self._cache_errors = meter.create_counter("nekkar.cache.errors", "{error}", "Times that the cache was lost.")

    def __call__(self, event: Event) -> None:
        if isinstance(event, Admitted):
            attributes = {LIMIT: self._label(event.name)}
            self._admissions.add(1, attributes)
            self._waits.record(event.waited, attributes)
            for unit, hits in event.costs.items():
                if unit != CALLS:
                    self._hits.add(hits, attributes | {UNIT: unit})
        elif isinstance(event, Refused):
            self._refusals.add(1, {LIMIT: self._label(event.name)})
        elif isinstance(event, Left):
            self._failures.add(1, {LIMIT: self._label(event.name), ERROR_TYPE: _type(event.error)})
        elif isinstance(event, Held):
            self._holds.add(1, {LIMIT: self._label(event.name)})
        elif isinstance(event, CacheLost):
            self._cache_errors.add(1, {ERROR_TYPE: _type(event.error)})


def _labels(rules: RuleTable | None) -> Callable[[str], str]:
    """Return what names a limit in metrics: few values, whatever the names."""
    own: set[str] = set()

    @lru_cache(4096)
    def label(name: str) -> str:
        limit = rules.limit_named(name) if rules else None
        if limit is None and (name in own or len(own) < MOST_NAMES):
            own.add(name)
        return limit or (name if name in own else OTHER)

    return label


def _type(error: BaseException) -> str:
    """Return an error's type as the semantic conventions have it: its qualified name."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
