"""The command line: ``nekkar``, or ``python -m nekkar``; each command is a file of its name.

Until a command runs only the parser and the core are imported, so ``--help`` and ``--version`` need no extra. On a
terminal output is made for people, with rich if it is installed; elsewhere it is plain lines, or with ``--json`` one
JSON value. Exit codes: 0 success; 1 the command failed; 2 bad usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn

from nekkar.cli import check, demo, explain, levers, simulate, status
from nekkar.core.errors import ConfigurationError, NekkarError, counted

_COMMANDS = (status, explain, check, simulate, levers, demo)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: the process's own) and return its exit code.

    Blocks until the command is done. Raises SystemExit where argparse does: for help and bad usage.
    """
    options = _parser().parse_args(argv)
    logging.getLogger("nekkar").addHandler(logging.NullHandler())  # errors are printed once, below
    try:
        code = int(options.run(options))
        sys.stdout.flush()  # here, where a closed pipe can be handled
        return code
    except ConfigurationError as error:
        return _said(f"nekkar {options.command}: {error}", 2)
    except NekkarError as error:
        return _said(f"nekkar {options.command}: {error}", 1)
    except KeyboardInterrupt:
        return _said(f"nekkar {options.command}: interrupted", 130)
    except BrokenPipeError:  # the reader has gone; keep Python's last flush from failing too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


class _Parser(argparse.ArgumentParser):
    """A parser whose errors show no values: one may be a cache's URL with a password, in a wrong place."""

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse; an error for unknown arguments shows only the names of options."""
        options, extra = self.parse_known_args(*args, **kwargs)
        if extra:
            names = [word.partition("=")[0] for word in extra if re.fullmatch(r"--?[a-z-]+(=.*)?", word, re.DOTALL)]
            self.error(f"unrecognized arguments: {' '.join(names) or counted(len(extra), 'word')}")
        return options

    def error(self, message: str) -> NoReturn:
        """Exit with a message, from which the value is removed."""
        message = re.sub(r"(invalid choice): .*? (\(choose from)", r"\1 \2", message, flags=re.DOTALL)
        message = re.sub(r"(invalid \w+ value): .*", r"\1", message, flags=re.DOTALL)
        super().error(re.sub(r"(ignored explicit argument) .*", r"\1", message, flags=re.DOTALL))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="nekkar", description="One exact rate limit shared by a whole fleet.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"nekkar {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_to(commands)
    return parser


def _said(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


def _version() -> str:
    try:
        return version("nekkar")
    except PackageNotFoundError:
        return "(not installed, so its version is not known)"
