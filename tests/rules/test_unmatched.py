"""Requests that no rule matches: a table ignores them, warns of them, or refuses them."""

from __future__ import annotations

import logging
import pickle
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from nekkar.core.errors import ConfigurationError
from nekkar.rules import Rule, RuleTable
from tests.support.internals.rules import MOST_HOSTS, reasons

CHAT = Rule("*/chat/completions", "chat")  # no service has its endpoint at the root
LIMITS = {"chat": "500/minute"}
URL = "https://api.openai.com/v1/chat/completions"


def table(unmatched: str = "warn", *rules: Rule) -> RuleTable:
    return RuleTable([CHAT, *rules], LIMITS, unmatched=unmatched)


def refusal(rules: RuleTable, method: str, url: str) -> str:
    with pytest.raises(ConfigurationError) as raised:
        rules.route(method, url)
    return str(raised.value)


class TestPolicy:
    """Which of the three a table follows."""

    def test_it_warns_unless_told_otherwise(self, tmp_path: Path) -> None:
        """In code, of a mapping, of a file."""
        (tmp_path / "limits.toml").write_text("[limits]\n")
        tables = RuleTable([]), RuleTable.from_dict({}), RuleTable.from_file(tmp_path / "limits.toml")
        assert {one.unmatched for one in tables} == {"warn"}

    @pytest.mark.parametrize("policy", ["ignore", "warn", "error"])
    def test_it_is_given_in_code_in_a_mapping_and_in_a_file(self, policy: str, tmp_path: Path) -> None:
        """In a file above the first table."""
        (tmp_path / "limits.toml").write_text(f'unmatched = "{policy}"\n[limits]\nchat = 5\n')
        tables = (
            RuleTable([], unmatched=policy),
            RuleTable.from_dict({"unmatched": policy}),
            RuleTable.from_file(tmp_path / "limits.toml"),
        )
        assert {one.unmatched for one in tables} == {policy}

    @pytest.mark.parametrize(
        ("policy", "about"),
        [
            ("wran", "'wran' is not known; did you mean 'warn'?"),
            ("errors", "'errors' is not known; did you mean 'error'?"),
            ("x", "'x' is not known; give ignore, warn or error"),
            (None, "None is not known; give ignore, warn or error"),
            (["warn"], "['warn'] is not known"),
        ],
    )
    def test_an_unknown_one_is_refused_with_the_nearest(self, policy: Any, about: str) -> None:
        """In code and in a mapping alike."""
        with pytest.raises(ConfigurationError) as in_code:
            RuleTable([], unmatched=policy)
        with pytest.raises(ConfigurationError) as in_mapping:
            RuleTable.from_dict({"unmatched": policy})
        assert str(in_code.value) == str(in_mapping.value)
        assert str(in_code.value).startswith(f"unmatched: {about}")

    @pytest.mark.parametrize("policy", ["ignore", "warn", "error"])
    def test_it_survives_pickling_and_counts_in_equality(self, policy: str) -> None:
        """Two tables are equal where rules, limits and policy are."""
        rules = table(policy)
        again = pickle.loads(pickle.dumps(rules))
        assert (again.unmatched, again) == (policy, rules)
        assert hash(again) == hash(rules)
        assert {rules == table(other) for other in {"ignore", "warn", "error"} - {policy}} == {False}
        assert rules != RuleTable([CHAT], {"chat": 5}, unmatched=policy)
        assert rules != policy


@pytest.mark.parametrize("policy", ["ignore", "warn", "error"])
def test_asking_a_table_neither_logs_nor_raises(policy: str, caplog: pytest.LogCaptureFixture) -> None:
    """``resolve``, ``match`` and ``explain`` ask; only a request that is about to be sent is acted on."""
    rules = table(policy)
    assert rules.resolve("POST", URL) is None
    assert rules.match("POST", URL) is None
    assert rules.explain("POST", URL).unmatched == policy
    assert caplog.records == []


@pytest.mark.parametrize(
    ("policy", "outcome"),
    [
        ("ignore", "unlimited (unmatched = 'ignore')"),
        ("warn", "unlimited, with a warning for its host (unmatched = 'warn')"),
        ("error", "refused (unmatched = 'error')"),
    ],
)
def test_an_explanation_tells_what_happens_to_an_unmatched_request(policy: str, outcome: str) -> None:
    lines = str(table(policy).explain("POST", URL)).splitlines()
    assert lines[1:] == [
        f"  no rule matches: {outcome}",
        "  not rules[0], '*/chat/completions': path '/v1/chat/completions' is not '/chat/completions'",
    ]


@pytest.mark.parametrize("policy", ["ignore", "warn", "error"])
def test_what_a_rule_matches_is_no_matter_of_the_policy(policy: str, caplog: pytest.LogCaptureFixture) -> None:
    """``limit = false`` is a match too."""
    rules = table(policy, Rule("https://api.openai.com/v1/models", False))
    match = rules.route("POST", "https://x.y/chat/completions")
    assert match is not None
    assert match.name == "chat"
    assert rules.route("GET", "https://api.openai.com/v1/models") is None
    assert caplog.records == []


class TestWarn:
    """``unmatched="warn"``."""

    def test_it_names_host_method_url_nearest_rule_and_remedy(self, caplog: pytest.LogCaptureFixture) -> None:
        """On one line."""
        assert table().route("POST", URL) is None
        (record,) = caplog.records
        assert (record.name, record.levelno) == ("nekkar", logging.WARNING)
        assert record.getMessage() == (
            f"POST '{URL}': no rule matches, so it is sent unlimited, as are other such requests to host"
            " 'api.openai.com'; the nearest is rules[0], '*/chat/completions', whose path differs; add a rule for it,"
            " with limit = false if it needs no limit, or set unmatched = 'ignore'; said once for each host"
        )

    def test_it_says_so_once_for_each_host(self, caplog: pytest.LogCaptureFixture) -> None:
        """Whatever the path, method, port or case."""
        rules = table()
        for url in (URL, URL + "/x", "http://API.openai.com:81/", "https://eu.openai.com/"):
            for method in ("GET", "POST"):
                rules.route(method, url)
        hosts = [re.findall(r"requests to host '(.*?)'", message) for message in caplog.messages]
        assert hosts == [["api.openai.com"], ["eu.openai.com"]]

    def test_threads_at_once_say_it_once(self, caplog: pytest.LogCaptureFixture) -> None:
        """Eight that begin together."""
        rules, barrier = table(), threading.Barrier(8)

        def route() -> None:
            barrier.wait()
            rules.route("POST", URL)

        threads = [threading.Thread(target=route) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(caplog.records) == 1

    def test_the_hosts_it_remembers_are_bounded(self, caplog: pytest.LogCaptureFixture) -> None:
        """Past the bound one last line; a host of a megabyte is remembered by its beginning."""
        rules = table()
        rules.route("GET", f"https://{'a' * 1_000_000}/")
        for number in range(2 * MOST_HOSTS):
            rules.route("GET", f"https://h{number}.example/")
        assert len(caplog.records) == MOST_HOSTS + 1
        assert "over 100 hosts; no further host is named" in caplog.messages[-1]
        assert max(map(len, caplog.messages)) < 1000
        assert sum(map(len, rules._unmatched._hosts)) < 10_000

    def test_a_table_without_rules_is_told_so(self, caplog: pytest.LogCaptureFixture) -> None:
        RuleTable([]).route("GET", URL)
        assert "the table has no rules; add a rule for it" in caplog.messages[0]

    @pytest.mark.parametrize("url", ["", "::::", "//", "http://[::1", "\ud800", b"\xff\xfe", "https://h/%ff%00\n\r"])
    def test_any_url_is_told_on_one_line(self, url: Any, caplog: pytest.LogCaptureFixture) -> None:
        """What is no URL too; no character of it can break the log."""
        table().route("GET", url)
        (message,) = caplog.messages
        assert message.isprintable()


@pytest.mark.parametrize("policy", ["warn", "error"])
@pytest.mark.parametrize(
    "url",
    [
        "https://user:SECRET@x.y/a",
        "https://x.y/a?key=SECRET&b=1",
        "https://x.y/a?SECRET",
        "https://x.y/a#SECRET",
        "https://x.y/a;jsessionid=SECRET",
        "https://x.y/a;SECRET/b",
        "https://x.y/bot123456789:AAAASECRETBBBBCCCCDDDD/sendMessage",
        "https://x.y/services/T00000000/B00000000/SECRETSECRETSECRETSECRE0",
        "https://x.y/%53ECRETSECRETSECRETSECRETSECRET0",
    ],
)
def test_no_secret_is_shown(url: str, policy: str, caplog: pytest.LogCaptureFixture) -> None:
    """User info, query, fragment, parameters of a segment, and segments that look like a token."""
    try:
        table(policy).route("GET", url)
    except ConfigurationError as error:
        said = str(error)
    else:
        (said,) = caplog.messages
    assert "SECRET" not in said
    assert "https://x.y/" in said


class TestError:
    """``unmatched="error"``."""

    @pytest.mark.parametrize(
        ("method", "url", "nearest"),
        [
            ("POST", URL, "rules[0], '*/chat/completions', whose path differs"),
            ("GET", "https://api.github.com/serch/code", "rules[2], 'https://api.github.com/search/*', whose path"),
            ("GET", "https://api.gihtub.com/search/code", "rules[2], 'https://api.github.com/search/*', whose host"),
            ("DELETE", "https://api.github.com/users/42", "rules[3], 'https://api.github.com/users/*', whose methods"),
            ("GET", "http://api.github.com/search/x", "rules[2], 'https://api.github.com/search/*', whose scheme"),
            ("GET", "http://h.example:81/list?kind=new", "rules[4], 'h.example:80/list?kind=new', whose port differs"),
            ("GET", "http://h.example/list?kind=old", "rules[4], 'h.example:80/list?kind=new', whose query differs"),
            ("GET", "http://api.gitlab.com/search/x", "rules[1], 'https://api.gitlab.com/search/*', whose scheme"),
            (
                "PUT",
                "http://api.github.com/users/42",
                "rules[3], 'https://api.github.com/users/*', whose methods and scheme",
            ),
        ],
    )
    def test_it_refuses_and_names_the_nearest_rule(self, method: str, url: str, nearest: str) -> None:
        """By the parts that differ, the first segments, the last labels, the spelling of the host."""
        rules = table(
            "error",
            Rule("https://api.gitlab.com/search/*", False),
            Rule("https://api.github.com/search/*", False),
            Rule("https://api.github.com/users/*", False, methods=["GET"]),
            Rule("h.example:80/list?kind=new", False),
        )
        said = refusal(rules, method, url)
        shown = url.partition("?")[0]
        assert said.startswith(f"{method} '{shown}': no rule matches, and unmatched is 'error'")
        assert f"so it was not sent; the nearest is {nearest}" in said
        assert said.endswith("add a rule for it, with limit = false if it needs no limit")

    def test_it_refuses_each_time(self, caplog: pytest.LogCaptureFixture) -> None:
        """And logs nothing: the error tells."""
        rules = table("error")
        assert refusal(rules, "POST", URL) == refusal(rules, "POST", URL)
        assert caplog.records == []

    def test_the_nearest_of_many_rules_compares_few_hosts_by_spelling(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """That is the slow part; the others are comparisons of parts."""
        compared: list[str] = []
        likeness = reasons._likeness

        def noted(one: str, other: str) -> float:
            compared.append(one)
            return likeness(one, other)

        monkeypatch.setattr(reasons, "_likeness", noted)
        rules = RuleTable([Rule(f"https://h{n}.example.com/{n}", False) for n in range(2000)], unmatched="error")
        assert "rules[77], 'https://h77.example.com/77', whose host" in refusal(
            rules, "GET", "https://h77.exmaple.com/77"
        )
        assert len(compared) <= reasons.LIKELIEST
