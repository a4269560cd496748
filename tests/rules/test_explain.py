"""Why a request falls under a rule, and why not under the rules before it."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

import nekkar
from nekkar.rules import Explanation, Rule, RuleTable

TABLE = RuleTable(
    [
        Rule("https://api.github.com/search/*", "search", methods=["GET"]),
        Rule("https://api.github.com/health", False),
        Rule("*.example.com/users/{user}/*", "user-{user}"),
        Rule("https://api.github.com", "all-{header:Authorization}"),
    ],
    {
        "search": "30/minute",
        "user-{user}": {"rate": "250/minute", "spacing": 0.1, "max_wait": 30},
        "all-{header:Authorization}": 5000,
    },
)


def test_an_explanation_tells_the_rule_the_captures_the_limit_and_its_settings() -> None:
    explanation = TABLE.explain("get", "https://eu.example.com/users/42/orders")
    assert (explanation.method, explanation.url) == ("GET", "https://eu.example.com/users/42/orders")
    assert (explanation.number, explanation.rule) == (2, TABLE.rules[2])
    assert explanation.captured == {"user": "42"}
    assert explanation.match == TABLE.match("GET", "https://eu.example.com/users/42/orders")
    assert str(explanation) == (
        "GET 'https://eu.example.com/users/42/orders'\n"
        "  matches rules[2], '*.example.com/users/{user}/*'\n"
        "  captured {user} = '42'\n"
        "  limit 'user-42', from 'user-{user}'\n"
        "  settings rate = '250/minute', max_wait = 30, spacing = 0.1"
    )


def test_an_explanation_tells_what_nearly_matched_before_and_why_not() -> None:
    explanation = TABLE.explain("POST", "https://api.github.com/search/code", {"authorization": "secret"})
    assert explanation.number == 3
    assert [miss.number for miss in explanation.near] == [0, 1]
    assert explanation.near[0].rule is TABLE.rules[0]
    assert explanation.near[0].why_not == ("method POST is not GET",)
    assert explanation.near[1].why_not == ("path '/search/code' is not '/health'",)
    assert "not rules[0], 'https://api.github.com/search/*': method POST is not GET" in str(explanation)
    assert "secret" not in repr(explanation) + str(explanation)
    assert "captured {header:authorization} = " in str(explanation)


def test_an_explanation_tells_unlimited_from_unmatched() -> None:
    allowed, unmatched = (TABLE.explain("GET", f"https://{rest}") for rest in ("api.github.com/health", "other/"))
    assert (allowed.number, allowed.match) == (1, None)
    assert "explicitly unlimited (limit = false)" in str(allowed)
    assert (unmatched.number, unmatched.rule, unmatched.match, unmatched.near) == (None, None, None, ())
    assert "no rule matches: unlimited" in str(unmatched)


@pytest.mark.parametrize(
    ("pattern", "url", "why_not"),
    [
        ("https://h/a", "http://h/a", ["scheme 'http' is not 'https'"]),
        ("https://h/a", "h/a", ["scheme '' is not 'https'"]),
        ("h:80/a", "https://h/a", ["port 443 is not 80"]),
        ("h:80/a", "h/a", ["port None is not 80"]),
        ("h/a", "https://h/a/", ["path '/a/' is not '/a'"]),
        ("h/a/*/{b}/*", "https://h/a/c", ["path '/a/c' is not '/a/*/{b}/*'"]),
        ("h/A", "https://h/a", ["path '/a' is not '/A'"]),
        ("h/a?x=1&y", "https://h/a?x=2", ["query lacks 'x=1'", "query lacks 'y'"]),
        ("h/a?x=1&y", "https://h/a", ["query lacks 'x=1'", "query lacks 'y'"]),
        ("*.h.com", "https://h.com/", ["host 'h.com' is not '*.h.com'"]),
        ("h.com", "https://www.h.com/", ["host 'www.h.com' is not 'h.com'"]),
        ("api.gihub.com/a", "https://api.github.com/a", ["host 'api.github.com' is not 'api.gihub.com'"]),
        ("https://h:80/a?x", "http://h:81/a", ["scheme 'http' is not 'https'", "port 81 is not 80", "query lacks 'x'"]),
        ("api.other.com/a", "https://h/a", []),
        ("h.com", "https://h.org/a", []),
        ("https://h/a", "http://h/b", []),
    ],
)
def test_each_part_that_does_not_match_is_told_with_both_values(pattern: str, url: str, why_not: list[str]) -> None:
    near = RuleTable([Rule(pattern, False)]).explain("GET", url).near
    assert [reason for miss in near for reason in miss.why_not] == why_not


def test_rules_after_the_one_that_matched_are_not_told() -> None:
    table = RuleTable([Rule("h/b", False), Rule("h/a", "x"), Rule("h/c", False)], {"x": 5})
    assert [miss.number for miss in table.explain("GET", "https://h/a").near] == [0]


def test_of_many_near_rules_the_closest_are_told_in_the_tables_order() -> None:
    rules = [Rule(f"h/{'x' if n % 100 else 'a'}/{n}", False) for n in range(1000)]
    near = RuleTable(rules).explain("GET", "https://h/a/b").near
    assert [miss.number for miss in near] == [0, 100, 200, 300, 400]
    hosts = RuleTable([Rule(f"api{n}.example.com/a", False) for n in range(1000)])
    assert 777 in [miss.number for miss in hosts.explain("GET", "https://ap777.example.com/a").near]


@pytest.mark.parametrize("url", ["", "\0", "https://[", "h/" + "a" * 100_000, b"\xff", None])
def test_any_url_can_be_explained(url: object) -> None:
    explanation = RuleTable([Rule("*?x", False), Rule("h.com/a", False), *TABLE.rules], TABLE.limits).explain(
        "GET", url
    )
    assert len(str(explanation)) < 2000


def test_an_explanation_is_a_public_value() -> None:
    assert nekkar.Explanation is Explanation
    explanation = TABLE.explain("GET", "https://h/")
    assert explanation == TABLE.explain("GET", b"https://h/")
    with pytest.raises(FrozenInstanceError):
        explanation.url = "x"  # type: ignore[misc]
