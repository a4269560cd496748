"""What happens to a request that no rule matches: ``ignore``, ``warn`` or ``error``.

1. ``ignore``: it is sent unlimited, and nothing is logged.
2. ``warn``: it is sent unlimited, with one WARNING for each host, for at most ``MOST_HOSTS`` hosts.
3. ``error``: it is refused before it is sent, by a ConfigurationError.

Messages go to logs, so they show no secret: they leave out the URL's user info, query and fragment, and have ``…`` in
place of a path segment that looks like a token.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from urllib.parse import quote

from nekkar.core.errors import ConfigurationError, shown, shown_url, without_user_info
from nekkar.rules.nearest import nearest
from nekkar.rules.patterns import Pattern
from nekkar.rules.reasons import nearest_rule
from nekkar.rules.rule import Rule
from nekkar.rules.urls import DEFAULT_PORTS

POLICIES = ("ignore", "warn", "error")
MOST_HOSTS = 100
LONGEST_HOST = 253  # as in DNS; a longer one is remembered by its beginning

# Telegram, Slack and others put a token into the path. 24 characters spare the names of most models and versions.
_TOKEN = re.compile(r"(?=.*[0-9]).{24,}", re.DOTALL)
_PATH_CHARACTERS = "!$&'()*+,=:@"

log = logging.getLogger("nekkar")


def check_policy(policy: object) -> str:
    """Return ``policy``; raise ConfigurationError, with the nearest known one, if it is unknown."""
    if isinstance(policy, str) and policy in POLICIES:
        return policy
    near = nearest(policy, POLICIES) if isinstance(policy, str) else ""
    raise ConfigurationError(f"{shown(policy)} is not known; {near or 'give ignore, warn or error'}")


class Unmatched:
    """A table's policy, and the hosts that a WARNING has named. Thread-safe, without a lock."""

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self._hosts: dict[str, object] = {}

    def handle(self, request: Pattern, rules: Sequence[Rule]) -> None:
        """Ignore, warn of or refuse a request that is about to be sent."""
        if self.policy == "error":
            raise ConfigurationError(
                f"{_request(request)}: no rule matches, and unmatched is 'error', so it was not sent;"
                f" {_nearest(request, rules)}; add a rule for it, with limit = false if it needs no limit"
            )
        if self.policy == "warn":
            self._warn(request, rules)

    def _warn(self, request: Pattern, rules: Sequence[Rule]) -> None:
        host, mine = _host(request), object()
        key = host[:LONGEST_HOST]
        if key in self._hosts or len(self._hosts) > MOST_HOSTS:
            return
        if self._hosts.setdefault(key, mine) is not mine:  # atomic: of two threads, one logs
            return
        if len(self._hosts) > MOST_HOSTS:
            log.warning("no rule matches requests to over %d hosts; no further host is named", MOST_HOSTS)
            return
        log.warning(
            "%s: no rule matches, so it is sent unlimited, as are other such requests to host %s; %s; add a rule for"
            " it, with limit = false if it needs no limit, or set unmatched = 'ignore'; said once for each host",
            _request(request),
            shown(host),
            _nearest(request, rules),
        )


def _request(request: Pattern) -> str:
    """Return the method and the URL of a request, without what may be secret."""
    scheme = f"{request.scheme}://" if request.scheme else ""
    port = "" if request.port in (None, DEFAULT_PORTS.get(request.scheme)) else f":{request.port}"
    path = "".join(f"/{_segment(str(part))}" for part in request.path)
    (method,) = request.methods or ("",)
    return f"{shown(method)[1:-1]} {shown_url(f'{scheme}{_host(request)}{port}{path}')}"


def _segment(text: str) -> str:
    text = text.partition(";")[0]  # parameters of a segment, such as a session's id
    return "…" if _TOKEN.fullmatch(text) else quote(text, _PATH_CHARACTERS, errors="replace")


def _host(request: Pattern) -> str:
    return ".".join(map(str, reversed(request.host)))


def _nearest(request: Pattern, rules: Sequence[Rule]) -> str:
    found = nearest_rule(rules, request)
    if found is None:
        return "the table has no rules"
    number, parts = found
    verb = "differs" if len(parts) == 1 else "differ"
    why = f"whose {' and '.join(parts)} {verb}" if parts else "whose limit needs a field that the JSON body lacks"
    return f"the nearest is rules[{number}], {without_user_info(rules[number].url)!r}, {why}"
