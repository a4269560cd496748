"""The command line: its commands, options and output."""

from __future__ import annotations

from nekkar.cli import _parser, main, status
from nekkar.cli.options import seconds
from nekkar.cli.show import Table, duration
