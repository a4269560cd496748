"""One limit's state in one cache: ledgers, stores, replicas, fallbacks."""

from __future__ import annotations

from nekkar.core.shared import fallback, latency, ledger, notices, replica, store
from nekkar.core.shared.fallback import Fallback
from nekkar.core.shared.key import cache_key
from nekkar.core.shared.latency import LEAST_BACKOFF_US, MOST_BACKOFF_US, SAMPLES, CacheLatency
from nekkar.core.shared.ledger import MOST_LOST_SWAPS, Ledger
from nekkar.core.shared.outage import OnCacheError, Outage
from nekkar.core.shared.replica import YEAR_US, Replica
from nekkar.core.shared.store import CasStore, Version, VersionedStore, store_of
