"""A limiter over one cache.

A ``Nekkar`` holds one cache and one clock; calling it with a name and a rate gives a ``Limit``. Limits of
one name are one limit, in this process and wherever the cache is shared.
"""

from __future__ import annotations

from typing import Any, cast
from weakref import WeakValueDictionary

from nekkar.core.admission import Admission, Status, Window
from nekkar.core.cache import BaseCache, TellsTime
from nekkar.core.clock import Clock, SystemClock
from nekkar.core.errors import ConfigurationError, kind_of, shown
from nekkar.core.events import Callback, Listeners, Listening
from nekkar.core.limit import Limit
from nekkar.core.limit_core import LimitCore
from nekkar.core.once import Once
from nekkar.core.quota import SECOND, Quota, check_max_wait, quota, read_headroom, to_us
from nekkar.core.rounds import Rounds
from nekkar.core.runtime.fork_lock import SHARED
from nekkar.core.shared.key import cache_key
from nekkar.core.shared.outage import OnCacheError, Outage

__all__ = ["Admission", "Limit", "Nekkar", "Status", "Window"]

LOOK_EVERY_US = 15 * SECOND  # how often each limit that is kept is checked for being idle


class Nekkar:
    """A rate limiter over one cache; call it to get limits.

    ``cache``: a cache object, a URL (``"memcached://localhost:11211"``, ``"sqlite:///file.db"``,
    ``"memory:"``), or None for this process only. ``clock``: ``"auto"`` for the clock of the cache's server
    where that tells it, else the machine's; ``"server"`` insists, ``"local"`` trusts the machine's; or an object
    with the methods of ``nekkar.core.clock.Clock``. ``on_cache_error``: what calls do while the cache is away:
    ``"raise"`` CacheError, pass (``"open"``), or go on with ``"local"`` limits, in which this process admits at
    most floor(N × ``local_share``) calls a window (with W workers give 1/W). That bounds the fleet at N while no
    worker reaches the cache; while some do, each one that is cut off adds its share to the N of the others.
    ``max_hold``: the longest pause in seconds that a service's answer may bring on a limit.
    Raises ConfigurationError; nothing is connected before the first call.
    """

    def __init__(
        self,
        cache: BaseCache | str | None = None,
        *,
        clock: Clock | str = "auto",
        on_cache_error: OnCacheError = "raise",
        local_share: float = 1.0,
        max_hold: float = 3600.0,
    ) -> None:
        self._cache, self._clock_name = _cache(cache), clock
        self._clock = _clock(clock, self._cache)
        self._listeners = Listeners()
        self._outage = Outage(on_cache_error, local_share, self._listeners)
        self._outages = {"": self._outage}  # by server, where the cache has several
        self.max_hold: float = to_us(max_hold, "max_hold", 1) / SECOND
        self.once = Once()
        self._known: WeakValueDictionary[tuple[str, Quota], LimitCore] = WeakValueDictionary()
        self._defined: WeakValueDictionary[str, LimitCore] = WeakValueDictionary()  # by hand, not by the rules
        # Kept alive for what they remember, though nobody may hold a limit of them. The first of a name has the name
        # alone as its key.
        self._kept: dict[str | tuple[str, Quota], LimitCore] = {}
        self._rounds = Rounds(LOOK_EVERY_US)

    def __repr__(self) -> str:
        return f"Nekkar({self._cache!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (self._cache, self._clock_name, self._outage.policy, self._outage.share, self.max_hold)

    def __call__(
        self,
        name: str,
        rate_limit: int | str | None,
        *,
        period: float | None = None,
        spacing: float | str = 0.0,
        max_wait: float | None = None,
        margin: float | None = None,
        concurrency: int | None = None,
        lease: float = 60.0,
        headroom: float = 0.0,
    ) -> Limit:
        """Return the limit ``name``: ``rate_limit`` calls per ``period`` seconds (60 unless given).

        ``rate_limit``: a whole number, or a text such as ``"10/second; 300/minute"`` (and then no
        ``period``). ``spacing``: least seconds between two slots, or ``"even"``. ``max_wait``: the
        longest that a call waits, in seconds; None: as long as it takes. ``margin``: seconds added to
        each window against jitter; the larger of 50 ms and 1/200 of the shortest period, at most 1 s,
        unless given. ``headroom``: the part of each window, from 0 to below 1, that calls of this limit leave free for
        calls with less; they yield to those. The same name again must have the same terms, but for ``max_wait`` and
        ``headroom``. ``concurrency`` and ``lease`` are kept for a later release, and refused now.
        Raises ConfigurationError, naming what was given and what is expected.
        """
        if not isinstance(name, str) or not name:
            got = "an empty one" if isinstance(name, str) else kind_of(name)
            raise ConfigurationError(f"limit name must be a non-empty str, got {got}")
        for word, given, default in (("concurrency", concurrency, None), ("lease", lease, 60.0)):
            if given != default:
                what = f"limit {shown(name)}: {word} {shown(given)}"
                raise ConfigurationError(f"{what} is not supported yet; leave it out")
        quota, longest = terms(name, rate_limit, period, spacing, margin, max_wait)
        free = read_headroom(headroom, f"limit {shown(name)}: headroom") if headroom != 0 else 0
        return self._limit_of(name, quota, longest, free)

    def _limit_of(
        self, name: str, terms: Quota, max_wait: float | None, headroom: int = 0, *, by_hand: bool = True
    ) -> Limit:
        """Return the limit ``name`` of these terms; ConfigurationError where it is defined by hand with others.

        A request's limit (not ``by_hand``) is never refused: what a URL spells must not raise into the user's call.
        Where it has other terms, each keeps its own against the calls of both, as between processes.
        """
        first = self._kept.get(name)
        if first and first.quota is terms and not (by_hand and self._defined.get(name) is not first):
            return Limit(self, first, max_wait, headroom)  # without the lock: each request of an HTTP client asks
        with SHARED:
            if by_hand:
                self._check_terms(name, terms)
            core = self._known.get((name, terms))
            if core is None:
                core = LimitCore(name, terms, self._cache, self._clock, self._outage_of(name), self._listeners)
                core = self._known.setdefault((name, terms), core)
            if by_hand:
                self._defined[name] = core
            first = self._kept.setdefault(name, core)
            if first is not core:
                self._kept[name, terms] = core
            self._rounds.add(name if first is core else (name, terms), self._clock.now_us())
        if first is not core:
            text = "limit %r has other terms by hand or in other rules, %s and %s: each keeps its own, and counts the"
            text += " calls of both; give both the same terms, or another name; said once"
            self.once.warn("terms", text, name, first.quota.described(), terms.described())
        return Limit(self, core, max_wait, headroom)

    def _check_terms(self, name: str, terms: Quota) -> None:
        """Raise ConfigurationError where ``name`` is defined by hand with other terms."""
        defined = self._defined.get(name)
        if defined is not None and defined.quota != terms:
            raise ConfigurationError(
                f"limit {shown(name)} is defined already, as {defined.quota.described()}, not {terms.described()};"
                " give both the same terms, or another name"
            )

    def listen(self, callback: Callback) -> Listening:
        """Call ``callback`` with each event of this limiter's limits (``nekkar.core.events``), from now on.

        It runs before the call that the event is about goes on, so it must return at once; what it raises is logged.
        ``stop()`` on what is returned, or the end of a ``with`` block on it, ends that; pickling does too.
        """
        return self._listeners.add(callback)

    def now_us(self) -> int:
        """Return the time, in microseconds, on the clock that its limits keep."""
        return self._clock.now_us()

    def _outage_of(self, name: str) -> Outage:
        """Return the state of the server that keeps a limit: while it is away, the limits of all others go on."""
        server_of = getattr(self._cache, "server_of", None)
        server = server_of(cache_key(name)) if server_of else ""
        if server not in self._outages:
            self._outages[server] = self._outage.of(server)
        return self._outages[server]

    def _forget_idle(self, now: int) -> None:
        """Drop some idle limits, if it is time to: no call waits for them, and nothing that they remember matters.

        Each call of a limit comes here, so what it does takes little time however many limits there are.
        """
        if now < self._rounds.next_at:
            return
        with SHARED:
            for name in self._rounds.up(now):
                if self._kept[name].is_idle(now):
                    del self._kept[name]
                else:
                    self._rounds.add(name, now)


def terms(
    name: str,
    rate_limit: int | str | None,
    period: float | None = None,
    spacing: float | str = 0.0,
    margin: float | None = None,
    max_wait: float | None = None,
) -> tuple[Quota, float | None]:
    """Read the terms of limit ``name`` as users write them; raise ConfigurationError, with the name, for others."""
    try:
        read = quota(cast("int | str", rate_limit), period, spacing, margin)
    except ConfigurationError as cause:
        raise ConfigurationError(f"limit {shown(name)}: {cause}") from None
    return read, None if max_wait is None else check_max_wait(max_wait, name)


def _cache(cache: BaseCache | str | None) -> BaseCache:
    if cache is None:
        from nekkar.core.cache.memory import MemoryCache

        return MemoryCache()
    if isinstance(cache, str):
        from nekkar.core.cache.url import from_url

        return from_url(cache)
    if not isinstance(cache, BaseCache):
        raise ConfigurationError(f"cache must be a BaseCache, a URL or None, got {kind_of(cache)}")
    return cache


def _clock(clock: Clock | str, cache: BaseCache) -> Clock:
    if clock in ("auto", "server") and isinstance(cache, TellsTime):
        from nekkar.core.runtime.server_clock import ServerClock

        elsewhere = getattr(cache, "tell_time_elsewhere", None)
        return ServerClock(cache.tell_time, elsewhere=elsewhere, insist=clock == "server")
    if clock == "server":
        raise ConfigurationError(f"clock 'server': {kind_of(cache)} has no server that tells a clock; use 'auto'")
    if clock in ("auto", "local"):
        shared: Clock = getattr(cache, "machine_clock", SystemClock())  # of all who can share it, on one machine
        return shared
    if isinstance(clock, (str, type)) or not callable(getattr(clock, "now_us", None)):
        raise ConfigurationError(f"clock {shown(clock)} is not known; use 'server', 'auto', 'local' or a Clock")
    return clock


def _remade(cache: BaseCache, clock: Clock | str, policy: OnCacheError, share: float, max_hold: float) -> Nekkar:
    return Nekkar(cache, clock=clock, on_cache_error=policy, local_share=share, max_hold=max_hold)
