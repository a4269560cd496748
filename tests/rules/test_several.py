"""Rules that name several limits, and what a rule says of cost and headroom."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from nekkar.core.errors import ConfigurationError
from nekkar.rules import Rule, RuleTable

LIMITS = {
    "write": "80/minute; 500/hour",
    "github": {"rate": "5000/hour", "headers": "github", "refused": [403], "headroom": 0.1, "max_wait": 9},
    "user-{user}": {"rate": "9/second", "spacing": 0.1},
    "key-{header:X-Key}": 5,
}


def test_a_match_has_each_limit_with_its_settings() -> None:
    """In the rule's order; it is itself the first."""
    table = RuleTable([Rule("h", ["write", "github"], cost={"calls": 2}, headroom=0.2)], LIMITS)
    for made in (table, pickle.loads(pickle.dumps(table))):
        match = made.match("GET", "https://h/")
        assert match is not None
        assert match.names == ("write", "github")
        assert (match.name, made.resolve("GET", "https://h/")) == ("write", "write")
        assert (match.cost, match.headroom) == ({"calls": 2}, 0.2)
        first, second = match.parts
        assert (first.rate_limit, first.limit, first.headers, first.refused) == (
            "80/minute; 500/hour",
            "write",
            False,
            (),
        )
        assert (second.name, second.options, second.headers) == ("github", {"max_wait": 9}, "github")
        assert (second.refused, second.own_headroom) == ((403,), 0.1)


def test_each_name_is_filled() -> None:
    """By the URL, by headers; a list of one is one."""
    rules = [Rule("h/{user}", ["user-{user}", "key-{header:X-Key}", "write"]), Rule("g/{user}", ["user-{user}"])]
    table = RuleTable(rules, LIMITS)
    match = table.match("GET", "https://h/7", {"x-key": "s"})
    assert match is not None
    assert match.names[0] == "user-7"
    assert match.names[1].startswith("key-0")
    assert match.names[2] == "write"
    assert [part.limit for part in match.parts] == ["user-{user}", "key-{header:X-Key}", "write"]
    one = table.match("GET", "https://g/7")
    assert one is not None
    assert (one.names, one.parts) == (("user-7",), (one,))


def test_a_rule_without_cost_and_headroom_says_nothing() -> None:
    match = RuleTable([Rule("h", "write")], LIMITS).match("GET", "https://h/")
    assert match is not None
    assert (match.cost, match.headroom, match.meter) == (None, None, None)


def test_an_explanation_tells_each_limit_and_the_cost() -> None:
    told = str(RuleTable([Rule("h", ["write", "github"], cost=3, headroom=0.5)], LIMITS).explain("GET", "https://h/"))
    for text in ("limit 'write'", "limit 'github'", "refused = [403]", "headroom = 0.1", "cost 3", "headroom 0.5"):
        assert text in told


def test_a_rule_is_a_value_with_its_cost() -> None:
    """Equal, hashable, picklable, and not changed by what it was made of."""
    cost = {"tokens": 5}
    rule = Rule("h", iter(["a", "b"]), cost=cost, headroom=0)
    cost["tokens"] = 7
    assert (rule.limit, rule.limits, rule.cost, rule.headroom) == (("a", "b"), ("a", "b"), {"tokens": 5}, 0.0)
    assert pickle.loads(pickle.dumps(rule)) == rule
    assert len({rule, Rule("h", ["a", "b"], cost={"tokens": 5}, headroom=0.0), Rule("h", ["a", "b"])}) == 2
    assert repr(rule) == "Rule(url='h', limit=('a', 'b'), methods=None, cost={'tokens': 5}, headroom=0.0)"
    assert Rule("h", False).limits == ()


@pytest.mark.parametrize(
    "bad",
    [
        {"cost": 0}, {"cost": True}, {"cost": 1.5}, {"cost": "3"}, {"cost": {}}, {"cost": {"tokens": -1}},
        {"cost": {"tokens": True}}, {"cost": {"a b": 1}}, {"cost": {5: 1}}, {"headroom": 1}, {"headroom": -0.1},
        {"headroom": True}, {"headroom": "0.2"}, {"headroom": float("nan")}, {"limit": []}, {"limit": ["x", "x"]},
        {"limit": ["x", False]}, {"limit": [["x"]]}, {"limit": {"x": 1}},
    ],
)  # fmt: skip
def test_what_can_be_no_rule_is_refused_with_its_url(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"url 'h/a': "):
        Rule(**{"url": "h/a", "limit": "x", **bad})


def test_a_cost_is_of_units_that_one_of_the_limits_counts() -> None:
    """Each unit goes to those that count it, calls to all."""
    limits = {"calls": 5, "tokens": "100 tokens/minute", "points": "9 points/minute"}
    RuleTable([Rule("h", ["calls", "tokens"], cost={"calls": 5, "tokens": 100})], limits)
    RuleTable([Rule("h", "tokens", cost={"calls": 7, "tokens": 0})], limits)
    for cost in ({"points": 1}, {"calls": 6}, {"tokens": 101}):
        with pytest.raises(ConfigurationError, match=r"rules\[0\]: cost"):
            RuleTable([Rule("h", ["calls", "tokens"], cost=cost)], limits)


class Mine:
    """A meter of one's own."""

    def estimate(self, request: Any) -> dict[str, int]:
        return {}

    def measure(self, response: Any) -> dict[str, int] | None:
        return None


def test_a_meter_is_a_name_or_an_object_with_both_methods() -> None:
    mine = Mine()
    table = RuleTable([Rule("h", "x")], {"x": {"rate": 5, "meter": mine}})
    match = table.match("GET", "https://h/")
    assert match is not None
    assert match.meter is mine
    for meter in (Mine, object(), "x", 5):
        with pytest.raises(ConfigurationError, match=r"limits\['x'\]: meter"):
            RuleTable([], {"x": {"rate": 5, "meter": meter}})


def test_dialects_of_a_table_are_part_of_it() -> None:
    """Given in Python as in a file, kept through pickling, and compared."""
    mine = {"mine": {"limit": "X-L", "remaining": "X-R"}}
    rules, limits = [Rule("h", "x")], {"x": {"rate": 5, "headers": "mine"}}
    table = RuleTable(rules, limits, dialects=mine)
    file = {"limits": limits, "rules": [{"url": "h", "limit": "x"}], "dialects": mine}
    assert table == RuleTable.from_dict(file) == pickle.loads(pickle.dumps(table))
    assert table != RuleTable(rules, limits, dialects={**mine, "other": {"used": "X-U"}})
    match = table.match("GET", "https://h/")
    assert match is not None
    assert match.headers == "mine"
    mine["mine"]["limit"] = "changed"
    assert table.dialects["mine"]["limit"] == "X-L"
