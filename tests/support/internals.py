"""The one place that imports private names of nekkar for the tests: where a file moves, a line here changes.

Public names are imported from their public modules. tests/package/test_layers.py sees to it that no other file
under tests/ imports a private module or name.
"""

from __future__ import annotations

from nekkar import tables as tables_module
from nekkar.cli import _parser, main
from nekkar.cli import status as status_module
from nekkar.cli.options import seconds
from nekkar.cli.show import Table, duration
from nekkar.core.cache import memory as memory_module
from nekkar.core.cache import sqlite as sqlite_module
from nekkar.core.cache import stream as stream_module
from nekkar.core.cache.memcached import clock as clock_module
from nekkar.core.cache.memcached.address import address, keeper
from nekkar.core.cache.memcached.cache import LAST_DATE, RELATIVE_TTL_MAX, _expiry
from nekkar.core.cache.memcached.classic import Classic
from nekkar.core.cache.memcached.clock import read_clock, stamp_us
from nekkar.core.cache.memcached.meta import Meta
from nekkar.core.cache.pool import Pool
from nekkar.core.cache.redaction import SCHEMES, redacted
from nekkar.core.cache.stream import Stream
from nekkar.core.clock import monotonic, ticks
from nekkar.core.errors import counted, kind_of, plain, shown
from nekkar.core.events import Listeners
from nekkar.core.quota import MAX_COUNT, MAX_MARGIN, MAX_PERIOD, MIN_PERIOD, SECOND, Quota, Rate, quota
from nekkar.core.runtime.drivers import run, run_async, run_steps, wake_threads
from nekkar.core.runtime.effects import Call, Effects, Event, Pause, Steps, Transact, Wait
from nekkar.core.runtime.loop_anyio import AnyioLoop
from nekkar.core.runtime.loop_asyncio import AsyncioLoop, Bell
from nekkar.core.runtime.loops import THREADS_PER_LOOP, this_loop
from nekkar.core.runtime.server_clock import READ_EVERY_US, RETRY_US, STALE_US, TRIES, ServerClock
from nekkar.core.runtime.slew import DRIFT, GOOD_US, HASTE, Course, Reading, begun
from nekkar.core.shared import notices as notices_module
from nekkar.core.shared import store as store_module
from nekkar.core.shared.fallback import Alone, OnCacheError, Outage
from nekkar.core.shared.key import cache_key
from nekkar.core.shared.latency import HORIZON_US, MOST_CROWD, MOST_LEAD_US, MOST_PAUSE_US, SAMPLES, Pace, crowded
from nekkar.core.shared.ledger import MOST_CONFLICTS, Ledger
from nekkar.core.shared.replica import YEAR_US, View
from nekkar.core.shared.store import Native, Versions, store_of
from nekkar.core.waiting import glance as glance_module
from nekkar.core.waiting import prefetch as prefetch_module
from nekkar.core.waiting import wait_queue as wait_queue_module
from nekkar.core.waiting.assignments import Places
from nekkar.core.waiting.callers import Caller
from nekkar.core.waiting.glance import part
from nekkar.core.waiting.reporter import Voice
from nekkar.core.waiting.wait_queue import Line
from nekkar.core.window import booking as booking_module
from nekkar.core.window.booking import CLOCKS_APART_US, Refusal, Slot, booked
from nekkar.core.window.codec import LATEST_US, MAGIC, MOST_HITS, VERSION, decode, encode
from nekkar.core.window.feedback import Budget, Word, heard
from nekkar.core.window.rejections import EASES_US, MARGIN_PART, MOST_DOUBLINGS, Refusals
from nekkar.core.window.state import EXACT_ENTRIES, GRID, LONG_PERIOD_US, MAX_WINDOWS, HitLog, column
from nekkar.demo.children import ChildFailed, child
from nekkar.demo.fleet import Outcome, Tally, run_fleet
from nekkar.demo.server import READY, StrictServer, serve
from nekkar.demo.show import Result, progress, show
from nekkar.demo.stage import read_plan
from nekkar.demo.window import fits, free_at, most_calls
from nekkar.demo.worker import Answer, CountingCache, Ended, Terms
from nekkar.http.feedback import Passage
from nekkar.http.limiter import Gate
from nekkar.http.ratelimit_headers import read, reset_us
from nekkar.http.retry_after import date_us, number, wait_us
from nekkar.http.urllib3 import Refused, ask_first, asking
from nekkar.opentelemetry import BUCKETS
from nekkar.plan import Ask, Hold, Start, asked, read_calls, read_log
from nekkar.plan import Call as PlanCall
from nekkar.plan import Tally as PlanTally
from nekkar.plan import run as plan_run
from nekkar.plan.calls import _READERS
from nekkar.plot import Mark, Panel, draw, in_window
from nekkar.redis import cache as cache_module
from nekkar.redis.cache import COUNT, DESCENT, _after
from nekkar.rules.checks import SETTINGS
from nekkar.rules.names import read_template
from nekkar.rules.patterns import read_request
from nekkar.rules.table import CACHED, LONGEST_CACHED
from nekkar.rules.urls import _PLAIN, _address, ascii_host
from nekkar.rules.urls import address as rules_address
from nekkar.tables import Table as TablesTable
from nekkar.tables import show as tables_show
from nekkar.tables import width_of
from nekkar.testing import threads as threads_module

__all__ = [
    "BUCKETS",
    "CACHED",
    "CLOCKS_APART_US",
    "COUNT",
    "DESCENT",
    "DRIFT",
    "EASES_US",
    "EXACT_ENTRIES",
    "GOOD_US",
    "GRID",
    "HASTE",
    "HORIZON_US",
    "LAST_DATE",
    "LATEST_US",
    "LONGEST_CACHED",
    "LONG_PERIOD_US",
    "MAGIC",
    "MARGIN_PART",
    "MAX_COUNT",
    "MAX_MARGIN",
    "MAX_PERIOD",
    "MAX_WINDOWS",
    "MIN_PERIOD",
    "MOST_CONFLICTS",
    "MOST_CROWD",
    "MOST_DOUBLINGS",
    "MOST_HITS",
    "MOST_LEAD_US",
    "MOST_PAUSE_US",
    "READY",
    "READ_EVERY_US",
    "RELATIVE_TTL_MAX",
    "RETRY_US",
    "SAMPLES",
    "SCHEMES",
    "SECOND",
    "SETTINGS",
    "STALE_US",
    "THREADS_PER_LOOP",
    "TRIES",
    "VERSION",
    "YEAR_US",
    "_PLAIN",
    "_READERS",
    "Alone",
    "Answer",
    "AnyioLoop",
    "Ask",
    "AsyncioLoop",
    "Bell",
    "Budget",
    "Call",
    "Caller",
    "ChildFailed",
    "Classic",
    "CountingCache",
    "Course",
    "Effects",
    "Ended",
    "Event",
    "Gate",
    "HitLog",
    "Hold",
    "Ledger",
    "Line",
    "Listeners",
    "Mark",
    "Meta",
    "Native",
    "OnCacheError",
    "Outage",
    "Outcome",
    "Pace",
    "Panel",
    "Passage",
    "Pause",
    "Places",
    "PlanCall",
    "PlanTally",
    "Pool",
    "Quota",
    "Rate",
    "Reading",
    "Refusal",
    "Refusals",
    "Refused",
    "Result",
    "ServerClock",
    "Slot",
    "Start",
    "Steps",
    "Stream",
    "StrictServer",
    "Table",
    "TablesTable",
    "Tally",
    "Terms",
    "Transact",
    "Versions",
    "View",
    "Voice",
    "Wait",
    "Word",
    "_address",
    "_after",
    "_expiry",
    "_parser",
    "address",
    "ascii_host",
    "ask_first",
    "asked",
    "asking",
    "begun",
    "booked",
    "booking_module",
    "cache_key",
    "cache_module",
    "child",
    "clock_module",
    "column",
    "counted",
    "crowded",
    "date_us",
    "decode",
    "draw",
    "duration",
    "encode",
    "fits",
    "free_at",
    "glance_module",
    "heard",
    "in_window",
    "keeper",
    "kind_of",
    "main",
    "memory_module",
    "monotonic",
    "most_calls",
    "notices_module",
    "number",
    "part",
    "plain",
    "plan_run",
    "prefetch_module",
    "progress",
    "quota",
    "read",
    "read_calls",
    "read_clock",
    "read_log",
    "read_plan",
    "read_request",
    "read_template",
    "redacted",
    "reset_us",
    "rules_address",
    "run",
    "run_async",
    "run_fleet",
    "run_steps",
    "seconds",
    "serve",
    "show",
    "shown",
    "sqlite_module",
    "stamp_us",
    "status_module",
    "store_module",
    "store_of",
    "stream_module",
    "tables_module",
    "tables_show",
    "this_loop",
    "threads_module",
    "ticks",
    "wait_queue_module",
    "wait_us",
    "wake_threads",
    "width_of",
]
