"""``nekkar check``: every fault of a rule file at once, each with its line."""

from __future__ import annotations

import argparse
import sys

from nekkar.cli.options import Commands, add_command, add_json
from nekkar.cli.show import show_json
from nekkar.core.errors import counted
from nekkar.rules import RuleTable, faults

_ABOUT = "Check rule files: print every fault of each, as FILE:LINE: what is wrong. Needs no cache."
_EXIT_CODES = "Exit code: 0 if all are sound, 1 if there is a fault, 2 for bad usage."


def add_to(commands: Commands) -> None:
    """Add the command to the parser."""
    check = add_command(commands, "check", "find every fault of a rule file", _ABOUT, _EXIT_CODES)
    check.add_argument("files", nargs="+", metavar="FILE", help="a rule file such as limits.toml")
    add_json(check)
    check.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Check the files."""
    found = [(file, fault) for file in options.files for fault in faults(file)]
    if options.json:
        keys = ("file", "line", "where", "message")
        show_json([dict(zip(keys, (file, f.line, f.where, f.message), strict=True)) for file, f in found], sys.stdout)
        return 1 if found else 0
    for file, fault in found:
        where = f"{file}:{fault.line}" if fault.line else file
        print(": ".join(filter(None, (where, fault.where, fault.message))))
    faulty = {file for file, _ in found}
    for file in options.files:
        if file not in faulty:
            table = RuleTable.from_file(file)
            templates = sum(map(table.is_template, table.limits))
            told = f" ({templates} for each value of its captures)" if templates else ""
            told += f"; unmatched = {table.unmatched}" if table.unmatched != "warn" else ""
            print(f"{file}: no fault; {counted(len(table.rules), 'rule')}, {counted(len(table.limits), 'limit')}{told}")
    if found:
        print(counted(len(found), "fault"), file=sys.stderr)
    return 1 if found else 0
