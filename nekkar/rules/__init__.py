"""Rules: from a request's method and URL to the limit that it falls under.

A table reads top to bottom in ``table``, a rule in ``rule``, what a request falls under in ``match``.
``patterns`` and ``urls`` say what matches what, ``routes`` finds the rule without trying each, ``names`` makes a
limit's name of what was captured, ``fields`` of what a JSON body holds. ``checks`` finds what is wrong with a table,
``settings`` and ``costs`` with a limit and a rule, ``dialects`` names the headers of services. ``files`` reads a table,
``lines`` says where a fault is, and ``reasons`` why a rule applies.
"""

from nekkar.rules.files import Fault, faults
from nekkar.rules.match import Match
from nekkar.rules.reasons import Explanation
from nekkar.rules.rule import Rule
from nekkar.rules.table import RuleTable

__all__ = ["Explanation", "Fault", "Match", "Rule", "RuleTable", "faults"]
