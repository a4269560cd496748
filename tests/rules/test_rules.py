"""Which limit a request falls under: tables, what they refuse, and the names that captures give."""

from __future__ import annotations

import copy
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from nekkar.core.errors import ConfigurationError, NekkarError
from nekkar.core.limiter import Nekkar
from nekkar.rules import Match, Rule, RuleTable
from tests.support.internals.core import shown


def capture(pattern: str, url: str) -> str | None:
    return RuleTable([Rule(pattern, "{v}")], {"{v}": 1}).resolve("GET", url)


@pytest.mark.parametrize(
    ("pattern", "url", "name"),
    [
        ("h/users/{v}", "https://h/users/7", "7"),
        ("h/users/{v}/*", "https://h/users/Ann/x/y?z", "Ann"),
        ("h/{v}", "https://h/a%2Fb", "a/b"),
        ("h/{v}", "https://h/caf%C3%A9", "café"),
        ("h/{v}", "https://h/100%25", "100%"),
        ("h/{v}", "https://h/%FF", "\\udcff"),
        ("h/{v}", "https://h/{w}", "{w}"),
        ("{v}.example.com", "https://ACME.Example.com/", "acme"),
        ("*.{v}.com/x", "https://a.b.acme.com/x", "acme"),
        ("{w}.h/{v}", "https://a.h/b", "b"),
        ("{v}.h/{w}", "https://a.h/b", "a"),
        ("{v}", "http://[::1]/", "[::1]"),
    ],
)
def test_a_capture_is_put_into_the_name_decoded(pattern: str, url: str, name: str) -> None:
    assert capture(pattern, url) == name


def test_each_captured_value_is_a_limit_of_its_own() -> None:
    table = RuleTable([Rule("{org}.h/users/{user}/*", "{org}-user-{user}")], {"{org}-user-{user}": "250/minute"})
    assert table.resolve("GET", "https://acme.h/users/7/x") == "acme-user-7"
    assert table.resolve("GET", "https://acme.h/users/8") == "acme-user-8"


def test_the_first_match_wins_and_no_match_is_unlimited() -> None:
    rules = [Rule("h/a", "first"), Rule("h/*", "second"), Rule("*.h", "third")]
    table = RuleTable(rules, {"first": 1, "second": 1, "third": 1})
    urls = ["https://h/a", "https://h/b", "https://x.h/a", "https://other/"]
    assert [table.resolve("GET", url) for url in urls] == ["first", "second", "third", None]


OVERLAPS = [("h/a*", "h/*b"), ("h/ab", "*/ab?c"), ("*/ab", "h"), ("h/{v}", "h/a*/*"), ("https://*/ab", "h:443")]


@pytest.mark.parametrize("patterns", OVERLAPS)
def test_of_rules_that_overlap_the_first_wins_wherever_they_are_filed(patterns: tuple[str, str]) -> None:
    """Neither covers the other wholly, so that they may stand in either order."""
    for first, second in (patterns, patterns[::-1]):
        table = RuleTable([Rule(first, "first"), Rule(second, "second")], {"first": 1, "second": 1})
        assert table.resolve("GET", "https://h/ab?c") == "first"


def test_a_rule_with_limit_false_is_unlimited_even_before_one_that_limits() -> None:
    table = RuleTable([Rule("h/health", False), Rule("*", "all")], {"all": 5})
    assert table.resolve("GET", "https://h/health") is None
    assert table.match("GET", "https://h/health") is None
    assert table.resolve("GET", "https://h/") == "all"


def test_methods_ignore_case_and_leave_other_methods_to_later_rules() -> None:
    table = RuleTable([Rule("h", "read", methods=["get", "Head"]), Rule("h", "rest")], {"read": 1, "rest": 1})
    resolved = [table.resolve(method, "https://h/") for method in ("GET", "get", "HEAD", "POST")]
    assert resolved == ["read", "read", "read", "rest"]


def test_an_empty_table_limits_nothing() -> None:
    assert RuleTable([]).resolve("GET", "https://h/") is None
    assert RuleTable((), {"unused": 5}).match("GET", "https://h/") is None


def test_a_url_object_is_read_as_its_text() -> None:
    assert RuleTable([Rule("h/a", "x")], {"x": 1}).resolve("GET", httpx.URL("https://h/a")) == "x"
    assert RuleTable([Rule("h/a", "x", methods=["GET"])], {"x": 1}).resolve(b"get", b"https://h/a") == "x"


def test_a_match_holds_what_the_limiter_takes() -> None:
    """Only what the table gives is among the options."""
    bounded = {"rate": "250/minute", "spacing": 0.1, "max_wait": 30, "margin": 0.2}
    rules = [Rule("h/a", "plain"), Rule("h/b", "all"), Rule("h/c", "period")]
    table = RuleTable(rules, {"plain": 100, "all": bounded, "period": {"rate": 5, "period": 2.5, "spacing": "even"}})
    plain, full, period = (table.match("GET", f"https://h/{path}") for path in "abc")
    assert plain == Match("plain", rules[0], 100)
    assert plain.options == {}
    assert full == Match("all", rules[1], "250/minute", None, 0.1, 30, 0.2)
    assert full.options == {"spacing": 0.1, "max_wait": 30, "margin": 0.2}
    assert period is not None
    assert period.options == {"period": 2.5, "spacing": "even"}


def test_a_match_can_be_handed_to_a_limiter() -> None:
    table = RuleTable([Rule("h/{v}", "u-{v}")], {"u-{v}": {"rate": 5, "period": 2.5, "max_wait": 3}})
    match = table.match("GET", "https://h/7")
    assert match is not None
    assert Nekkar()(match.name, match.rate_limit, **match.options).name == "u-7"


# What can't be a rule


@pytest.mark.parametrize("limit", ["", None, True, 5, b"x", "user-{", "user-}", "{}", "{a b}", "{{a}}", "{a}{b}"])
def test_a_bad_limit_is_refused_with_the_rules_url(limit: Any) -> None:
    with pytest.raises(ConfigurationError, match=re.escape("url 'h/a': limit")):
        Rule("h/a", limit)


@pytest.mark.parametrize("methods", ["GET", [], [""], ["GET "], [None], 5, {"GET": 1}, ["*"]])
def test_bad_methods_are_refused_with_the_rules_url(methods: Any) -> None:
    with pytest.raises(ConfigurationError, match=re.escape("url 'h/a': ")):
        Rule("h/a", "x", methods=methods)


def test_a_long_url_is_cut_in_its_error() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Rule("h/" + "a" * 100_000 + "{", "x")
    assert len(str(caught.value)) < 500


def test_a_rule_is_a_value() -> None:
    rule = Rule("h/a", "x", methods=iter(["post", "GET", "get"]))
    assert rule == Rule("h/a", "x", methods=("GET", "POST"))
    assert len({rule, Rule("h/a", "x", methods=["GET", "POST"]), Rule("h/a", "x")}) == 2
    assert repr(rule) == "Rule(url='h/a', limit='x', methods=('GET', 'POST'))"
    assert pickle.loads(pickle.dumps(rule)) == rule
    with pytest.raises(AttributeError):
        rule.url = "h/b"  # type: ignore[misc]


# What can't be a table


def told(rules: Any, given: Any = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        RuleTable(rules, given)
    assert isinstance(caught.value, NekkarError)
    return str(caught.value)


def test_an_unknown_limit_is_told_with_the_rule_and_the_nearest_name() -> None:
    rules = [Rule("h/a", "github"), Rule("h/b", "githbu")]
    text = told(rules, {"github": 5, "other": 5})
    assert text == "rules[1]: no limit named 'githbu' (did you mean 'github'?)"
    assert told(rules) == "rules[0]: no limit named 'github'; give it a rate in limits"
    assert "(did you mean 'user-{user}'?)" in told([Rule("h/{id}", "user-{id}")], {"user-{user}": 5})


@pytest.mark.parametrize(
    ("value", "about"),
    [
        ("5 per", "rate '5 per'"),
        ("5/fortnight", "fortnight"),
        (0, "0"),
        (True, "True"),
        (None, "None"),
        (1.5, "1.5"),
        ([5], "[5]"),
        ({}, "no rate"),
        ({"rate": 5, "spacing": -1}, "spacing -1"),
        ({"rate": 5, "spacing": None}, "spacing None"),
        ({"rate": 5, "max_wait": -1}, "max_wait -1"),
        ({"rate": 5, "max_wait": "30"}, "max_wait '30'"),
        ({"rate": 5, "margin": 0}, "margin 0"),
        ({"rate": "5/s", "period": 3}, "period"),
        ({"rate": 5, "spacng": 1}, "did you mean 'spacing'?"),
        ({"rate": 5, 7: 1}, "give rate, period"),
    ],
)
def test_a_bad_rate_is_told_with_the_limits_name(value: Any, about: str) -> None:
    text = told([], {"github": value})
    assert text.startswith("limits['github']: ")
    assert about in text


@pytest.mark.parametrize("name", ["", None, 5, "a{", "{}", "{a}{b}", "{header:}", "{header:a b}", "{head:X}"])
def test_a_limit_needs_a_name_that_can_be_filled(name: Any) -> None:
    assert told([], {name: 5}).startswith(f"limits[{name!r}]: ")


def test_a_capture_that_the_pattern_lacks_is_told_with_the_rule() -> None:
    given = {"user-{user}": 5}
    rules = [Rule("h/{user}", "user-{user}"), Rule("g/{usr}", "user-{user}")]
    text = told(rules, given)
    assert text.startswith("rules[1]: url 'g/{usr}': limit 'user-{user}' asks for {user}")
    assert text.endswith("did you mean 'usr'?")
    assert "{user} for a host label or path segment" in told([Rule("h/a", "user-{user}")], given)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("h/a", "h/a"),
        ("h/a", "https://H:443/%61"),
        ("*", "h"),
        ("*", "*"),
        ("*", "*.x/{a}/*?b=1"),
        ("h", "h/a/b"),
        ("h", "h/*"),
        ("h/*", "h"),
        ("h/a/*", "h/a"),
        ("h/a/*", "h/a/b/{c}"),
        ("h/a/*", "h/a/b/*"),
        ("h/*/c", "h/{a}/c"),
        ("h/*/c", "h/a*/c"),
        ("h/*/c", "h//c"),
        ("h/{a}/c", "h/{b}/c"),
        ("h/{a}/c", "h/b/c"),
        ("h/{a}/c", "h/b*/c"),
        ("h/a*", "h/abc"),
        ("h/a*", "h/ab*c"),
        ("h/a*c", "h/ab*c"),
        ("h/*b*", "h/ab*bc"),
        ("*.*", "*.x/a?b=1&c=2"),
        ("*.x", "a.x"),
        ("*.x", "*.a.x"),
        ("*.x", "{a}.x"),
        ("*.x", "a*.b.x"),
        ("*/a", "h/a"),
        ("{a}.x", "b.x"),
        ("h", "https://h"),
        ("h", "h:80"),
        ("h/a", "h/a?b=1"),
        ("h/a?b", "h/a?b=1"),
        ("h/a?b=1", "h/a?c=2&b=1"),
    ],
)
def test_a_rule_hidden_by_an_earlier_one_is_refused(earlier: str, later: str) -> None:
    text = told([Rule("other", False), Rule(earlier, False), Rule(later, False)])
    assert text.startswith(f"rules[2]: url {shown(later)} is wholly covered by rules[1], {shown(earlier)}")


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("h/a", "h/*"),
        ("h/a", "h/a/"),
        ("h/a/*", "h/*"),
        ("h/a", "h/A"),
        ("h/", "h"),
        ("h/{a}/c", "h/*/c"),
        ("h/{a}", "h/"),
        ("h/{a}", "h/*"),
        ("h/a*", "h/*a"),
        ("h/a*b", "h/a*"),
        ("h/aa*", "h/a*"),
        ("h/a%2Ab", "h/a*b"),
        ("*.x", "x"),
        ("*.x", "*"),
        ("*.a.x", "*.x"),
        ("*.x", "*.*"),
        ("{a}.x", "*.x"),
        ("https://h", "h"),
        ("https://h", "http://h"),
        ("h:80", "h"),
        ("https://h:443", "https://h"),
        ("h/a?b=1", "h/a"),
        ("h/a?b=1", "h/a?b=2"),
        ("h/a?b=1", "h/a?b"),
    ],
)
def test_a_rule_that_can_still_be_used_is_not_refused(earlier: str, later: str) -> None:
    assert len(RuleTable([Rule(earlier, False), Rule(later, False)]).rules) == 2


def test_methods_count_in_whether_a_rule_is_hidden() -> None:
    get, write, both = ["GET"], ["POST", "PUT"], ["GET", "POST"]
    RuleTable([Rule("h", False, methods=get), Rule("h", False, methods=write), Rule("h", False)])
    RuleTable([Rule("h", False, methods=get), Rule("h", False, methods=both)])
    assert "covered by rules[0]" in told([Rule("h", False), Rule("h", False, methods=get)])
    assert "covered by rules[0]" in told([Rule("h", False, methods=both), Rule("h/a", False, methods=get)])


@pytest.mark.parametrize(
    ("template", "other"),
    [
        ("user-{a}", "user-admin"),
        ("{a}", "x"),
        ("{a}-x", "a-x"),
        ("u-{a}-{b}-x", "u-1-2-x"),
        ("{a}-{header:X}", "a-none"),
        ("{header:X}", "{header:x}"),
        ("user-{a}", "user-{b}"),
        ("user-{a}", "user-{a}-search"),
        ("user-{a}", "{a}-x"),
        ("{a}-{b}", "x-{a}"),
        ("a{x}", "ab{x}c"),
    ],
)
def test_a_template_that_can_spell_another_limits_name_is_refused(template: str, other: str) -> None:
    for names in ([template, other], [other, template]):
        text = told([Rule("{a}.{b}/{x}", template)], dict.fromkeys(names, 5))
        assert "can spell the name of another limit" in text
        assert text.startswith((f"limits[{template!r}]: ", f"limits[{other!r}]: "))
        assert template in text
        assert other in text


@pytest.mark.parametrize(
    ("template", "other"),
    [
        ("user-{a}", "user-"),
        ("user-{a}", "users"),
        ("u-{a}-{b}-x", "u-1-x"),
        ("aba{a}aba", "abaaba"),
        ("user-{a}", "org-{a}"),
        ("{a}-x", "{a}-y"),
        ("a-{a}-x", "a-{a}-y"),
    ],
)
def test_names_that_can_never_be_the_same_are_accepted(template: str, other: str) -> None:
    RuleTable([], {template: 5, other: 5})


@pytest.mark.parametrize("rules", ["h", 5, None, {"h": "x"}])
def test_rules_are_a_list(rules: Any) -> None:
    assert told(rules).startswith("rules: ")


def test_what_is_no_rule_or_no_limits_is_told() -> None:
    assert told([Rule("h", False), "h"]).startswith("rules[1]: 'h' is not a Rule")
    assert told([], [("x", 5)]).startswith("limits: ")


def test_a_table_survives_pickling_and_copying() -> None:
    table = RuleTable([Rule("h/{v}", "u-{v}", methods=["GET"])], {"u-{v}": {"rate": 5, "max_wait": 3}})
    for twin in (pickle.loads(pickle.dumps(table)), copy.deepcopy(table)):
        assert twin.match("GET", "https://h/7") == table.match("GET", "https://h/7")
        assert twin.resolve("POST", "https://h/7") is None
        assert twin.rules == table.rules
    match = table.match("GET", "https://h/7")
    assert pickle.loads(pickle.dumps(match)) == match


def test_a_table_is_not_changed_by_what_it_was_built_from() -> None:
    setting: dict[str, Any] = {"rate": 5}
    given: dict[str, Any] = {"x": setting}
    table = RuleTable(iter([Rule("h", "x")]), given)
    setting["rate"], given["x"] = "nonsense", 0
    match = table.match("GET", "https://h/")
    assert match is not None
    assert match.rate_limit == 5


def test_threads_share_a_table() -> None:
    table = RuleTable([Rule("h/{v}", "u-{v}")], {"u-{v}": 5})
    urls = [f"https://h/{number % 2000}" for number in range(6000)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda url: table.resolve("GET", url), urls)) == [f"u-{n % 2000}" for n in range(6000)]


class TestNames:
    """From a limit's name back to the limit."""

    def test_a_name_leads_to_its_limit_or_template(self) -> None:
        """A concrete name of a template leads to the template; what no limit is called, nowhere."""
        table = RuleTable([Rule("*/{user}", "user-{user}")], {"user-{user}": 10, "search": 5})
        assert [table.limit_named(name) for name in ("search", "user-42", "user-", "other")] == [
            "search", "user-{user}", None, None,
        ]  # fmt: skip
        assert [table.is_template(limit) for limit in table.limits] == [True, False]
