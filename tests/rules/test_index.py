"""What a look-up costs: ratios within one run, never a time."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from functools import partial
from statistics import median
from time import process_time
from urllib.parse import urlsplit

import pytest

from nekkar.rules import Rule, RuleTable
from tests.support.internals import CACHED, LONGEST_CACHED


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
    """Four times the length; quadratic would be sixteen times the time."""
    patterns_ = ["h/*a*a*a*a*b", "h/*/*/*/*/*b/*", "*.a.*a*a*b", "*.x/z", "h?zz=1", "*/{v}/q"]
    table = RuleTable([Rule(pattern, "x") for pattern in patterns_], {"x": 5})
    short, long = LONG[kind](25_000), LONG[kind](100_000)
    table.resolve("GET", long)
    assert ratio(lambda: table.resolve("GET", long), lambda: table.resolve("GET", short)) < 10


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
    assert table._find_cached.cache_info().currsize == CACHED
    misses = table._find_cached.cache_info().misses
    table.resolve("GET", "https://h/" + "a" * LONGEST_CACHED)
    table.resolve("GET", f"https://h/{3 * CACHED - 1}", {"Authorization": "x"})
    assert table._find_cached.cache_info().misses == misses


@pytest.mark.parametrize("shape", ["hosts", "paths of one host", "captures"])
def test_a_new_url_costs_at_most_three_times_parting_it(shape: str) -> None:
    """``urlsplit`` tells where a URL's parts are, and no more. No URL comes twice."""
    table, pattern, turns = table_of(shape, 10), SHAPES[shape][2], []
    for turn in range(25):
        urls = [pattern.format(n=i % 10 + 1, i=i) for i in range(turn * 200, turn * 200 + 200)]
        turns.append(seconds(partial(resolve_all, table, urls)) / seconds(partial(part_all, urls)))
    assert min(turns) < 3.5  # 3, and some for a machine on which others work too


def resolve_all(table: RuleTable, urls: list[str]) -> None:
    for url in urls:
        table.resolve("GET", url)


def part_all(urls: list[str]) -> None:
    for url in urls:
        urlsplit(url)
