"""Limits that are named by a field of the request's JSON body."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekkar.core.errors import ConfigurationError
from nekkar.rules import Rule, RuleTable
from tests.support.internals.rules import MOST_BODY, Body

URL = "https://api.openai.com/v1/chat/completions"
TABLE = RuleTable(
    [
        Rule("api.openai.com/v1/*", "tier-{json:model}-{json:options.tier}", methods=["POST"]),
        Rule("api.openai.com/v1/*", "openai-{json:model}"),
        Rule("api.openai.com", "rest"),
    ],
    {"tier-{json:model}-{json:options.tier}": 5, "openai-{json:model}": 5, "rest": 5},
)


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"model": "gpt-5"}', "openai-gpt-5"),
        (b'{"model": "gpt-5", "options": {"tier": 2}}', "tier-gpt\\x2d5-2"),
        (b'{"model": "a-b", "options": {"tier": true}}', "tier-a\\x2db-true"),
        ('{"model": "gpt-5"}', "openai-gpt-5"),
        (bytearray(b'{"model": "x"}'), "openai-x"),
        ('{"model": "é"}'.encode("utf-16"), "openai-é"),
        (b'{"model": 7}', "openai-7"),
        (b'{"model": 1.50}', "openai-1.50"),
        (b'{"model": false}', "openai-false"),
        (b'{"model": ""}', "rest"),
        (b'{"model": null}', "rest"),
        (b'{"model": NaN}', "rest"),
        (b'{"model": ["gpt-5"]}', "rest"),
        (b'{"model": {"name": "gpt-5"}}', "rest"),
        (b'{"Model": "gpt-5"}', "rest"),
        (b'[{"model": "gpt-5"}]', "rest"),
        (b"model=gpt-5", "rest"),
        (b"", "rest"),
        (b"\xff\xfe", "rest"),
        (b"[" * 100_000, "rest"),
        (b'{"model": ' + b"9" * 5000 + b"}", "rest"),
        (b'{"model": "gpt-5"' + b" " * MOST_BODY + b"}", "rest"),
        (None, "rest"),
        (iter([b'{"model": "gpt-5"}']), "rest"),
        (5, "rest"),
    ],
)
def test_a_field_names_a_limit_and_without_it_the_next_rule_is_tried(body: object, name: str) -> None:
    """Text, numbers and booleans name; all else is as if it were not there."""
    assert TABLE.resolve("POST", URL, None, body) == name
    assert TABLE.resolve("POST", URL, body=body) == name


def test_without_a_field_and_without_another_rule_nothing_matches() -> None:
    """The table says what becomes of such a request; the error tells what was lacking."""
    table = RuleTable([Rule("h", "{json:model}")], {"{json:model}": 5}, unmatched="error")
    assert table.match("POST", "https://h/") is None
    with pytest.raises(
        ConfigurationError, match=r"rules\[0\], 'h', whose limit needs a field that the JSON body lacks"
    ):
        table.route("POST", "https://h/")
    match = table.route("POST", "https://h/", None, b'{"model": "m"}')
    assert match is not None
    assert match.name == "m"


@given(st.binary(max_size=200) | st.text(max_size=200) | st.none())
def test_no_body_raises(body: object) -> None:
    """Whatever the user sends."""
    assert TABLE.resolve("POST", URL, None, body)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["model", "options", "tier"]), inner),
)


@given(JSON)
def test_other_values_give_other_names(value: object) -> None:
    """A name is never empty, and a text that names is its name."""
    name = TABLE.resolve("GET", URL, None, json.dumps({"model": value}))
    if isinstance(value, str) and value.isalnum() and len(value) < 100:
        assert name == f"openai-{value}"
    elif not isinstance(value, str | bool | int | float):
        assert name == "rest"


def test_a_body_is_read_only_if_a_rule_asks_for_it_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other hosts, and tables without such limits, never look at it."""
    read: list[object] = []
    loads = json.loads

    def counted(content: bytes, **more: Any) -> Any:
        read.append(content)
        return loads(content, **more)

    monkeypatch.setattr(json, "loads", counted)
    body = b'{"model": "gpt-5"}'
    plain = RuleTable([Rule("api.openai.com", "rest")], {"rest": 5})
    assert plain.resolve("POST", URL, None, body) == "rest"
    assert TABLE.resolve("POST", "https://api.openai.com/v2", None, body) == "rest"
    assert not read
    assert TABLE.resolve("POST", URL, None, body) == "openai-gpt-5"
    assert len(read) == 1
    assert (TABLE.needs_body, plain.needs_body) == (True, False)


def test_such_a_rule_hides_no_later_one_but_may_be_hidden() -> None:
    """Any number of them may stand before the same rule without."""
    limits = {"a-{json:a}": 5, "b-{json:b}": 5, "rest": 5}
    rules = [Rule("h", "a-{json:a}"), Rule("h", ["b-{json:b}", "rest"]), Rule("h", "rest")]
    table = RuleTable(rules, limits)
    bodies = (b'{"a": 1, "b": 2}', b'{"b": 2}', b"{}")
    assert [table.resolve("GET", "https://h/", None, body) for body in bodies] == ["a-1", "b-2", "rest"]
    with pytest.raises(ConfigurationError, match=r"rules\[1\]: url 'h/a' is wholly covered by rules\[0\]"):
        RuleTable([Rule("h", "rest"), Rule("h/a", "a-{json:a}")], limits)


def test_an_explanation_says_what_the_body_named_and_what_it_lacks() -> None:
    """Of each rule that would else have matched."""
    told = TABLE.explain("POST", URL, None, b'{"model": "gpt-5"}')
    assert told.number == 1
    assert dict(told.captured) == {"json:model": "gpt-5"}
    assert [str(miss) for miss in told.near] == [
        "rules[0], 'api.openai.com/v1/*': the JSON body has no field 'options.tier'"
    ]
    assert "captured {json:model} = 'gpt-5'" in str(told)
    unlimited = RuleTable([Rule("h", "{json:a}"), Rule("h", False)], {"{json:a}": 5}).explain("GET", "https://h/")
    assert (unlimited.number, unlimited.match) == (1, None)


def test_fields_stand_beside_captures_and_headers() -> None:
    """In one name, each value apart from the others."""
    limit = "{user}-{json:model}-{header:X-Key}"
    table = pickle.loads(pickle.dumps(RuleTable([Rule("h/{user}", limit)], {limit: 5})))
    name = table.resolve("GET", "https://h/ann", {}, b'{"model": "m"}')
    assert name == "ann-m-none"
    assert table.limit_named(name) == limit


@pytest.mark.parametrize("limit", ["{json:}", "{json:a.}", "{json:.a}", "{json:a b}", "{json:a}{json:b}", "{JSON:a}"])
def test_a_field_has_a_name(limit: str) -> None:
    with pytest.raises(ConfigurationError, match="limit"):
        Rule("h", limit)


def test_a_field_of_a_field_is_found_by_its_path() -> None:
    """Objects alone have fields."""
    body = Body(b'{"a": {"b": {"c": "x"}, "d": "y"}}')
    assert [body.field(path) for path in ("a.b.c", "a.d", "a.d.e", "a", "b.c", "a.b.c.d")] == [
        "x", "y", None, None, None, None,
    ]  # fmt: skip
