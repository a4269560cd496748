"""OpenTelemetry: each event is counted under few attributes, with the names and units of the conventions."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from nekkar.core.errors import CacheError, WaitTooLong
from nekkar.core.limiter import Nekkar
from nekkar.opentelemetry import instrument
from nekkar.rules import Rule, RuleTable
from nekkar.testing import FakeClock
from tests.shared.test_fallback import FlakyCache
from tests.support.internals.telemetry import BUCKETS
from tests.support.pages import DOCS, fences
from tests.support.servers import Memcached

RULES = RuleTable([Rule("*/{user}", "user-{user}")], {"user-{user}": 10, "jobs": "2/10s"})


class Recorded:
    """A limiter's metrics, read from memory."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader])

    def metrics(self) -> dict[str, Any]:
        """Return each metric by name."""
        data = self.reader.get_metrics_data()
        found = (
            [metric for one in data.resource_metrics for scope in one.scope_metrics for metric in scope.metrics]
            if data
            else []
        )
        return {metric.name: metric for metric in found}

    def values(self, name: str) -> dict[tuple[Any, ...], Any]:
        """Return a counter's values by the values of their attributes."""
        metric = self.metrics().get(name)
        points = metric.data.data_points if metric else []
        return {tuple(value for _, value in sorted(point.attributes.items())): point.value for point in points}


@pytest.fixture
def recorded() -> Any:
    recorded = Recorded()
    yield recorded
    recorded.provider.shutdown()


def test_admissions_and_waits_are_recorded_by_limit(recorded: Recorded) -> None:
    """A histogram in seconds of all admitted calls, and a counter; the buckets go from 5 ms to an hour."""
    limiter = Nekkar(clock=FakeClock())
    instrument(limiter, RULES, recorded.provider)
    limit = limiter("jobs", "2/10s")
    for _ in range(3):
        limit.acquire()
    assert recorded.values("nekkar.admissions") == {("jobs",): 3}
    waits = recorded.metrics()["nekkar.wait.duration"]
    (point,) = waits.data.data_points
    assert (waits.unit, point.count, round(point.sum, 2)) == ("s", 3, 10.05)
    assert tuple(point.explicit_bounds) == BUCKETS
    assert dict(point.attributes) == {"nekkar.limit": "jobs"}


def test_refusals_holds_and_failures_are_counted(recorded: Recorded) -> None:
    """Each by its limit; failures and cache errors by the error's type."""
    cache = FlakyCache()
    limiter = Nekkar(cache, clock=FakeClock())
    instrument(limiter, RULES, recorded.provider)
    limit = limiter("jobs", "2/10s")
    limit.hold(30)
    with pytest.raises(WaitTooLong):
        limit.acquire(max_wait=1)
    cache.is_away = True
    for _ in range(2):
        with pytest.raises(CacheError):
            limit.acquire()
    kind = "nekkar.core.errors.CacheError"
    assert recorded.values("nekkar.refusals") == {("jobs",): 1}
    assert recorded.values("nekkar.holds") == {("jobs",): 1}
    assert recorded.values("nekkar.failures") == {(kind, "jobs"): 2}
    assert recorded.values("nekkar.cache.errors") == {(kind,): 1}
    units = {name: metric.unit for name, metric in recorded.metrics().items()}
    assert units == {
        "nekkar.refusals": "{call}", "nekkar.holds": "{hold}", "nekkar.failures": "{call}",
        "nekkar.cache.errors": "{error}",
    }  # fmt: skip


def test_limits_of_a_template_count_together(recorded: Recorded) -> None:
    """A thousand users are one value of the attribute."""
    limiter = Nekkar(clock=FakeClock())
    instrument(limiter, RULES, recorded.provider)
    for user in range(1000):
        limiter(f"user-{user}", 10).acquire()
    assert recorded.values("nekkar.admissions") == {("user-{user}",): 1000}


def test_without_rules_names_are_bounded(recorded: Recorded) -> None:
    """The first hundred count for themselves, also later; all others together."""
    limiter = Nekkar(clock=FakeClock())
    instrument(limiter, meter_provider=recorded.provider)
    for _ in range(2):
        for user in range(150):
            limiter(f"user-{user}", 10).acquire()
    values = recorded.values("nekkar.admissions")
    assert len(values) == 101
    assert (values["user-99",], values["_OTHER",]) == (2, 100)


def test_it_can_be_stopped(recorded: Recorded) -> None:
    """As any listener."""
    limiter = Nekkar(clock=FakeClock())
    listening = instrument(limiter, meter_provider=recorded.provider)
    limiter("jobs", 10).acquire()
    listening.stop()
    limiter("jobs", 10).acquire()
    assert recorded.values("nekkar.admissions") == {("jobs",): 1}


def test_the_recipe_for_prometheus_serves_the_metrics(
    server: Memcached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block in the docs, as it stands, but for the addresses."""
    monkeypatch.chdir(tmp_path)
    blocks = fences(DOCS / "how-to" / "telemetry.md", "python")
    (recipe,) = [block for block in blocks if "PrometheusMetricReader" in block.code]
    Path("limits.toml").write_text(recipe.files["limits.toml"])
    program = recipe.code.replace("memcached://localhost:11211", server.url).replace("9464", "0")
    names: dict[str, Any] = {}
    exec(compile(program, str(recipe), "exec"), names)
    try:
        with urlopen(f"http://127.0.0.1:{names['server'].server_port}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
    finally:
        names["server"].shutdown()
        names["server"].server_close()
    for name in ("nekkar_wait_duration_seconds_bucket", "nekkar_admissions_total"):
        found = [line for line in lines if line.startswith(name) and 'nekkar_limit="user-{user}"' in line]
        assert found, name
        assert found[-1].endswith(" 1.0")  # of the histogram, the bucket of all
