"""The instruments of OpenTelemetry."""

from __future__ import annotations

from nekkar.opentelemetry import BUCKETS
