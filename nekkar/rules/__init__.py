"""Rules: from a request's method and URL to the limit that it falls under.

Start with ``table`` (a table of rules), ``rule`` (one rule) and ``match`` (the result). ``patterns`` and ``urls``
decide whether a rule covers a request, and ``routes`` finds that rule without trying all. ``names`` fills a limit's
name with captures and headers, and ``fields`` reads the JSON body for it. ``checks`` checks a whole table, ``settings``
a limit, ``costs`` a rule's cost. ``dialects`` has the headers of services. ``files`` reads TOML, ``lines`` finds the
line of a fault, ``reasons`` explains why a rule applies, and ``unmatched`` handles requests without a rule.
"""

from nekkar.rules.files import Fault, faults
from nekkar.rules.match import Match
from nekkar.rules.reasons import Explanation
from nekkar.rules.rule import Rule
from nekkar.rules.table import RuleTable

__all__ = ["Explanation", "Fault", "Match", "Rule", "RuleTable", "faults"]
