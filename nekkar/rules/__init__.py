"""Rules: from a request's method and URL to the limit that it falls under.

A table reads top to bottom in ``table``; ``patterns`` and ``urls`` say what matches what, ``routes``
finds the rule without trying each, ``names`` makes a limit's name of what was captured.
"""

from nekkar.rules.table import Match, Rule, RuleTable

__all__ = ["Match", "Rule", "RuleTable"]
