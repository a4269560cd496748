"""nekkar: one exact rate limit, shared by a whole fleet.

Every outgoing call waits for its slot in one window that threads, processes and machines share
through a cache. The names below need no extra; ``nekkar.requests`` mounts limits on a session.
Each is imported when it is first asked for.
"""

from typing import TYPE_CHECKING

from nekkar.core.lazy import lazy

if TYPE_CHECKING:
    from nekkar.core.errors import CacheError, ConfigurationError, CorruptLog, NekkarError, WaitTooLong
    from nekkar.core.limiter import Admission, Limit, Nekkar, Status, Window
    from nekkar.rules import Explanation, Match, Rule, RuleTable
else:
    __getattr__ = lazy(
        __name__,
        {
            "nekkar.core.errors": ("CacheError", "ConfigurationError", "CorruptLog", "NekkarError", "WaitTooLong"),
            "nekkar.core.limiter": ("Admission", "Limit", "Nekkar", "Status", "Window"),
            "nekkar.rules": ("Explanation", "Match", "Rule", "RuleTable"),
        },
    )

__all__ = [
    "Admission",
    "CacheError",
    "ConfigurationError",
    "CorruptLog",
    "Explanation",
    "Limit",
    "Match",
    "Nekkar",
    "NekkarError",
    "Rule",
    "RuleTable",
    "Status",
    "WaitTooLong",
    "Window",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
