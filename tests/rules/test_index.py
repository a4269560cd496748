"""What a look-up costs: counts of calls, and ratios so far apart that no noise bridges them, never a time."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest

from nekkar.core.errors import ConfigurationError
from nekkar.rules import Rule, RuleTable
from tests.support.calls import calls, is_proportional, takes_at_most
from tests.support.internals.rules import CACHED, LONGEST_CACHED, check, find_cached

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
def test_ten_thousand_rules_resolve_with_hardly_more_calls_than_ten(shape: str) -> None:
    """No URL comes twice, so none is served from the cache. A scan in C would take hundreds of times the time."""
    pattern = SHAPES[shape][2]
    small, large = table_of(shape, 10), table_of(shape, N)
    few, many = (
        [[pattern.format(n=i * step % size + 1, i=i) for i in range(turn, turn + 300)] for turn in range(0, 3000, 300)]
        for step, size in ((1, 10), (33, N))
    )
    resolve_all(small, few.pop())
    resolve_all(large, many.pop())
    assert calls(lambda: resolve_all(large, many.pop())) <= 1.25 * calls(lambda: resolve_all(small, few.pop()))
    assert takes_at_most(10, lambda: resolve_all(large, many.pop()), lambda: resolve_all(small, few.pop()))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_table_is_built_in_time_proportional_to_its_rules(shape: str) -> None:
    assert is_proportional(lambda size: partial(table_of, shape, size), 50, 5000)


def letters(number: int) -> str:
    """Return a number as letters, since a method has no digits."""
    return str(number).translate(str.maketrans("0123456789", "abcdefghij"))


def ignore(where: str, what: str) -> None:
    """Report no fault, and so have all of them found."""


def checked(rules: list[Rule], limits: dict[str, Any] | None = None) -> None:
    check(dict(enumerate(rules)), limits or {}, ignore)


ODD: dict[str, Callable[[int], None]] = {
    "one url, many methods": lambda n: checked([Rule("h/a", False, methods=[letters(i)]) for i in range(n)]),
    "one url, many schemes": lambda n: checked([Rule(f"qq{letters(i)}://h/a", False) for i in range(n)]),
    "methods of one rule": lambda n: checked([Rule("h/a", False, methods=[letters(i) for i in range(n)])]),
    "unknown limits": lambda n: checked(
        [Rule(f"h{i}", f"lmt-{i}") for i in range(n)], {f"limit-{i}": 1 for i in range(n)}
    ),
    "unknown settings": lambda n: checked([], {"a": {f"rat{i}": 1 for i in range(n)}}),
    "templates that spell names": lambda n: checked(
        [Rule(f"h{i}/{{x}}", f"a{i}-{{x}}") for i in range(n)],
        {f"a{i}-{{x}}": 1 for i in range(n)} | {f"a{i}-b": 1 for i in range(n)},
    ),
    "templates of one beginning": lambda n: checked([], {f"a-{{x}}-{i}c": 1 for i in range(n)}),
    "beginnings of many lengths": lambda n: checked([], {f"{'a' * (i % 500)}{i}-{{x}}": 1 for i in range(n)}),
    "captures of one rule": lambda n: checked([Rule("h" + "".join(f"/{{a{i}}}" for i in range(n // 3)), "x")]),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_table_is_checked_in_time_proportional_to_its_size(kind: str) -> None:
    """Sound or full of faults."""
    assert is_proportional(lambda size: partial(ODD[kind], size), 20, 2000)


def test_a_long_template_takes_memory_in_proportion_to_its_length() -> None:
    """A name has a bound, and below it each character costs some bytes, not a copy of the whole name."""
    tracemalloc.start()
    try:
        checked([], {f"a{i}-{{x}}-{'b' * 900}": 1 for i in range(100)})
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("limit", "url", "about"),
    [("x" * 1001, "h", "has 1001 characters; give at most 1000"), ("x", "h/" + "a" * 8000, "give at most 8000")],
)
def test_what_is_longer_than_any_name_or_url_is_refused_with_the_bound(limit: str, url: str, about: str) -> None:
    with pytest.raises(ConfigurationError, match=about):
        Rule(url, limit)


def test_globs_with_texts_in_the_middle_meet_a_long_segment_in_time_proportional_to_both() -> None:
    """Each text is looked for once, however many lengths they have."""
    table = RuleTable([Rule(f"h/*{'p' * n}x*/{n}", False) for n in range(1, 200)])
    assert is_proportional(lambda size: partial(table.resolve, "GET", "https://h/" + "p" * size + "/1"), 2500, 250_000)


def test_a_url_seen_before_costs_a_fraction() -> None:
    table = table_of("captures", 10)
    first, second = (partial(table.resolve, "GET", "https://h.com/svc7/" + text * 900) for text in ("x/", "y/"))
    first()
    assert calls(first) <= calls(second) / 3


LONG: dict[str, Callable[[int], str]] = {
    "one segment": lambda size: "https://h/" + "a" * size,
    "segments": lambda size: "https://h/" + "a/" * (size // 2),
    "dot segments": lambda size: "https://h/" + "a/../" * (size // 5),
    "encoded": lambda size: "https://h/" + "%61" * (size // 3),
    "labels": lambda size: "https://" + "a." * (size // 2) + "x/",
    "host": lambda size: "https://" + "a" * size + ".x/",
    "unicode host": lambda size: "https://" + "".join(chr(0x4E00 + i * 7 % 9973) for i in range(size)) + ".x/",
    "accents": lambda size: "https://a" + "\u0300\u0316" * (size // 2) + ".x/",
    "invisible letters": lambda size: "https://h" + "\u00ad" * size + "/",
    "accented path": lambda size: "https://h/" + "%CC%80%CC%96" * (size // 12),
    "unicode labels": lambda size: "https://" + "ü." * (size // 2) + "x/",
    "number": lambda size: "https://" + "1" * size + "/",
    "address": lambda size: "https://[" + ":1" * (size // 2) + "]/",
    "user info": lambda size: "https://" + "a@:" * (size // 3) + "@h/",
    "query": lambda size: "https://h/?" + "a=b&" * (size // 4),
    "params": lambda size: "https://h/?" + "&".join(map(str, range(size // 6))),
    "port": lambda size: "https://h:" + "1" * size,
    "scheme": lambda size: "a" * size,
    "slashes": lambda size: "https:" + "/" * size + "\\" * size,
    "spaces": lambda size: " " * size + "x" + " " * size,
}


@pytest.mark.parametrize("kind", LONG)
def test_matching_takes_time_proportional_to_the_urls_length(kind: str) -> None:
    """All are longer than what is served from the cache."""
    patterns_ = ["h/*a*a*a*a*b", "h/*/*/*/*/*b/*", "*.a.*a*a*b", "*.x/z", "h?zz=1", "*/{v}/q"]
    table = RuleTable([Rule(pattern, "x") for pattern in patterns_], {"x": 5})
    assert is_proportional(lambda size: partial(table.resolve, "GET", LONG[kind](size)), LONGEST_CACHED + 2000, 500_000)


@pytest.mark.parametrize("kind", LONG)
def test_however_long_a_url_is_a_rule_that_covers_it_applies(kind: str) -> None:
    table = RuleTable([Rule("h", "h"), Rule("*.x", "x"), Rule("*", "all")], dict.fromkeys(["h", "x", "all"], 5))
    url = LONG[kind](100_000)
    host = re.match(r"https://(?:[^/]*@)?(h|[^/@]*\.x)\u00ad*[:/]", url)
    assert table.resolve("GET", url) == (("h" if host[1] == "h" else "x") if host else "all")


def test_what_is_remembered_is_bounded_in_number_and_length() -> None:
    table = RuleTable([Rule("h/{v}", "u-{v}")], {"u-{v}": 5})
    for number in range(3 * CACHED):
        table.resolve("GET", f"https://h/{number}")
    assert find_cached(table).cache_info().currsize == CACHED
    misses = find_cached(table).cache_info().misses
    table.resolve("GET", "https://h/" + "a" * LONGEST_CACHED)
    table.resolve("GET", f"https://h/{3 * CACHED - 1}", {"Authorization": "x"})
    assert find_cached(table).cache_info().misses == misses


@pytest.mark.parametrize("shape", ["hosts", "paths of one host", "captures"])
def test_a_new_url_costs_at_most_three_times_parting_it(shape: str) -> None:
    """``urlsplit`` tells where a URL's parts are, and no more. No URL comes twice."""
    table, pattern = table_of(shape, 10), SHAPES[shape][2]
    resolve_all(table, [pattern.format(n=n, i=f"{n}-warm") for n in range(1, 11)])
    urls = [pattern.format(n=i % 10 + 1, i=i) for i in range(200)]
    assert calls(lambda: resolve_all(table, urls)) <= 3 * calls(lambda: part_all(urls))


def resolve_all(table: RuleTable, urls: list[str]) -> None:
    for url in urls:
        assert table.resolve("GET", url) not in (None, "~", "z")


def part_all(urls: list[str]) -> None:
    for url in urls:
        urlsplit(url)
