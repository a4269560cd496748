"""A password in the URL of a rule or of a request is in no error and no log line, however the URL is misspelt."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nekkar import Rule, RuleTable
from nekkar.core.errors import ConfigurationError
from tests.support.internals.plan import read_calls

SECRET = "s3cr3tpw"
TABLE = {"a": 5}

MISSPELT = [
    "https://u:{}@x.y/a",
    "https://u:{}@@x.y/a",
    "https://u:{}@x.y:port/a",
    "https://{}@x.y/a",
    "https://u:{}@",
    "https://u:{}",
    "https://u:{}x.y/a",
    "https://u:{}%40x.y/a",
    "https://u:b/{}@x.y/a",
    "https://u:1234/{}@x.y/a",
    "https://u:b?{}@x.y/a",
    "https://u:b#{}@x.y/a",
    "https://u:b {}@x.y/a",
    "https://u:b'{}@x.y/a",
    "https://u:{}'b@x.y/a",
    'https://u:{}"b@x.y/a',
    "https:///u:{}@x.y/a",
    "https:/u:{}@x.y/a",
    "https:u:{}@x.y/a",
    "https//u:{}@x.y/a",
    "https:\\\\u:{}@x.y/a",
    "//u:{}@x.y/a",
    "u:{}@x.y/a",
    "u:{}@x.y",
]

USES: dict[str, Callable[[str], object]] = {
    "a rule": lambda url: Rule(url, "a"),
    "a rule with a fault": lambda url: Rule(url, "a", methods=[]),
    "a rule that is covered": lambda url: RuleTable([Rule("*", "a"), Rule(url, "a")], TABLE),
    "a rule of a limit that is not known": lambda url: RuleTable([Rule(url, "b")], TABLE),
    "the nearest rule": lambda url: RuleTable([Rule(url, "a")], TABLE).route("GET", "https://other.example/b"),
    "a request that no rule matches": lambda url: RuleTable([Rule("z.w/a", "a")], TABLE).route("GET", url),
    "a request that is refused": lambda url: RuleTable([Rule("z.w/a", "a")], TABLE, unmatched="error").route(
        "GET", url
    ),
    "an explanation": lambda url: RuleTable([Rule("z.w/a", "a")], TABLE).explain("GET", url),
    "an explanation of a rule": lambda url: RuleTable([Rule(url, "a")], TABLE).explain("GET", "https://z.w/"),
    "an explanation of a path": lambda url: RuleTable([Rule("u/a", "a")], TABLE).explain("GET", url),
    "calls to be simulated": lambda url: _refused(read_calls([f"GET {url} 5", f"{url} GET 5"])),
}


def _refused(calls: object) -> None:
    """Return nothing: what is read holds the URL as it was given."""


@pytest.mark.parametrize("use", USES)
def test_no_password_is_shown(use: str, caplog: pytest.LogCaptureFixture) -> None:
    """With a slash, a colon or the "@" too few or too many, and with any character in the password."""
    for url in MISSPELT:
        try:
            said = str(USES[use](url.format(SECRET)))
        except ConfigurationError as error:
            said = str(error)
        if use.startswith("a rule") and said.startswith("Rule("):
            continue  # the rule itself, which holds its URL
        assert SECRET not in said, url
        assert SECRET not in caplog.text, url


@pytest.mark.parametrize(
    "path", ["//api.x.y/users/me@gmail.com/*", "//x.y/@scope/pkg@1.2", "//api.x.y/users/@me", "//x.y:8080/a:b"]
)
def test_a_url_without_a_password_is_shown_whole(path: str) -> None:
    """An "@" in a path is a part of the path."""
    assert f"'https:{path}'" in str(RuleTable([], TABLE).explain("GET", f"https:{path}"))
