"""The names of limits: safe, stable, never one name for two values, and never a secret."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from nekkar.core.errors import ConfigurationError
from nekkar.core.limiter import Nekkar
from nekkar.rules import Match, Rule, RuleTable
from tests.support.internals.rules import find_cached, read_template
from tests.support.internals.shared import cache_key

ONE = RuleTable([Rule("h/{v}", "u-{v}")], {"u-{v}": 5})
TWO = RuleTable([Rule("h/{v}/{w}", "u-{v}-x{w}")], {"u-{v}-x{w}": 5})
KEYED = RuleTable([Rule("h/{v}/*", "{v}-{header:Authorization}-x")], {"{v}-{header:Authorization}-x": 5})
SECRET = "Bearer sk-0123456789"
HASH = hashlib.sha256(SECRET.encode()).hexdigest()[:16]

ODD = st.sampled_from("-x\\u2d#a \n\0\x85é\u2028/%\U0001f600")
VALUES = st.text(ODD, min_size=1, max_size=300) | st.text(min_size=1)


def named(table: RuleTable, *values: str) -> str:
    name = table.resolve("GET", "https://h/" + "/".join(quote(value, safe="") for value in values))
    assert name is not None
    return name


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("Ann", "u-Ann"),
        ("a b", "u-a b"),
        ("100%", "u-100%"),
        ("a/b", "u-a/b"),
        ("café", "u-café"),
        ("\U0001f600", "u-\U0001f600"),
        ("a-b", "u-a-b"),
        ("a\nb\0", "u-a\\x0ab\\x00"),
        ("a\\b", "u-a\\x5cb"),
        ("\x85\u2028", "u-\\x85\\u2028"),
        ("a" * 200, "u-" + "a" * 200),
        ("a" * 201, "u-" + "a" * 64 + "\\#" + hashlib.sha256(b"a" * 201).hexdigest()[:32]),
    ],
)
def test_a_captured_value_is_readable_in_the_name_and_can_not_confuse(value: str, name: str) -> None:
    """Names go into logs, errors and status lines."""
    assert named(ONE, value) == name


@given(VALUES.filter(lambda value: value not in (".", "..")))
def test_a_name_is_short_on_one_line_and_gives_a_key_that_every_cache_takes(value: str) -> None:
    """memcached takes 250 printable ASCII characters without a space, of which a ledger adds some."""
    name = named(ONE, value)
    assert len(name.splitlines()) == 1
    assert not set(name) & set(map(chr, [*range(32), *range(127, 160)]))
    assert len(name) <= 10 * 200 + 2
    assert name.encode().decode() == name
    key = cache_key(name)
    assert len(key) <= 220
    assert key.isascii()
    assert key.isprintable()
    assert " " not in key


@given(VALUES, VALUES, VALUES, VALUES)
def test_two_different_captures_never_give_one_name(v: str, w: str, other_v: str, other_w: str) -> None:
    for template, one, other in (
        ("u-{v}", {"v": v}, {"v": other_v}),
        ("u-{v}-x{w}", {"v": v, "w": w}, {"v": other_v, "w": other_w}),
        ("{v}x{w}-", {"v": v, "w": w}, {"v": other_v, "w": other_w}),
    ):
        fill = read_template(template).fill
        assert (fill(one) == fill(other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a-x", "b"), ("a", "xb-x")),
        (("a", "b-xc"), ("a-xb", "c")),
        (("a-", "b"), ("a", "-b")),
        (("\\x2d", "b"), ("-", "b")),
        (("a" * 201, "b"), (named(TWO, "a" * 201, "b")[2:-3], "b")),
    ],
)
def test_what_parts_two_captures_can_not_be_forged(one: tuple[str, str], other: tuple[str, str]) -> None:
    """A fixed bug: ``{org}-{user}`` put (a-b, c) and (a, b-c) under one limit."""
    assert named(TWO, *one) != named(TWO, *other)


def test_bytes_that_are_no_text_are_not_the_text_of_their_escape() -> None:
    r"""A fixed bug: the byte FF and the text ``\udcff`` were one limit."""
    assert ONE.resolve("GET", "https://h/%FF") != ONE.resolve("GET", "https://h/%5Cudcff")


def test_a_name_that_reads_as_a_hash_has_a_key_of_its_own() -> None:
    """A fixed bug: a capture could be spelled as the key of a name that a cache does not take."""
    long = "é" * 300
    assert cache_key(cache_key(long).removeprefix("nekkar:")) != cache_key(long)


def test_a_name_is_the_same_in_every_process_and_version() -> None:
    """The fleet shares it, and deploys one after the other."""
    assert named(TWO, "a-\n", "-\u2028") == "u-a\\x2d\\x0a-x-\\u2028"
    assert cache_key(named(ONE, "a b")) == "nekkar:#" + hashlib.sha256(b"u-a b").hexdigest()


# By header


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": SECRET},
        {"authorization": SECRET, "Accept": "x"},
        {"AUTHORIZATION": SECRET.encode()},
        {b"authorization": SECRET.encode()},
        {"Authorization": f" {SECRET} "},
        CaseInsensitiveDict({"authorization": SECRET}),
        httpx.Headers({"authorization": SECRET}),
    ],
)
def test_a_header_is_in_the_name_as_a_hash_whatever_the_mapping(headers: Mapping[Any, Any]) -> None:
    assert KEYED.resolve("GET", "https://h/a", headers) == f"a-{HASH}-x"
    match = KEYED.match("GET", "https://h/a", headers)
    assert match == Match(f"a-{HASH}-x", KEYED.rules[0], 5)


NAMED_ALIKE = {"Authorization-Info": "x", "X-Authorization": "x", "Author": "x"}


@pytest.mark.parametrize("headers", [None, {}, NAMED_ALIKE, {"Authorization": ""}, {"Authorization": None}])
def test_requests_without_the_header_share_one_limit(headers: Any) -> None:
    assert KEYED.resolve("GET", "https://h/a", headers) == "a-none-x"


def test_each_value_of_a_header_is_a_limit_of_its_own_whatever_was_looked_up_before() -> None:
    """The look-up of a URL is remembered; its headers are those of each request."""
    names = [KEYED.resolve("GET", "https://h/a", {"Authorization": f"Bearer {key}"}) for key in "abab"]
    assert names[:2] == names[2:]
    assert len(set(names)) == 2
    twice = {"X-A": "1", "x-a": "2"}
    table = RuleTable([Rule("h", "{header:X-A}")], {"{header:X-A}": 5})
    assert table.resolve("GET", "https://h", twice) == hashlib.sha256(b"1, 2").hexdigest()[:16]


def test_headers_change_nothing_where_no_limit_asks_for_one() -> None:
    assert ONE.match("GET", "https://h/a", {"Authorization": SECRET}) is ONE.match("GET", "https://h/a")


def test_headers_that_are_no_mapping_are_refused_without_being_shown() -> None:
    with pytest.raises(ConfigurationError, match="a list is not a mapping") as caught:
        KEYED.resolve("GET", "https://h/a", [("Authorization", SECRET)])  # type: ignore[arg-type]
    assert "sk-" not in str(caught.value)


def test_the_secret_is_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """Not in a name, a repr, an explanation, an error, a log, nor in what the table remembers."""
    headers = {"Authorization": SECRET}
    caplog.set_level(logging.DEBUG)
    match = KEYED.match("GET", "https://h/a", headers)
    assert match is not None
    limiter = Nekkar()
    limiter(match.name, match.rate_limit)
    with pytest.raises(ConfigurationError) as caught:
        limiter(match.name, 6)
    explanation = KEYED.explain("GET", "https://h/a", headers)
    seen = [match, explanation, str(explanation), find_cached(KEYED)("GET", "https://h/a"), KEYED, caught.value]
    for text in map(repr, [*seen, caplog.text, cache_key(match.name)]):
        assert "sk-" not in text
        assert "0123456789" not in text
    assert HASH in str(explanation)


def test_a_header_is_no_capture_of_the_url_and_a_url_captures_none() -> None:
    RuleTable([Rule("h", "{header:X}")], {"{header:X}": 5})
    with pytest.raises(ConfigurationError, match="brace out of place"):
        Rule("h/{header:X}", "x")
    with pytest.raises(ConfigurationError, match=r"asks for \{v\}"):
        RuleTable([Rule("h", "{header:v}-{v}")], {"{header:v}-{v}": 5})
