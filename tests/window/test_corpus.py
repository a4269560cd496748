"""Bytes from anywhere: a rule file or a state is what it says, or refused by name; odd ones are kept in corpus/."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nekkar.core.errors import ConfigurationError
from nekkar.rules import RuleTable, faults
from tests.rules.test_rule_files import LIMITS
from tests.window.test_codec import check_refused_or_legal

CORPUS = Path(__file__).parents[1] / "corpus"
STATES = sorted([*CORPUS.glob("logs/*.bin"), *CORPUS.glob("states/*.bin")])  # of version 1, of version 2
RULES = sorted(CORPUS.glob("rules/*.toml"))
READ = {"empty", "full", "two-windows", "wide-times", "wide-places", "waiting", "later-release"}
READ |= {f"release-0.1-{name}" for name in ("empty", "full", "wide", "forgotten")}
URLS = [
    "https://api.github.com/search/x",
    "http://a.example.com/users/1/2?a=1",
    "//",
    "",
    "http://[::1",
    "é\udcff\0",
    "*",
]


def check_rules(path: Path) -> None:
    """See that a file is a table that takes any request, or is refused with its name and at least one fault."""
    found = faults(path)
    if found:
        with pytest.raises(ConfigurationError, match=re.escape(str(path))):
            RuleTable.from_file(path)
        return
    table = RuleTable.from_file(path)
    for url in URLS:
        table.resolve("GET", url)
        str(table.explain("GET", url))


def damaged(raw: bytes, rng: random.Random) -> bytes:
    """Return bytes with pieces cut out, doubled, moved, or put in from elsewhere."""
    for _ in range(rng.randint(1, 5)):
        start, end = sorted(rng.choices(range(len(raw) + 1), k=2))
        piece = rng.choice(
            [b"", raw[start:end] * 2, rng.randbytes(3), rng.choice([b'"', b"[", b"{", b"=", b"\n", b"'''"])]
        )
        raw = raw[:start] + piece + raw[min(end, start + 40) :]
    return raw


@pytest.mark.parametrize("path", STATES, ids=lambda path: path.stem)
def test_each_state_of_the_corpus_is_read_or_refused_as_ever(path: Path) -> None:
    """What a decoder met once, it meets again in each build; the other values are of no release, or of no limit."""
    assert check_refused_or_legal(path.read_bytes()) == (path.stem in READ)


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.stem)
def test_each_rule_file_of_the_corpus_is_refused_or_a_table(path: Path) -> None:
    """Deep, wide, in no encoding, with odd names and URLs: a ConfigurationError, or it can be used."""
    check_rules(path)


def test_the_corpus_is_there_and_small() -> None:
    """Were the folders moved, the tests above would be none."""
    assert min(len(STATES), len(RULES)) >= 15
    assert {path.stem for path in STATES} > READ
    assert sum(path.stat().st_size for path in [*STATES, *RULES]) < 64_000


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([LIMITS.encode(), *(path.read_bytes() for path in RULES)]), st.randoms(use_true_random=False))
def test_a_damaged_rule_file_is_refused_or_a_table(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, rng: random.Random
) -> None:
    """Whatever an editor, a merge or a disk did to it."""
    path = tmp_path_factory.getbasetemp() / "damaged.toml"
    path.write_bytes(damaged(raw, rng))
    check_rules(path)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")))
def test_random_bytes_are_refused_or_a_table(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    """Another program's file under that name."""
    path = tmp_path_factory.getbasetemp() / "random.toml"
    path.write_bytes(raw)
    check_rules(path)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([path.read_bytes() for path in STATES]), st.randoms(use_true_random=False))
def test_a_damaged_state_is_refused_or_legal(raw: bytes, rng: random.Random) -> None:
    """Pieces of one state in another, with no checksum that fits but by chance."""
    check_refused_or_legal(damaged(raw, rng))
