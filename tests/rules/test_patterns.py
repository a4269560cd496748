"""What a pattern covers: the grammar, what is no pattern, and agreement with a slow, obvious matcher."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nekkar.core.errors import ConfigurationError
from nekkar.rules import Rule, RuleTable
from tests.support.internals.core import shown


def fits(pattern: str, url: str, method: str = "GET") -> bool:
    return RuleTable([Rule(pattern, "x")], {"x": 1}).resolve(method, url) == "x"


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
    ("h/a*b*c", "https://h/a-c", False),
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
    assert shown(url) in str(caught.value)


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


def reference(pattern: str, address: tuple[str, str, int, str, str]) -> dict[str, str] | None:
    """Return the captures of an address that the pattern covers, or None."""
    found = re.fullmatch(r"(?:(\w+)://)?([^/:?]+)(?::(\d+))?(/[^?]*)?(?:\?(.*))?", pattern)
    assert found
    scheme, host, port, path, query = found.groups()
    in_host = re.fullmatch(host_regex(host), address[1])
    in_path = re.fullmatch(path_regex(path), address[3]) if path else re.fullmatch("", "")
    rest = scheme in (None, address[0]) and port in (None, str(address[2]))
    if in_host and in_path and rest and all(asked(item, address[4]) for item in (query or "").split("&")):
        return in_host.groupdict() | in_path.groupdict()
    return None


def host_regex(host: str) -> str:
    if host == "*":
        return ".*"
    if host.startswith("*."):
        return r"(?:[^.]+\.)+" + host_regex_of_labels(host[2:])
    return host_regex_of_labels(host)


def host_regex_of_labels(host: str) -> str:
    return re.sub(r"\{(\w+)\}", r"(?P<\1>[^.]+)", host.replace(".", r"\.").replace("*", "[^.]*"))


def path_regex(path: str) -> str:
    deep = path.endswith("/*")
    folder = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path.removesuffix("/*" if deep else "").replace("*", "[^/]*"))
    return folder + "(?:/.*)?" * deep


def asked(item: str, query: str) -> bool:
    name, equals, value = item.partition("=")
    pairs = parse_qsl(query, keep_blank_values=True)
    return not item or any(name == key and (not equals or value == is_) for key, is_ in pairs)


METHODS = st.sampled_from([None, None, ("GET",), ("GET", "POST"), ("POST", "PUT")])
LIMITS = {"x{one}": 1, "y{two}": 1, "z{one}/{two}": 1, "plain": 1}


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.tuples(patterns(), METHODS), min_size=1, max_size=8),
    st.lists(st.tuples(st.sampled_from(["GET", "PUT"]), addresses()), min_size=1, max_size=12),
)
def test_a_table_agrees_with_a_slow_matcher(texts: Any, where: Any) -> None:
    """A rule that the table calls covered is left out of it, and must then make no difference.

    So do the name that the captures make, and the explanation: what it says nearly matched did not.
    """
    rules = [Rule(text, limit_of(text), methods=methods) for text, methods in texts]
    table = RuleTable(used(rules), LIMITS)
    for method, address in where:
        scheme, host, port, path, query = address
        matching = (rule for rule in rules if (rule.methods is None or method in rule.methods))
        found = ((rule, reference(rule.url, address)) for rule in matching)
        rule, values = next(((rule, values) for rule, values in found if values is not None), (None, {}))
        url = f"{scheme}://{host}:{port}{path}?{query}"
        assert table.resolve(method, url) == (rule and str(rule.limit).format(**values))
        told = table.explain(method, url)
        assert (told.rule, told.captured) == (rule, values)
        assert all(miss.why_not and miss.number < (told.number or len(table.rules)) for miss in told.near)


def limit_of(text: str) -> str:
    return {(True, True): "z{one}/{two}", (True, False): "x{one}", (False, True): "y{two}"}.get(
        ("{one}" in text, "{two}" in text), "plain"
    )


def used(rules: list[Rule]) -> list[Rule]:
    """Return the rules that no earlier one hides."""
    kept: list[Rule] = []
    for rule in rules:
        try:
            RuleTable([*kept, rule], LIMITS)
        except ConfigurationError as error:
            if "wholly covered" not in str(error):
                raise
        else:
            kept.append(rule)
    return kept
