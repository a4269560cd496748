"""The key of a limit in its cache."""

from __future__ import annotations

import hashlib


def cache_key(name: str) -> str:
    """Return the key of a limit: its name where every cache takes it, and it can't be read as a hash; else a hash."""
    if len(name) <= 200 and name.isascii() and name.isprintable() and " " not in name and not name.startswith("#"):
        return f"nekkar:{name}"
    return f"nekkar:#{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()}"
