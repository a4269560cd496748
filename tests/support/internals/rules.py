"""Rules, patterns, templates of names and dialects."""

from __future__ import annotations

from typing import Any

from nekkar.rules import RuleTable, reasons
from nekkar.rules.checks import check
from nekkar.rules.dialects import BUILT_IN
from nekkar.rules.fields import MOST_BODY, Body
from nekkar.rules.names import read_template
from nekkar.rules.patterns import read_request
from nekkar.rules.settings import SETTINGS
from nekkar.rules.table import CACHED, LONGEST_CACHED
from nekkar.rules.unmatched import MOST_HOSTS
from nekkar.rules.urls import _PLAIN, _address, address, ascii_host


def find_cached(table: RuleTable) -> Any:
    """Return the function of a table that remembers the answers for the last URLs."""
    return table._find_cached
