"""What the HTTP adapters share: routes, feedback, bodies, meters."""

from __future__ import annotations

from nekkar.http.bodies import MOST_AHEAD, MOST_MEASURED, Answer, Decoder, Events, RequestView, ResponseView, bytes_of
from nekkar.http.buckets import limit_of, quota_report, refusing, shared_out
from nekkar.http.dialects import told_by
from nekkar.http.encodings import Unreadable
from nekkar.http.feedback import Route
from nekkar.http.header_values import MOST_HEADERS, MOST_TEXT, reset_us
from nekkar.http.limiter import CallOptions, HttpLimiter
from nekkar.http.ratelimit_headers import read
from nekkar.http.retry_after import date_us, number, wait_us
from nekkar.http.routes import Routes
from nekkar.http.urllib3 import AttemptRefused, attempts, hook_pool
from nekkar.meters import INLINE
