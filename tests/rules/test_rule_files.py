"""Rule files: what a TOML file says, and what is wrong with one, each fault with its line."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nekkar.core.errors import ConfigurationError
from nekkar.rules import Fault, Match, Rule, RuleTable, faults
from tests.support.internals.core import kind_of

LIMITS = """\
[limits]
github = "5000/hour"
github-search = "30/minute"
plain = 100
"user-{user}" = { rate = "250/minute", spacing = 0.1, max_wait = 30 }

[limits.tuned]
rate = 5
period = 2.5
spacing = "even"
margin = 0.2

[[rules]]
url = "https://api.github.com/search/*"
limit = "github-search"
methods = ["GET"]

[[rules]]
url = "*.example.com/users/{user}/*"
limit = "user-{user}"

[[rules]]
url = "https://api.github.com/health"
limit = false # explicitly unlimited

[[rules]]
url = "https://api.github.com"
limit = "github"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return ``limits.toml``, not there yet, in the current folder."""
    monkeypatch.chdir(tmp_path)
    return Path("limits.toml")


def told(path: Any = "limits.toml") -> str:
    with pytest.raises(ConfigurationError) as caught:
        RuleTable.from_file(path)
    return str(caught.value)


def test_a_file_says_what_a_table_in_code_does(here: Path) -> None:
    here.write_text(LIMITS)
    table = RuleTable.from_file("limits.toml")
    assert table.rules[0] == Rule("https://api.github.com/search/*", "github-search", methods=["GET"])
    assert table.resolve("GET", "https://api.github.com/search/code?q=x") == "github-search"
    assert table.resolve("POST", "https://api.github.com/search/code") == "github"
    assert table.resolve("GET", "https://api.github.com/health") is None
    user = table.match("GET", "https://eu.example.com/users/42/orders")
    assert user == Match("user-42", table.rules[1], "250/minute", spacing=0.1, max_wait=30)
    assert table.limits["tuned"] == {"rate": 5, "period": 2.5, "spacing": "even", "margin": 0.2}
    assert table.limits["plain"] == {"rate": 100}


def test_a_file_is_given_by_any_path(here: Path) -> None:
    here.write_text(LIMITS)
    for path in (here, here.resolve(), str(here)):
        assert len(RuleTable.from_file(path).rules) == 4


@pytest.mark.parametrize("text", ["", "# nothing\n", "rules = []\n[limits]\n"])
def test_an_empty_file_limits_nothing(here: Path, text: str) -> None:
    here.write_text(text)
    assert RuleTable.from_file(here).resolve("GET", "https://h/") is None


@pytest.mark.parametrize("text", ["\ufeff" + LIMITS, LIMITS.replace("\n", "\r\n")])
def test_a_file_written_on_windows_is_read(here: Path, text: str) -> None:
    here.write_bytes(text.encode())
    assert len(RuleTable.from_file(here).rules) == 4
    here.write_bytes(f"{text}\nmore = 5".encode())
    assert [fault.line for fault in faults(here)] == [26]


def test_an_unknown_limit_is_told_with_the_file_the_rule_and_the_nearest_name(here: Path) -> None:
    here.write_text(LIMITS.replace('limit = "github"', 'limit = "githb"'))
    assert told() == "limits.toml: rules[3]: no limit named 'githb' (did you mean 'github'?)"
    assert told(here.resolve()).startswith(f"{here.resolve()}: rules[3]: ")


RULE = "[[rules]]\nurl = 'h'\nlimit = 'x'\n"

RULE_TO_NOTHING = "[[rules]]\nurl = 'h'\nlimit = false\n"

FAULTS = [
    ("[limit]\nx = 5", 1, "limit", "no key named 'limit' (did you mean 'limits'?)"),
    ("\n[[rule]]\nurl = 'h'", 2, "rule", "no key named 'rule' (did you mean 'rules'?)"),
    ("zzz.a = 1", 1, "zzz", "no key named 'zzz'; give limits, rules, unmatched, dialects"),
    ("\nunmatched = 'wran'", 2, "unmatched", "'wran' is not known; did you mean 'warn'?"),
    ("unmatched = true", 1, "unmatched", "True is not known; give ignore, warn or error"),
    ("unmached = 'warn'", 1, "unmached", "no key named 'unmached' (did you mean 'unmatched'?)"),
    ("[limits]\nunmatched = 'error'", 2, "limits['unmatched']", "put it at the top, above the first table"),
    (RULE_TO_NOTHING + "unmatched = 'error'", 1, "rules[0]", "put it at the top, above the first table"),
    ("limits = 5", 1, "limits", "5 is not a mapping"),
    ("limits = []", 1, "limits", "[] is not a mapping"),
    ("[rules]\nurl = 'h'\nlimit = false", 1, "rules", "is not a list"),
    ("rules = [5]", 1, "rules[0]", "5 is not a rule"),
    ("rules = 5", 1, "rules", "5 is not a list"),
    (RULE, 1, "rules[0]", "no limit named 'x'; give it a rate in limits"),
    ("[[rules]]\nurl = 'h'", 1, "rules[0]", "has no limit"),
    ("[[rules]]\nlimit = false", 1, "rules[0]", "has no url"),
    ("[[rules]]\nurl = 'h'\nlimit = true", 1, "rules[0]", "limit True is not a name"),
    ("[[rules]]\nurl = 'h'\nlimit = 0", 1, "rules[0]", "limit 0 is not a name"),
    ("[[rules]]\nurl = 5\nlimit = false", 1, "rules[0]", "url 5 is not a pattern"),
    ("[[rules]]\nurl = 'h'\nlimit = false\nmethods = 'GET'", 1, "rules[0]", "methods 'GET' is not a list"),
    ("[[rules]]\nurl = 'h'\nlimit = false\nmethods = []", 1, "rules[0]", "methods is empty"),
    ("[[rules]]\nurl = 'h'\nlimit = false\nmetods = ['GET']", 1, "rules[0]", "(did you mean 'methods'?)"),
    (
        "[[rules]]\nurl = 'h'\nlimit = false\n[[rules]]\nurl = 'h/a'\nlimit = false",
        4,
        "rules[1]",
        "covered by rules[0]",
    ),
    ("[limits]\ny = 1\nx = '5/fortnight'", 3, "limits['x']", "fortnight"),
    ("[limits]\nx = inf", 2, "limits['x']", "inf"),
    ("[limits]\nx = 1979-05-27", 2, "limits['x']", "1979"),
    ("[limits]\nx = { rate = 5, spacng = 1 }", 2, "limits['x']", "no setting named 'spacng' (did you mean 'spacing'?)"),
    ("[limits]\nx = { rate = 5, max_wait = nan }", 2, "limits['x']", "max_wait nan"),
    ("[limits]\nx = { spacing = 1 }", 2, "limits['x']", "no rate"),
    ("[limits]\napi.com = 5", 2, "limits['api']", "quote a limit's name that has a dot in it"),
    ("[limits]\n'a-{x}' = 5\na-b = 5", 2, "limits['a-{x}']", "can spell the name of another limit, 'a-b'"),
    ("[limits]\n'{x' = 5", 2, "limits['{x']", "brace"),
    ("# it's [\nrules = [ # ]\n]\n[limits] # {\nx = 0", 5, "limits['x']", "0"),
    ("[limits.y]\nrate = 1\n[limits.'x y']\n# no\nrate = 0", 3, "limits['x y']", "0"),
    ('limits."x" = 0', 1, "limits['x']", "0"),
    ("x = '''\n[[rules]]\n'''\n" + RULE + "[limits]\nx = 5", 1, "x", "no key named 'x'"),
    (
        "[limits]\nx = { rate = 5, headers = 'githb' }",
        2,
        "limits['x']",
        "(did you mean 'github'?); give true, or one of",
    ),
    (
        "[limits]\nx = { rate = 5, headers = 'zzz' }",
        2,
        "limits['x']",
        "no dialect named 'zzz'; give true, or one of gith",
    ),
    ("[limits]\nx = { rate = 5, headers = 1 }", 2, "limits['x']", "headers 1 are not known"),
    ("[limits]\nx = { rate = 5, refused = 403 }", 2, "limits['x']", "refused 403 is not a list"),
    ("[limits]\nx = { rate = 5, refused = [200] }", 2, "limits['x']", "200 in refused is not the status of a refusal"),
    ("[limits]\nx = { rate = 5, refused = ['403'] }", 2, "limits['x']", "'403' in refused"),
    (
        "[limits]\nx = { rate = 5, meter = 'openia' }",
        2,
        "limits['x']",
        "no meter named 'openia' (did you mean 'openai'?)",
    ),
    ("[limits]\nx = { rate = 5, meter = 3 }", 2, "limits['x']", "meter int 3 has no estimate and measure"),
    ("[limits]\nx = { rate = 5, headroom = 1 }", 2, "limits['x']", "headroom 1 is not a part"),
    ("[limits]\nx = { rate = 5, concurrency = 3 }", 2, "limits['x']", "concurrency 3 is not supported yet"),
    ("[limits]\nx = { concurrency = 3 }", 2, "limits['x']", "concurrency 3 is not supported yet"),
    ("[limits]\nx = { rate = 5, lease = 3 }", 2, "limits['x']", "lease 3 is not supported yet"),
    ("[limits]\nx = { rate = '9 tokens/h', spacing = 'even' }", 2, "limits['x']", "goes by the windows of calls"),
    (
        "[limits]\nx = 5\n" + RULE + "cost = 6",
        3,
        "rules[0]",
        "cost 6 calls is over the 5 that a window of limit 'x' has",
    ),
    ("[limits]\nx = 5\n" + RULE + "cost = 0", 3, "rules[0]", "cost 0 is out of bounds"),
    ("[limits]\nx = 5\n" + RULE + "cost = {}", 3, "rules[0]", "cost {} has no unit"),
    ("[limits]\nx = 5\n" + RULE + "cost = { 'a b' = 1 }", 3, "rules[0]", "unit 'a b', which is not an identifier"),
    ("[limits]\nx = 5\n" + RULE + "cost = { calls = -1 }", 3, "rules[0]", "cost in calls -1 is out of bounds"),
    (
        "[limits]\nx = 5\n" + RULE + "cost = { tokens = 1 }",
        3,
        "rules[0]",
        "no unit named 'tokens'; its limit counts calls",
    ),
    (
        "[limits]\nx = '5 tokens/s'\n" + RULE + "cost = { token = 1 }",
        3,
        "rules[0]",
        "no unit named 'token' (did you mean 'tokens'?)",
    ),
    ("[limits]\nx = '5 tokens/s'\n" + RULE + "cost = { tokens = 6 }", 3, "rules[0]", "cost 6 tokens is over the 5"),
    ("[limits]\nx = 5\n" + RULE + "headroom = -0.1", 3, "rules[0]", "headroom -0.1 is not a part"),
    ("[limits]\nx = 5\n[[rules]]\nurl = 'h'\nlimit = []", 3, "rules[0]", "limit [] names no limit"),
    ("[limits]\nx = 5\n[[rules]]\nurl = 'h'\nlimit = ['x', 'x']", 3, "rules[0]", "names 'x' twice"),
    ("[limits]\nx = 5\n[[rules]]\nurl = 'h'\nlimit = ['x', 5]", 3, "rules[0]", "limit 5 is not a name"),
    (
        "[limits]\nx = 5\n[[rules]]\nurl = 'h'\nlimit = ['x', 'xx']",
        3,
        "rules[0]",
        "no limit named 'xx' (did you mean 'x'?)",
    ),
    ("[dialects.a]\nlimt = 'X'\nlimit = 'Y'", 1, "dialects['a']", "no key named 'limt' (did you mean 'limit'?)"),
    ("\n[dialects.a]\nreset = 'X'", 2, "dialects['a']", "names no header for limit, remaining or used"),
    ("[dialects.a]\nlimit = 'X Y'", 1, "dialects['a']", "limit 'X Y' is not the name of a header"),
    ("[dialects.a]\nlimit = 'X'\nunit = 'a b'", 1, "dialects['a']", "unit 'a b' is not an identifier"),
    ("[[dialects.a]]\nlimit = 'X'\n[[dialects.a]]\nunit = 't'", 3, "dialects['a'][1]", "names no header"),
    ("[dialects]\nb.limit = 'X'\na = [{ unit = 't' }]", 3, "dialects['a'][0]", "names no header"),
    ("[dialects]\na = []", 2, "dialects['a']", "has no table"),
    ("[dialects]\na = 5", 2, "dialects['a']", "5 is not a table"),
    ("dialects = 5", 1, "dialects", "5 is not a mapping"),
    (f"[limits]\nx = 1\n{'a' * 90} = 0", 3, f"limits['{'a' * 59}…{'a' * 14}']", "0"),
]


@pytest.mark.parametrize(("text", "line", "where", "about"), FAULTS)
def test_a_fault_is_told_with_its_line_by_the_checker_and_with_the_file_by_the_table(
    here: Path, text: str, line: int, where: str, about: str
) -> None:
    here.write_text(text)
    (fault,) = (fault for fault in faults(here) if about in fault.message)
    assert (fault.line, fault.where) == (line, where)
    assert str(fault) == f"line {line}: {where}: {fault.message}"
    assert told() == f"limits.toml: {where}: {fault.message}"


def test_the_checker_finds_every_fault_at_once(here: Path) -> None:
    """Each part of a rule and each setting is checked for itself, and the sound rules against each other."""
    here.write_text(
        """\
extra = "[[rules]]"
[limits]
a = { rate = "5/fortnight", spacing = -1, max_wait = -1, margin = 0, more = 1 }
b = 5
"u-{v}" = 5
"u-{w}" = 5
u-1 = 5
[[rules]]   # [[rules]]
url = "h/{"
limit = "c"
methods = ["G T"]
why = \"\"\"
[[rules]]
\"\"\"
[[rules]]
url = "h"
limit = "b"
[[ rules ]]
url = "h/a"
limit = "bb"
["rules"]
""".replace('["rules"]\n', '[["rules"]]\nurl = "h2"\nlimit = "u-{v}"\n')
    )
    found = [(fault.line, fault.where, fault.message) for fault in faults(here)]
    expected = [
        (1, "extra", "no key"),
        (3, "limits['a']", "no setting named 'more'"),
        (3, "limits['a']", "fortnight"),
        (3, "limits['a']", "spacing -1"),
        (3, "limits['a']", "margin 0"),
        (3, "limits['a']", "max_wait -1"),
        (5, "limits['u-{v}']", "'u-{w}'"),
        (5, "limits['u-{v}']", "'u-1'"),
        (8, "rules[0]", "no key named 'why'"),
        (8, "rules[0]", "'G T' in methods"),
        (8, "rules[0]", "brace"),
        (8, "rules[0]", "no limit named 'c'"),
        (18, "rules[2]", "no limit named 'bb' (did you mean 'b'?)"),
        (18, "rules[2]", "covered by rules[1]"),
        (21, "rules[3]", "asks for {v}"),
    ]
    assert [(line, where) for line, where, _ in found] == [(line, where) for line, where, _ in expected]
    assert all(about in message for (*_, about), (*_, message) in zip(expected, found, strict=True))


def test_a_sound_file_has_no_fault(here: Path) -> None:
    here.write_text(LIMITS)
    assert faults(here) == []


@pytest.mark.parametrize(
    ("content", "line", "about"),
    [
        (b"[limits]\nx = \n", 2, "is not TOML: Invalid value (column 5)"),
        (b"[limits]\nx = 5\nx = 6\n", 3, "Cannot overwrite a value"),
        (b"[limits", None, "is not TOML"),
        (b"[limits]\nx = '\xff'\n", 2, "byte 0xff is not UTF-8"),
        ("[limits]\nx = 5".encode("utf-16"), 1, "byte 0xff is not UTF-8"),
        (b"x = " + b"[" * 100_000, None, "nested too deeply"),
        (b"x = " + b"9" * 5000, None, "is not TOML"),
        (b"x = 1\0", 1, "is not TOML"),
    ],
)
def test_what_is_no_toml_is_told_with_the_file_and_the_line(here: Path, content: bytes, line: int, about: str) -> None:
    here.write_bytes(content)
    (fault,) = faults(here)
    assert (fault.line, fault.where) == (line, "")
    assert about in fault.message
    assert told() == f"limits.toml: {fault}"
    assert len(told()) < 500


@pytest.mark.parametrize(("path", "about"), [("none.toml", "No such file"), (".", "directory"), ("a\0b", "null")])
def test_a_file_that_can_not_be_read_is_told_with_its_name(here: Path, path: str, about: str) -> None:
    assert told(path).startswith(f"{path}: can't be read: ")
    assert about in told(path)
    (fault,) = faults(path)
    assert (fault.line, str(fault)) == (None, fault.message)


def test_a_file_without_an_end_is_refused_at_the_bound() -> None:
    """It is not read into memory whole."""
    if not Path("/dev/zero").exists():
        pytest.skip("no such file on this system")
    assert told("/dev/zero").startswith("/dev/zero: has over 16,000,000 bytes")


@pytest.mark.parametrize(
    ("head", "line"), [("a" + ".a" * 5000, 1), ('"a" . ' * 5000 + "b", 1), ("x = 1\n[a" + ".'b'" * 5000 + "]\ny", 2)]
)
def test_a_key_of_many_parts_is_refused_before_the_parser_reads_it(here: Path, head: str, line: int) -> None:
    """The parser takes quadratic time and memory over one: 1.6 GB for 20,000 parts."""
    here.write_text(f"{head} = 1")
    assert told() == f"limits.toml: line {line}: has a key of over 100 parts; a rule file needs two levels"


def test_a_host_of_many_labels_is_no_long_key(here: Path) -> None:
    """Dots inside a text are not looked at."""
    host = ".".join("a" * 127)
    here.write_text(f"[[rules]]\nurl = '{host}'\nlimit = false\n")
    assert RuleTable.from_file(here).explain("GET", f"https://{host}/").number == 0


@pytest.mark.parametrize("path", [None, 5, ["limits.toml"], {"limits": {}}])
def test_what_is_no_path_is_refused(path: Any) -> None:
    """A number would be an open file of this process."""
    assert told(path) == f"path must be a str or a Path such as 'limits.toml', got {kind_of(path)}"
    with pytest.raises(ConfigurationError, match="must be a str or a Path"):
        faults(path)


def test_an_error_keeps_its_cause(here: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        RuleTable.from_file(here)
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_mapping_is_read_as_a_file_is() -> None:
    given: dict[str, Any] = {"limits": {"u-{v}": 5}, "rules": [{"url": "h/{v}", "limit": "u-{v}"}]}
    assert RuleTable.from_dict(given).resolve("GET", "https://h/7") == "u-7"
    given["rules"].append({"url": "h/{v}/a", "limit": "u-{w}"})
    with pytest.raises(ConfigurationError, match=r"^rules\[1\]: no limit named 'u-{w}' \(did you mean 'u-{v}'\?\)$"):
        RuleTable.from_dict(given)


@pytest.mark.parametrize("mapping", [None, 5, [], "x", {"rules": None}, {"rules": [None]}, {"rules": {}}, {5: 5}])
def test_a_mapping_of_no_such_form_is_refused(mapping: Any) -> None:
    with pytest.raises(ConfigurationError):
        RuleTable.from_dict(mapping)


KEYS = st.sampled_from(["limits", "rules", "url", "limit", "methods", "rate", "x", "h", 5, "u-{v}"])
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | KEYS
TREES = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))


@given(st.dictionaries(KEYS, TREES, max_size=3))
def test_whatever_a_mapping_holds_is_a_table_or_a_configuration_error(mapping: Any) -> None:
    with suppress(ConfigurationError):
        RuleTable.from_dict(mapping)


ODD_LINES = ["x = '''", "'''", "y = [", "]", "a-b = 0 # [[rules]]", "[[rules]]", "[limits.'x']", "rate = 0"]


@given(st.lists(st.sampled_from([*LIMITS.splitlines(), *ODD_LINES])))
def test_the_checker_and_the_table_are_of_one_mind(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    """Whatever lines a file has: faults where the table refuses it, and each line is one of the file's."""
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text("\n".join(lines))
    found = faults(path)
    assert all(fault.line is None or 1 <= fault.line <= len(lines) + 1 for fault in found)
    if found:
        texts = [str(fault if not fault.where else replace(fault, line=None)) for fault in found]
        assert told(path).removeprefix(f"{path}: ") in texts
    else:
        RuleTable.from_file(path)


def test_a_fault_is_a_value() -> None:
    assert Fault(3, "rules[1]", "is bad") == Fault(3, "rules[1]", "is bad")
    assert str(Fault(None, "", "is bad")) == "is bad"
