"""The one place through which the tests reach private names of nekkar: where a file moves, a line here changes.

A room has what the part of nekkar of its name does not show, an import a line; a private attribute that several
tests read has a function there. tests/package/test_internals.py holds the rule.
"""
