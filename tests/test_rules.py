"""Which limit a request falls under: the grammar of patterns, the checks of a table, hostile URLs, cost."""

from __future__ import annotations

import copy
import gc
import pickle
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from time import process_time
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from nekkar.core.errors import ConfigurationError, NekkarError
from nekkar.core.limiter import Nekkar
from nekkar.rules import Match, Rule, RuleTable
from nekkar.rules.patterns import read_request


def fits(pattern: str, url: str, method: str = "GET") -> bool:
    return RuleTable([Rule(pattern, "x")], {"x": 1}).resolve(method, url) == "x"


def capture(pattern: str, url: str) -> str | None:
    return RuleTable([Rule(pattern, "{v}")], {"{v}": 1}).resolve("GET", url)


GRAMMAR = [
    # a whole URL is exactly that path, with any query
    ("https://api.example.com/a", "https://api.example.com/a", True),
    ("https://api.example.com/a", "https://api.example.com/a?x=1", True),
    ("https://api.example.com/a", "https://api.example.com/a#part", True),
    ("https://api.example.com/a", "https://api.example.com/ab", False),
    ("https://api.example.com/a", "https://api.example.com/a/b", False),
    ("https://api.example.com/a", "https://api.example.com/", False),
    ("https://api.example.com/a", "https://api.example.org/a", False),
    ("https://api.example.com/a", "https://x.api.example.com/a", False),
    ("https://api.example.com/a", "https://api.example.com.evil/a", False),
    # /a is not /a/, and paths keep their case
    ("h/a", "https://h/a/", False),
    ("h/a/", "https://h/a", False),
    ("h/a/", "https://h/a/", True),
    ("h/a", "https://h/A", False),
    # * is any run inside a path segment
    ("h/a/*/c", "https://h/a/b/c", True),
    ("h/a/*/c", "https://h/a//c", True),
    ("h/a/*/c", "https://h/a/b/b/c", False),
    ("h/v*/c", "https://h/v1/c", True),
    ("h/v*/c", "https://h/v/c", True),
    ("h/v*/c", "https://h/w1/c", False),
    ("h/*.json", "https://h/a.json", True),
    ("h/*.json", "https://h/a.jsonl", False),
    ("h/*.json", "https://h/a/b.json", False),
    ("h/a*b*c", "https://h/abc", True),
    ("h/a*b*c", "https://h/a-b-b-c", True),
    ("h/a*b*c", "https://h/acb", False),
    ("h/aba*aba", "https://h/aba", False),
    ("h/a*", "https://h/abc", True),
    ("h/a*", "https://h/abc/d", False),
    # ... and inside a host label
    ("api-*.example.com", "https://api-eu.example.com/", True),
    ("api-*.example.com", "https://api-eu.x.example.com/", False),
    ("api.*.com", "https://api.example.com/", True),
    ("api.*.com", "https://api.a.b.com/", False),
    ("example.*", "https://example.org/", True),
    ("example.*", "https://example.co.uk/", False),
    # a leading *. is any subdomains, and leaves out the domain itself
    ("*.example.com", "https://a.example.com/", True),
    ("*.example.com", "https://a.b.example.com/x", True),
    ("*.example.com", "https://example.com/", False),
    ("*.example.com", "https://badexample.com/", False),
    # a trailing /* is any depth and the bare folder
    ("h/a/*", "https://h/a", True),
    ("h/a/*", "https://h/a/", True),
    ("h/a/*", "https://h/a/b/c/d", True),
    ("h/a/*", "https://h/a//b", True),
    ("h/a/*", "https://h/a?q", True),
    ("h/a/*", "https://h/ab", False),
    ("h/a/*", "https://h/", False),
    ("h/*", "https://h", True),
    ("h/*", "https://h/a/b", True),
    ("h/a/**", "https://h/a/b/c", True),
    # {name} is one whole segment or label, and not empty
    ("h/{id}", "https://h/7", True),
    ("h/{id}", "https://h/7/8", False),
    ("h/{id}", "https://h/", False),
    ("h/{id}/*", "https://h/7", True),
    ("h/{id}/*", "https://h/7/x/y", True),
    ("h/{id}/*", "https://h//x", False),
    ("{tenant}.example.com", "https://acme.example.com/x", True),
    ("{tenant}.example.com", "https://a.b.example.com/x", False),
    # no path is every path, / is only the root
    ("https://h", "https://h", True),
    ("https://h", "https://h/", True),
    ("https://h", "https://h/a/b/", True),
    ("https://h/", "https://h", True),
    ("https://h/", "https://h/?q=1", True),
    ("https://h/", "https://h/a", False),
    # * alone as the host is any host, so * is everything
    ("*", "https://h/a", True),
    ("*", "http://[::1]:81/", True),
    ("*", "no url at all", True),
    ("*", "", True),
    ("*/a", "https://x.y.z/a", True),
    ("*/a", "https://x.y.z/b", False),
    ("https://*", "http://h/", False),
    ("*:8080", "https://h:8080/", True),
    ("*:8080", "https://h/", False),
    # scheme and host ignore case; no scheme is any scheme
    ("HTTPS://API.Example.COM/a", "https://api.example.com/a", True),
    ("https://api.example.com/a", "HTTPS://API.Example.COM/a", True),
    ("API-*.example.com", "https://api-EU.example.com/", True),
    ("https://h", "http://h/", False),
    ("h", "http://h/", True),
    ("h", "wss://h/", True),
    ("http+unix://h/a", "http+unix://h/a", True),
    # default ports are normalised; no port is any port
    ("https://h:443/", "https://h/", True),
    ("https://h/", "https://h:443/", True),
    ("http://h:80", "http://h", True),
    ("h:443", "https://h", True),
    ("h:443", "http://h", False),
    ("h:80", "https://h:80", True),
    ("h", "https://h:8443/", True),
    ("h:8443", "https://h/", False),
    ("h:8443", "https://h:08443/", True),
    ("ws://h:80", "ws://h", True),
    # percent-encoding is normalised
    ("h/a", "https://h/%61", True),
    ("h/%61", "https://h/a", True),
    ("h/caf%C3%A9", "https://h/café", True),
    ("h/café", "https://h/caf%c3%a9", True),
    ("h/a%20b", "https://h/a b", True),
    ("h/a%2Ab", "https://h/a*b", True),
    ("h/a%2Ab", "https://h/axb", False),
    ("h/%7Bid%7D", "https://h/{id}", True),
    ("h/%7Bid%7D", "https://h/7", False),
    ("h/%FF", "https://h/%ff", True),
    ("h/%FF", "https://h/%FE", False),
    ("h/a/./b/../c", "https://h/a/c", True),
    # user info and fragments play no part
    ("https://h/a", "https://user:secret@h/a#b", True),
    ("https://user@h/a#top", "https://h/a", True),
    # no query is any query; ?a=1 asks for that parameter, in any order
    ("h/a?x=1", "https://h/a?x=1", True),
    ("h/a?x=1", "https://h/a?y=2&x=1&z", True),
    ("h/a?x=1", "https://h/a?x=2", False),
    ("h/a?x=1", "https://h/a?x=2&x=1", True),
    ("h/a?x=1", "https://h/a", False),
    ("h/a?x=1", "https://h/a?x", False),
    ("h/a?x=1&y=2", "https://h/a?y=2&x=1", True),
    ("h/a?x=1&y=2", "https://h/a?x=1", False),
    ("h/a?x", "https://h/a?x=5", True),
    ("h/a?x", "https://h/a?x", True),
    ("h/a?x", "https://h/a?y=x", False),
    ("h/a?x=", "https://h/a?x", True),
    ("h/a?x=", "https://h/a?x=1", False),
    ("h/a?", "https://h/a?x=1", True),
    ("h?x=1", "https://h/any/path?x=1", True),
    ("h/a?q=a%20b", "https://h/a?q=a+b", True),
    ("h/a?%71=%61", "https://h/a?q=a", True),
]


@pytest.mark.parametrize(("pattern", "url", "expected"), GRAMMAR)
def test_a_pattern_covers_what_the_grammar_says(pattern: str, url: str, expected: bool) -> None:
    assert fits(pattern, url) is expected


HOSTILE = [
    ("https://api.example.com/a", "hTTps://API.EXAMPLE.COM:443/a", True),
    ("https://api.example.com/a", "https://api.example.com./a", True),
    ("https://api.example.com./a", "https://api.example.com/a", True),
    ("https://api.example.com/a", "https://api%2Eexample.com/a", True),
    ("https://api.example.com/a", "https://user:p@api.example.com/a", True),
    ("https://api.example.com/a", "https://a@b@api.example.com/a", True),
    ("https://api.example.com", "https://api.example.com@evil/", False),
    ("evil", "https://api.example.com@evil/", True),
    ("evil", "https://api.example.com:443@evil/", True),
    ("evil", "https://evil/@api.example.com", True),
    ("evil", "https://evil?@api.example.com", True),
    ("evil", "https://evil#@api.example.com", True),
    ("api.example.com", "https://api.example.com\\@evil/", True),
    ("api.example.com", "https:\\\\api.example.com\\a", True),
    ("api.example.com", "https:///api.example.com/a", True),
    ("api.example.com", "//api.example.com/a", True),
    ("api.example.com", "api.example.com/a", True),
    ("api.example.com/a", "  https://api.example.com/a\n", True),
    ("api.example.com/abc", "https://api.exa\tmple.com/a\r\nb\tc", True),
    ("h/b", "https://h/a/../b", True),
    ("h/b", "https://h/../../b", True),
    ("h/b", "https://h/./b", True),
    ("h/b", "https://h/a/%2e%2E/b", True),
    ("h/b", "https://h/.%2e/b", True),
    ("h/b/", "https://h/b/c/..", True),
    ("h/b/", "https://h/b/.", True),
    ("h/", "https://h/a/..", True),
    ("h/b", "https://h/a/%252e%252e/b", False),
    ("h/a/*", "https://h/a/../b", False),
    ("h/a/*", "https://h/a/%2e%2e%2fb", True),
    ("h/a", "https://h//a", False),
    ("h/*/a", "https://h//a", True),
    ("h/a/b", "https://h/a%2Fb", False),
    ("h/*", "https://h/a%2Fb", True),
    ("h/a%2fb", "https://h/a%2Fb", True),
    ("h/a", "https://h/%2561", False),
    ("h/%zz", "https://h/%zz", True),
    ("http://[::1]/a", "http://[0:0:0:0:0:0:0:1]:80/a", True),
    ("http://[2001:DB8::1]:8080", "http://[2001:db8:0::1]:8080/", True),
    ("http://[::1]:81", "http://[::1]/", False),
    ("[fe80::1%25eth0]", "http://[fe80:0::1%25eth0]/", True),
    ("127.0.0.1", "http://127.1/", True),
    ("127.0.0.1", "http://0x7f.0.0.1/", True),
    ("127.0.0.1", "http://2130706433/", True),
    ("bücher.example", "https://xn--bcher-kva.example/", True),
    ("xn--bcher-kva.example", "https://BÜCHER.example/", True),
    ("*.bücher.example", "https://a.xn--bcher-kva.example/", True),
    ("api.example.com", "https://api。example．com/", True),  # noqa: RUF001
    ("api.example.com", "https://ａｐｉ.example.com/", True),  # noqa: RUF001
    ("api.example.com", "https://a\u00adpi.example.com/", True),
    ("faß.de", "https://xn--fa-hia.de/", True),
    ("faß.de", "https://fass.de/", False),
    ("h:443", "https://h:/", True),
    ("h", "https://h:99999/", True),
    ("h", "https://h:abc/", True),
    ("h:80", "https://h:abc/", False),
    ("h:80", "https://h:" + "9" * 5000, False),
    ("h:1", "https://h:\u0661/", True),
    ("h/a", "https://h/a?%", True),
]


@pytest.mark.parametrize(("pattern", "url", "expected"), HOSTILE)
def test_no_spelling_escapes_a_rule_or_slips_under_one(pattern: str, url: str, expected: bool) -> None:
    assert fits(pattern, url) is expected


NO_URLS: list[object] = ["", " ", "\0", "://", "?", "#", "/", "@", "https://", "https://:80", "https://@", "https://.."]
NO_URLS += [
    "https://[",
    "https://[::1",
    "https://]",
    "https://[x]y:z/",
    "https://[::1%]",
    "https://h:-1",
    "https://h/%",
]
NO_URLS += [
    "https://h\ud800ü/\ud800?\udcff",
    "https://ü\ud800/",
    "https://" + "ü" * 80,
    "https://1.2.3.4.5",
    "https://0x",
]
NO_URLS += ["\u3002", "https://\u3002", b"\xff", None]


@pytest.mark.parametrize("url", NO_URLS)
def test_a_url_that_is_none_is_read_as_far_as_it_can_be_and_never_raises(url: object) -> None:
    table = RuleTable(
        [Rule("h", "h"), Rule("{a}.h/{b}", "h"), Rule("*?x=1", "h"), Rule("*", "all")], {"h": 1, "all": 1}
    )
    assert table.resolve("GET", url) in ("h", "all")


@given(st.text(), st.text(alphabet="hps:/\\@#?[]%2eEfF.\t*{}x1a-ü"))
def test_no_text_at_all_raises_or_escapes_a_rule_for_everything(noise: str, url: str) -> None:
    assert fits("*", noise)
    assert fits("*", url)
    assert fits("h/*", f"https://h/{noise}")
    assert fits("h/a", f"https://h/a#{noise}")


@pytest.mark.parametrize("url", [url for _, url, _ in HOSTILE if "://" in url and not set(url) & set("\t\n")])
def test_a_url_is_read_as_what_requests_and_httpx_make_of_it(url: str) -> None:
    for made in filter(None, (_by_requests(url), _by_httpx(url))):
        assert read_request("GET", made) == read_request("GET", url)


def _by_requests(url: str) -> str | None:
    try:
        return requests.Request("GET", url).prepare().url
    except requests.RequestException:
        return None


def _by_httpx(url: str) -> str | None:
    """Leave out where httpx sends something else: a backslash in the host, no slash after a last dot segment."""
    try:
        return None if "\\" in url or url.endswith(("b/.", "c/..")) else str(httpx.URL(url))
    except httpx.InvalidURL:
        return None


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
    assert RuleTable([Rule("h/a", "x")], {"x": 1}).resolve("GET", b"https://h/a") == "x"


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


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "not a pattern"),
        (None, "not a pattern"),
        (b"https://h", "not a pattern"),
        (" ", "' '"),
        ("https://h/a b", "percent-encode"),
        ("https://h/a\n", r"'\n'"),
        ("https://h\\a", "in it"),
        ("h:0", "1 to 65535"),
        ("h:65536", "1 to 65535"),
        ("h:x", "1 to 65535"),
        ("h:*", "leave it out for any port"),
        ("h:", "1 to 65535"),
        ("h:80:90", "1 to 65535"),
        ("https:/h", "1 to 65535"),
        ("https:h", "1 to 65535"),
        ("https//h/a", "colon"),
        ("htps://h", "did you mean 'https'?"),
        ("*://h", "for a scheme"),
        ("://h", "for a scheme"),
        ("1http://h", "for a scheme"),
        ("/a", "no host"),
        ("https://", "no host"),
        ("https:///a", "no host"),
        ("https://user@/a", "no host"),
        ("a..b", "empty label"),
        (".a", "empty label"),
        ("[::1", "IPv6"),
        ("[::x]", "IPv6"),
        ("[*]", "IPv6"),
        ("h]", "IPv6"),
        ("h/{id", "brace"),
        ("h/id}", "brace"),
        ("h/a{b}c", "whole host label or path segment"),
        ("h/{b}*", "whole host label or path segment"),
        ("h/{}", "brace"),
        ("h/{a b}", "in it"),
        ("h/{1}", "brace"),
        ("{a}x.h", "brace"),
        ("h/{id}/{id}", "{id} twice"),
        ("{id}.h/{id}", "{id} twice"),
        ("bü*.h", "ASCII"),
        ("h/a?x=*", "query"),
        ("h/a?x={y}", "query"),
    ],
)
def test_a_bad_url_is_refused_where_it_is_written_with_what_was_expected(url: Any, told: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(told)) as caught:
        Rule(url, "x")
    assert repr(url) in str(caught.value)


@pytest.mark.parametrize("limit", ["", None, True, 5, b"x", "user-{", "user-}", "{}", "{a b}", "{{a}}"])
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
    assert text == "rules[1]: url 'h/b': limit 'githbu' is not defined; did you mean 'github'?"
    assert "rules[0]: url 'h/a': limit 'github' is not defined; give it a rate in limits" in told(rules)
    assert "did you mean 'user-{user}'?" in told([Rule("h/{id}", "user-{id}")], {"user-{user}": 5})


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


@pytest.mark.parametrize("name", ["", None, 5, "a{", "{}"])
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
    assert text.startswith(f"rules[2]: url {later!r} is wholly covered by rules[1], {earlier!r}")


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
        ("{a}{b}", "ab"),
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
        ("{a}{b}", "a"),
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


# Against a slow matcher that does what the grammar says, one sentence at a time

LABEL = st.sampled_from(["a", "b", "ab", "*", "a*", "*b", "{one}"])
SEGMENT = st.sampled_from(["", "a", "b", "ab", "*", "a*", "*b", "a*b", "{two}"])
SOME = {"scheme": st.sampled_from(["", "", "http://", "https://"]), "port": st.sampled_from(["", "", ":80", ":443"])}
QUERY = st.sampled_from(["", "", "?x", "?x=1", "?y=2&x=1"])


def unique(parts: list[str], name: str) -> list[str]:
    """Keep the first capture of that name; a second one would be refused."""
    return ["a" if part == name and name in parts[:at] else part for at, part in enumerate(parts)]


@st.composite
def patterns(draw: st.DrawFn) -> str:
    names = unique(draw(st.lists(LABEL, min_size=1, max_size=3)), "{one}")
    folders = unique(draw(st.lists(SEGMENT, max_size=3)), "{two}")
    host, path = ".".join(names), "".join(f"/{folder}" for folder in folders)
    return draw(SOME["scheme"]) + host + draw(SOME["port"]) + path + draw(QUERY)


@st.composite
def addresses(draw: st.DrawFn) -> tuple[str, str, int, str, str]:
    """Return scheme, host, port, path and query."""
    scheme = draw(st.sampled_from(["http", "https"]))
    names = draw(st.lists(st.sampled_from(["a", "b", "ab", "aab"]), min_size=1, max_size=4))
    folders = draw(st.lists(st.sampled_from(["", "a", "b", "ab", "acb"]), min_size=1, max_size=4))
    port = draw(st.sampled_from([80, 443, 8080]))
    query = draw(st.sampled_from(["", "x=1", "x=2", "x=1&y=2", "y=2"]))
    return scheme, ".".join(names), port, "".join(f"/{folder}" for folder in folders), query


def reference(pattern: str, address: tuple[str, str, int, str, str]) -> bool:
    found = re.fullmatch(r"(?:(\w+)://)?([^/:?]+)(?::(\d+))?(/[^?]*)?(?:\?(.*))?", pattern)
    assert found
    scheme, host, port, path, query = found.groups()
    return (
        scheme in (None, address[0])
        and re.fullmatch(host_regex(host), address[1]) is not None
        and port in (None, str(address[2]))
        and (path is None or re.fullmatch(path_regex(path), address[3]) is not None)
        and all(asked(item, address[4]) for item in (query or "").split("&"))
    )


def host_regex(host: str) -> str:
    if host == "*":
        return ".*"
    if host.startswith("*."):
        return r"(?:[^.]+\.)+" + host_regex_of_labels(host[2:])
    return host_regex_of_labels(host)


def host_regex_of_labels(host: str) -> str:
    return re.sub(r"\{\w+\}", "[^.]+", host.replace(".", r"\.").replace("*", "[^.]*"))


def path_regex(path: str) -> str:
    deep = path.endswith("/*")
    folder = re.sub(r"\{\w+\}", "[^/]+", path.removesuffix("/*" if deep else "").replace("*", "[^/]*"))
    return folder + "(?:/.*)?" * deep


def asked(item: str, query: str) -> bool:
    name, equals, value = item.partition("=")
    pairs = parse_qsl(query, keep_blank_values=True)
    return not item or any(name == key and (not equals or value == is_) for key, is_ in pairs)


@settings(max_examples=500, deadline=None)
@given(st.lists(patterns(), min_size=1, max_size=8), st.lists(addresses(), min_size=1, max_size=12))
def test_a_table_agrees_with_a_slow_matcher(texts: list[str], where: list[tuple[str, str, int, str, str]]) -> None:
    """A rule that the table calls covered is left out of it, and must then make no difference."""
    table = RuleTable(used(texts), {text: 5 for text in texts if "{" not in text} | {"x{one}": 1, "y{two}": 1})
    for address in where:
        scheme, host, port, path, query = address
        first = next((text for text in texts if reference(text, address)), None)
        match = table.match("GET", f"{scheme}://{host}:{port}{path}?{query}")
        assert (match.rule.url if match else None) == first


def used(texts: list[str]) -> list[Rule]:
    kept: list[Rule] = []
    for text in texts:
        limit = "x{one}" if "{one}" in text else "y{two}" if "{two}" in text else text
        try:
            RuleTable([*(Rule(rule.url, False) for rule in kept), Rule(text, False)])
        except ConfigurationError as error:
            if "wholly covered" not in str(error):
                raise
        else:
            kept.append(Rule(text, limit))
    return kept


# Cost: ratios within one run


def seconds(work: Callable[[], object]) -> float:
    """Return this process's own time, which other programs on the machine don't lengthen; no garbage collection."""
    gc.disable()
    start = process_time()
    work()
    spent = process_time() - start
    gc.enable()
    return spent


def ratio(much: Callable[[], object], little: Callable[[], object]) -> float:
    """Return how much longer ``much`` takes, as the median of some turns next to each other."""
    return median(seconds(much) / seconds(little) for _ in range(9))


N = 10_000
SHAPES: dict[str, tuple[str, str, str]] = {
    "hosts": ("https://api{n}.example.com/v1/*", "l{n}", "https://api{n}.example.com/v1/{i}"),
    "paths of one host": ("https://h.com/p{n}/x", "l{n}", "https://h.com/p{n}/x?{i}"),
    "captures": ("https://h.com/svc{n}/{{id}}/*", "svc{n}-{{id}}", "https://h.com/svc{n}/{i}/x"),
    "captures first": ("https://h.com/{{id}}/svc{n}", "{{id}}-svc{n}", "https://h.com/{i}/svc{n}"),
    "subdomains": ("*.svc{n}.example.com", "l{n}", "https://a.b.svc{n}.example.com/{i}"),
    "globs in labels": ("svc{n}-*.example.com", "l{n}", "https://svc{n}-x.example.com/{i}"),
    "globs in segments": ("*/a/*-{n}.json", "l{n}", "https://h/a/{i}-{n}.json"),
    "globs in the middle": ("h/*x{n}x*", "l{n}", "https://h/{i}-x{n}x-y"),
    "globs of one beginning": ("h/a*b*x{n}x*", "l{n}", "https://h/a{i}-b-x{n}x-y"),
    "queries": ("h/rpc?v=1&method=m{n}", "l{n}", "https://h/rpc?method=m{n}&v=1&i={i}"),
    "ports": ("h:{n}", "l{n}", "https://h:{n}/{i}"),
}


def table_of(shape: str, size: int) -> RuleTable:
    pattern, name, _ = SHAPES[shape]
    names = [name.format(n=n) for n in range(1, size + 1)]
    rules = [Rule(pattern.format(n=n), names[n - 1]) for n in range(1, size + 1)]
    return RuleTable([Rule("z/first", "z"), *rules, Rule("*", "~")], dict.fromkeys([*names, "z", "~"], 5))


@pytest.mark.parametrize("shape", SHAPES)
def test_ten_thousand_rules_resolve_in_at_most_three_times_the_time_of_ten(shape: str) -> None:
    """No URL comes twice, so no turn is served from the cache."""
    pattern = SHAPES[shape][2]
    small, large, turns = table_of(shape, 10), table_of(shape, N), []
    for turn in range(9):
        places = range(turn * 300, turn * 300 + 300)
        few = [pattern.format(n=i % 10 + 1, i=i) for i in places]
        many = [pattern.format(n=i * 33 % N + 1, i=i) for i in places]
        turns.append(seconds(resolving(large, many)) / seconds(resolving(small, few)))
    assert median(turns) < 3


def resolving(table: RuleTable, urls: list[str]) -> Callable[[], None]:
    def work() -> None:
        assert not {None, "~", "z"} & {table.resolve("GET", url) for url in urls}

    return work


@pytest.mark.parametrize("shape", SHAPES)
def test_a_table_is_built_in_time_proportional_to_its_rules(shape: str) -> None:
    """Four times the rules; quadratic would be sixteen times the time."""
    large, small = (min(seconds(partial(table_of, shape, size)) for _ in range(3)) for size in (4000, 1000))
    assert large / small < 10


def test_a_url_seen_before_costs_less() -> None:
    table = table_of("captures", 10)
    url = "https://h.com/svc7/" + "x/" * 900
    assert seconds(lambda: table.resolve("GET", url)) > 3 * min(
        seconds(lambda: table.resolve("GET", url)) for _ in "123"
    )


LONG: dict[str, Callable[[int], str]] = {
    "one segment": lambda size: "https://h/" + "a" * size,
    "segments": lambda size: "https://h/" + "a/" * (size // 2),
    "dot segments": lambda size: "https://h/" + "a/../" * (size // 5),
    "encoded": lambda size: "https://h/" + "%61" * (size // 3),
    "labels": lambda size: "https://" + "a." * (size // 2) + "x/",
    "host": lambda size: "https://" + "a" * size + ".x/",
    "unicode host": lambda size: "https://" + "".join(chr(0x4E00 + i * 7 % 9973) for i in range(size)) + ".x/",
    "unicode labels": lambda size: "https://" + "ü." * (size // 2) + "x/",
    "number": lambda size: "https://" + "1" * size + "/",
    "address": lambda size: "https://[" + ":1" * (size // 2) + "]/",
    "user info": lambda size: "https://" + "a@:" * (size // 3) + "h/",
    "query": lambda size: "https://h/?" + "a=b&" * (size // 4),
    "params": lambda size: "https://h/?" + "&".join(map(str, range(size // 6))),
    "port": lambda size: "https://h:" + "1" * size,
    "scheme": lambda size: "a" * size,
    "slashes": lambda size: "https:" + "/" * size + "\\" * size,
    "spaces": lambda size: " " * size + "x" + " " * size,
}


@pytest.mark.parametrize("kind", LONG)
def test_matching_takes_time_proportional_to_the_urls_length(kind: str) -> None:
    """Four times the length; quadratic would be sixteen times the time."""
    patterns_ = ["h/*a*a*a*a*b", "h/*/*/*/*/*b/*", "*.a.*a*a*b", "*.x/z", "h?zz=1", "*/{v}/q"]
    table = RuleTable([Rule(pattern, "x") for pattern in patterns_], {"x": 5})
    short, long = LONG[kind](25_000), LONG[kind](100_000)
    table.resolve("GET", long)
    assert ratio(lambda: table.resolve("GET", long), lambda: table.resolve("GET", short)) < 10
