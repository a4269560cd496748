"""Shared by the commands: how to add one to the parser, and the options that several of them have."""

from __future__ import annotations

import argparse
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from nekkar.core.cache import BaseCache, from_url
from nekkar.core.cache.redaction import redacted
from nekkar.core.errors import ConfigurationError, shown

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = Any

CACHE_VARIABLE = "NEKKAR_CACHE"

_UNITS = {"ms": 0.001, "": 1, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_PART = r"([0-9]+(?:\.[0-9]+)?)\s*(ms|sec|s|min|m|h|d|)"


def add_command(commands: Commands, name: str, summary: str, about: str, exit_codes: str) -> argparse.ArgumentParser:
    """Add a command; return its parser."""
    return commands.add_parser(name, help=summary, description=about, epilog=exit_codes, allow_abbrev=False)


def add_cache(parser: argparse.ArgumentParser, what: str = "the cache that the fleet shares") -> None:
    """Add ``--cache``."""
    about = f"{what}, such as memcached://localhost:11211 (default: the environment's {CACHE_VARIABLE})"
    parser.add_argument("--cache", metavar="URL", default=os.environ.get(CACHE_VARIABLE), help=about)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def needs(extra: str, *libraries: str) -> None:
    """Raise ConfigurationError, with the extra to install, where a library is missing."""
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise ConfigurationError(f"needs {' and '.join(missing)}; install them: pip install 'nekkar[{extra}]'")


def open_cache(url: str | None) -> BaseCache:
    """Return the cache of ``--cache``; raise ConfigurationError if no other process can have used it."""
    if not url:
        raise ConfigurationError(f"no cache is given; give --cache URL, or set {CACHE_VARIABLE} in the environment")
    cache = from_url(url)
    if getattr(cache, "in_process", False):
        raise ConfigurationError(f"cache {redacted(url)} is not shared by processes; give the one that the fleet uses")
    file = re.fullmatch(r"sqlite:///([^?#]+).*", url, re.IGNORECASE)
    if file and not Path(unquote(file[1])).exists():
        raise ConfigurationError(f"cache {redacted(url)}: the file does not exist; give the path that the fleet uses")
    return cache


def seconds(text: str) -> float:
    """Return the seconds of a duration such as ``5m``, ``1h30m`` or ``90``; raise ConfigurationError otherwise."""
    given = text.strip().lower()
    if not re.fullmatch(rf"(?:{_PART}\s*)+", given):
        raise ConfigurationError(f"duration must be a time such as 30s, 5m, 1h30m or 0.5, got {shown(text)}")
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PART, given) if number)
