"""Limits by name: their rate comes from a rule file, from ``--rate``, or from the limit's log in the cache.

A log holds the windows, spacing and margin in use, so a limit can be shown and held by its name alone as long as the
cache has its log.
"""

from __future__ import annotations

from collections.abc import Sequence

from nekkar.core.cache import BaseCache
from nekkar.core.cache.redaction import is_cache_url
from nekkar.core.clock import SystemClock
from nekkar.core.errors import CacheError, ConfigurationError, CorruptLog, shown
from nekkar.core.limiter import Limit, Nekkar
from nekkar.core.quota import Quota
from nekkar.core.runtime.drivers import run_steps
from nekkar.core.shared.key import cache_key
from nekkar.core.shared.store import store_of
from nekkar.core.window.codec import decode
from nekkar.rules import RuleTable
from nekkar.rules.nearest import unknown
from nekkar.rules.settings import TERMS


class NotInUse(CacheError):
    """The cache has no log of the limit, and neither a rule file nor ``--rate`` gives its rate."""


def limits_named(cache: BaseCache, names: Sequence[str], rules: RuleTable | None, rate: str | None) -> list[Limit]:
    """Return the limits of these names, or all limits of the rules except templates. May block on the cache."""
    limiter = Nekkar(cache)
    if not names:
        names = plain_names(rules)
    if any(map(is_cache_url, names)):
        raise ConfigurationError("a NAME is the URL of a cache (it is not shown); give --cache URL")
    return [_limit(limiter, cache, name, rules, rate) for name in dict.fromkeys(names)]


def plain_names(rules: RuleTable | None) -> list[str]:
    """Return the names of all limits of the rules except templates; raise ConfigurationError if there are none."""
    if rules is None:
        raise ConfigurationError("no limit is named; give the NAME of one, or --rules FILE for all in it")
    names = [limit for limit in rules.limits if not rules.is_template(limit)]
    if not names:
        limits = ", ".join(rules.limits) or "none"
        raise ConfigurationError(f"the rules have templates alone ({limits}); give the NAME of one such as user-42")
    return names


def from_rules(limiter: Nekkar, name: str, rules: RuleTable) -> Limit:
    """Return the limit of this name with the rules' settings; raise ConfigurationError if they have none."""
    settings = rules.limits[limit_named(name, rules)]
    return limiter(name, settings["rate"], **{term: settings[term] for term in TERMS if term in settings})


def limit_named(name: str, rules: RuleTable) -> str:
    """Return the key of the rules' limits for this name; raise ConfigurationError, with the nearest, if none fits."""
    limit = rules.limit_named(name)
    if limit is None:
        raise ConfigurationError(unknown("limit", name, rules.limits, "the rules define no such limit"))
    if limit == name and rules.is_template(limit):
        raise ConfigurationError(f"limit {shown(name)} is a template; name one of its limits, such as 'user-42'")
    return limit


def _limit(limiter: Nekkar, cache: BaseCache, name: str, rules: RuleTable | None, rate: str | None) -> Limit:
    if rate is not None:
        return limiter(name, int(rate) if rate.isdecimal() else rate)
    if rules is not None:
        return from_rules(limiter, name, rules)
    return limiter._limit_of(name, _terms_in_use(cache, name), None)


def _terms_in_use(cache: BaseCache, name: str) -> Quota:
    clock, key = SystemClock(), cache_key(name)
    raw, _ = run_steps(store_of(cache, clock).read(key), clock)
    try:
        state = None if raw is None else decode(raw)
    except CorruptLog as error:
        raise CorruptLog(f"cache key {key!r}: {error}; delete the key to start afresh") from error
    if state is None:
        raise NotInUse(
            f"limit {shown(name)} is not in the cache: not used yet, or not for long, or under another name;"
            " give --rules FILE for its rate"
        )
    return Quota(state.rates, state.spacing_us, state.margin_us)  # no windows: reset, and not used since
