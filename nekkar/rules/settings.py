"""The settings of a limit in a table: each is checked on its own."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from nekkar.core.errors import ConfigurationError, kind_of, shown
from nekkar.core.quota import Quota, quota, to_us
from nekkar.meters import BUILT_IN
from nekkar.rules.costs import read_headroom
from nekkar.rules.dialects import Dialect, check_headers
from nekkar.rules.nearest import unknown

TERMS = ("period", "spacing", "max_wait", "margin")  # the arguments of Nekkar.__call__ that a table may set
SETTINGS = ("rate", *TERMS, "headers", "refused", "meter", "headroom")
NOT_YET = ("concurrency", "lease")
METERS = tuple(BUILT_IN)
LEAST_REFUSED, MOST_REFUSED = 400, 599
_METER = f"give {' or '.join(map(repr, METERS))}"
_KNOWN = (*SETTINGS, *NOT_YET)


def check_settings(settings: Mapping[str, Any], dialects: Mapping[str, Dialect]) -> Iterator[str]:
    """Yield each fault of a limit's settings."""
    for setting in settings:
        if setting not in _KNOWN:
            remedy = f"give {', '.join(SETTINGS)} (and quote a limit's name that has a dot in it)"
            yield unknown("setting", setting, _KNOWN, remedy)
    for setting in NOT_YET:
        if setting in settings:
            yield f"{setting} {shown(settings[setting])} is not supported yet; leave it out"
    if "rate" not in settings and "concurrency" not in settings:
        yield f"{shown(settings)} has no rate; give one such as {{'rate': '250/minute'}}"
    for read in _readers(settings, dialects):
        try:
            read()
        except ConfigurationError as error:
            yield str(error)


def rate_of(settings: Mapping[str, Any]) -> Quota | None:
    """Return the windows of a limit; None where they can't be read."""
    try:
        return quota(settings["rate"], settings.get("period"))
    except (ConfigurationError, KeyError):
        return None


def read_refused(statuses: Any) -> tuple[int, ...]:
    """Return the statuses that a limit treats as refusals, sorted; raise ConfigurationError for invalid ones."""
    bounds = f"give a list of statuses from {LEAST_REFUSED} to {MOST_REFUSED}, such as [403, 429]"
    if not isinstance(statuses, list | tuple | set | frozenset):
        raise ConfigurationError(f"refused {shown(statuses)} is not a list; {bounds}")
    for status in statuses:
        try:
            number = operator.index(status)
        except TypeError:
            number = 0
        if isinstance(status, bool) or not LEAST_REFUSED <= number <= MOST_REFUSED:
            raise ConfigurationError(f"{shown(status)} in refused is not the status of a refusal; {bounds}")
    return tuple(sorted(map(operator.index, set(statuses))))


def check_meter(meter: Any) -> None:
    """Raise ConfigurationError unless ``meter`` is the name of a meter, or a meter."""
    if isinstance(meter, str):
        if meter not in METERS:
            raise ConfigurationError(f"meter: {unknown('meter', meter, METERS, _METER)}")
        return
    if isinstance(meter, type) or not all(callable(getattr(meter, name, None)) for name in ("estimate", "measure")):
        raise ConfigurationError(
            f"meter {kind_of(meter)} has no estimate and measure; {_METER}, or an object with both"
        )


def _readers(settings: Mapping[str, Any], dialects: Mapping[str, Dialect]) -> Iterator[Callable[[], object]]:
    """Yield a reader of each setting, which raises if the setting is invalid."""
    yield lambda: quota(settings.get("rate", 1), settings.get("period"))
    rate = settings["rate"] if rate_of(settings) else 1  # 'even' goes by the windows of calls
    yield lambda: quota(rate, settings.get("period") if rate != 1 else None, settings.get("spacing", 0.0))
    yield lambda: quota(1, None, 0.0, settings.get("margin"))
    if settings.get("max_wait") is not None:
        yield lambda: to_us(settings["max_wait"], "max_wait")
    yield lambda: check_headers(settings.get("headers", False), dialects)
    yield lambda: read_refused(settings.get("refused", ()))
    if settings.get("meter") is not None:
        yield lambda: check_meter(settings["meter"])
    if settings.get("headroom") is not None:
        yield lambda: read_headroom(settings["headroom"])
