"""The operator's commands: status, explain, check, hold, release, reset; what they show, ask, and leave alone."""

from __future__ import annotations

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nekkar.core.cache import SqliteCache
from nekkar.core.errors import CacheError, ConfigurationError
from nekkar.core.limiter import Limit, Nekkar, Status
from tests.support.internals.caches import redacted
from tests.support.internals.cli import Table, duration, main, seconds
from tests.support.internals.cli import status as status_command
from tests.support.internals.core import monotonic
from tests.support.internals.core import quota as parse
from tests.support.internals.window import decode
from tests.support.servers import Memcached, redis_server

RULES = """\
[limits]
search = "10/second; 300/minute"
slow = { rate = "2/hour", max_wait = 30 }
"user-{user}" = "250/minute"

[[rules]]
url = "https://api.example.com/search/*"
limit = "search"
methods = ["GET"]

[[rules]]
url = "https://api.example.com/slow"
limit = "slow"

[[rules]]
url = "https://api.example.com/health"
limit = false

[[rules]]
url = "*.example.com/users/{user}/*"
limit = "user-{user}"
"""


@pytest.fixture(autouse=True)
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a rule file, where limits live in a file too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NEKKAR_CACHE", raising=False)
    Path("limits.toml").write_text(RULES)


@pytest.fixture
def limiter(monkeypatch: pytest.MonkeyPatch) -> Nekkar:
    """The fleet, in one process, on the cache of the environment."""
    monkeypatch.setenv("NEKKAR_CACHE", "sqlite:///limits.db")
    limiter = Nekkar("sqlite:///limits.db")
    limiter("search", "10/second; 300/minute").acquire(cost=4)
    return limiter


def told(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """Run a command that says nothing on stderr; return what it printed."""
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert err == ""
    return out


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    return json.loads(told(capsys, *arguments, "--json", code=code))


def fault(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> str:
    """Run a command that fails; return its one line."""
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"nekkar {arguments[0]}: ")
    return err


def stored() -> dict[str, Any]:
    """Return what is in the cache."""
    return {key: SqliteCache("limits.db").gets(f"nekkar:{key}") for key in ("search", "slow", "user-42")}


class TestStatus:
    """``nekkar status``."""

    def test_it_shows_each_window_of_each_limit_of_the_rules(
        self, limiter: Nekkar, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Templates are left out, since nobody can tell which of their limits there are."""
        lines = told(capsys, "status", "--rules", "limits.toml").splitlines()
        assert lines[0] == "Limits on sqlite:///limits.db"
        assert [line.split()[:4] for line in lines[2:]] == [
            ["search", "10/second", "4", "6"], ["300/minute", "4", "296"], ["slow", "2/hour", "0", "2"],
        ]  # fmt: skip

    def test_a_name_alone_is_enough_where_the_fleet_has_used_it(
        self, limiter: Nekkar, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The log itself tells the terms; a name of a template is known too."""
        limiter("user-42", "250/minute").acquire()
        search, user = as_json(capsys, "status", "search", "user-42")
        assert search["windows"][0] == {"limit": 10, "period": 1.0, "used": 4, "remaining": 6, "unit": "calls"}
        assert (user["name"], user["windows"][0]["used"]) == ("user-42", 1)
        assert user["last_at"] <= user["at"] <= user["next_at"]

    def test_a_limit_that_counts_by_headers_is_shown_too(
        self, limiter: Nekkar, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """``headers`` is a setting of the clients, not of the limit itself."""
        Path("headers.toml").write_text('[limits]\nsearch = { rate = "10/second; 300/minute", headers = true }\n')
        assert as_json(capsys, "status", "--rules", "headers.toml")[0]["windows"][0]["used"] == 4

    def test_a_hold_and_the_next_slot_are_shown(self, limiter: Nekkar, capsys: pytest.CaptureFixture[str]) -> None:
        """As durations from now."""
        limiter("search", "10/second; 300/minute").hold(600)
        out = told(capsys, "status", "search")
        assert "in 9m 59s" in out or "in 10m" in out
        assert "for 9m 59s" in out or "for 10m" in out
        assert " ago" in out

    def test_it_writes_nothing(self, limiter: Nekkar, capsys: pytest.CaptureFixture[str]) -> None:
        """Every limit, used or not, is as it was."""
        before = stored()
        told(capsys, "status", "--rules", "limits.toml", "search", "slow", "user-42")
        assert stored() == before

    @pytest.mark.parametrize(
        ("arguments", "code", "expected"),
        [
            ([], 2, "give the NAME of one, or --rules FILE"),
            (["nope"], 1, "limit 'nope' is not in the cache"),
            (["serch", "--rules", "limits.toml"], 2, "no limit named 'serch' (did you mean 'search'?)"),
            (["user-{user}", "--rules", "limits.toml"], 2, "is a template; name one of its limits"),
            (["search", "--every", "0.1"], 2, "--every 0.1 is out of bounds"),
            (["search", "--every", "nan"], 2, "--every nan is out of bounds"),
            (["search", "--cache", "memory:"], 2, "is not shared by processes"),
            (["search", "--cache", "sqlite:///none.db"], 2, "the file does not exist"),
            (["search", "--cache", "memcached://127.0.0.1:1"], 1, "memcached at 127.0.0.1:1"),
        ],
    )
    def test_what_cannot_be_shown_is_told(
        self, arguments: list[str], code: int, expected: str, limiter: Nekkar, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """In one line, with the remedy."""
        assert expected in fault(capsys, "status", *arguments, code=code)
        assert not Path("none.db").exists()

    def test_templates_alone_are_no_limits_to_show(self, limiter: Nekkar, capsys: pytest.CaptureFixture[str]) -> None:
        """Which of their limits there are nobody can tell."""
        Path("templates.toml").write_text('[limits]\n"user-{user}" = 5\n')
        told = fault(capsys, "status", "--rules", "templates.toml")
        assert "the rules have templates alone (user-{user}); give the NAME of one such as user-42" in told

    def test_a_value_that_is_no_log_is_told_with_its_key(
        self, limiter: Nekkar, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Another program's, perhaps: it is left as it is."""
        SqliteCache("limits.db").set("nekkar:odd", "what is this?")
        told = fault(capsys, "status", "odd", code=1)
        assert "cache key 'nekkar:odd'" in told
        assert "delete the key to start afresh" in told
        assert SqliteCache("limits.db").get("nekkar:odd") == "what is this?"

    def test_a_watch_goes_on_while_the_cache_is_away(
        self, limiter: Nekkar, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It says why, and shows the limits again once they can be read; where there is no terminal in plain lines."""
        looks, status = count(1), Limit.status

        def read(limit: Limit) -> Status:
            if next(looks) == 2:
                raise CacheError("the cache is away")
            return status(limit)

        def wait(seconds: float) -> None:
            assert seconds == 0.5
            if next(waits) == 3:
                raise KeyboardInterrupt

        waits = count(1)
        monkeypatch.setattr(Limit, "status", read)
        monkeypatch.setattr(status_command, "threading", SimpleNamespace(Event=lambda: SimpleNamespace(wait=wait)))
        first, away, again = told(capsys, "status", "search", "--watch", "--every", "0.5").split("\n\n")[:3]
        assert ("search" in first, "search" in away, "search" in again) == (True, False, True)
        assert "the cache is away" in away

    def test_without_a_cache_it_says_how_to_give_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        """By option or by the environment."""
        assert "give --cache URL, or set NEKKAR_CACHE" in fault(capsys, "status", "search")

    def test_watching_costs_at_most_two_commands_a_second_for_each_limit(self, server: Memcached) -> None:
        """Counted by the server; an interrupt ends it well."""
        limiter = Nekkar(server.url)
        for name in ("one", "other"):
            limiter(name, 10).acquire()
        command = [sys.executable, "-m", "nekkar", "status", "one", "other", "--watch", "--every", "0.5", "--json"]
        watch = subprocess.Popen(
            [*command, "--cache", server.url], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        try:
            assert watch.stdout
            assert len(json.loads(watch.stdout.readline())) == 2
            began, before = monotonic(), server.commands()
            for _ in range(4):
                watch.stdout.readline()
            lasted, commands = monotonic() - began, server.commands() - before
            watch.send_signal(signal.SIGINT)
            watch.communicate(timeout=30)
        finally:
            watch.kill()
            watch.wait()
        assert watch.returncode == 0
        assert 6 <= commands <= 2 * 2 * lasted + 2


class TestExplain:
    """``nekkar explain``."""

    def test_it_tells_rule_name_and_terms(self, capsys: pytest.CaptureFixture[str]) -> None:
        """As the table explains it; nothing about now, where there is no cache."""
        out = told(capsys, "explain", "GET", "https://eu.example.com/users/42/x", "--rules", "limits.toml")
        assert "rules[3]" in out
        assert "limit 'user-42', from 'user-{user}'" in out
        assert "now:" not in out

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("search/a", "now: the call would start at once"),
            ("slow", "now: the call would be refused: the limit is used up for"),
        ],
    )
    def test_with_a_cache_it_tells_what_would_happen_now(
        self, path: str, expected: str, limiter: Nekkar, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """By the limit's state, and its max_wait."""
        limiter("slow", "2/hour").acquire(cost=2)
        out = told(capsys, "explain", "GET", f"https://api.example.com/{path}", "--rules", "limits.toml")
        assert expected in out

    def test_a_wait_for_a_hold_is_told(self, limiter: Nekkar, capsys: pytest.CaptureFixture[str]) -> None:
        """And that it is one."""
        limiter("search", "10/second; 300/minute").hold(20)
        out = told(capsys, "explain", "GET", "https://api.example.com/search/a", "--rules", "limits.toml")
        assert "now: the call would wait" in out
        assert "s: the limit is held" in out

    def test_each_of_several_limits_and_the_body_are_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        """With the cost; in JSON ``limit`` is the first."""
        Path("several.toml").write_text(
            "[limits]\nall = 5\n'model-{json:model}' = { rate = '9/second', headers = 'openai', refused = [403] }\n"
            "[[rules]]\nurl = 'x.y'\nlimit = ['model-{json:model}', 'all']\ncost = 2\nheadroom = 0.5\n"
        )
        request = ["explain", "POST", "https://x.y/", "--rules", "several.toml"]
        out = told(capsys, *request, "--body", '{"model": "m"}')
        for text in ("captured {json:model} = 'm'", "limit 'model-m', from", "limit 'all'", "cost 2", "headroom 0.5"):
            assert text in out
        assert "the JSON body has no field 'model'" in told(capsys, *request)
        found = as_json(capsys, *request, "--body", '{"model": "m"}')
        assert found["limit"] == {"name": "model-m", "rate": "9/second", "headers": "openai", "refused": [403]}
        assert [limit["name"] for limit in found["limits"]] == ["model-m", "all"]
        assert (found["rule"]["cost"], found["rule"]["headroom"]) == (2, 0.5)

    def test_a_cache_that_is_away_does_not_keep_it_from_explaining(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The rule first, then what is wrong with the cache."""
        away = ["--cache", "memcached://127.0.0.1:1"]
        code = main(["explain", "GET", "https://api.example.com/slow", "--rules", "limits.toml", *away])
        out, err = capsys.readouterr()
        assert (code, err.count("\n")) == (1, 1)
        assert "limit 'slow'" in out
        assert err.startswith("nekkar explain: memcached at 127.0.0.1:1: ")

    def test_json_has_it_all(self, limiter: Nekkar, capsys: pytest.CaptureFixture[str]) -> None:
        """Rule, limit, near misses and status; null where there is none."""
        post = as_json(capsys, "explain", "POST", "https://api.example.com/search/a", "--rules", "limits.toml")
        assert (post["rule"], post["limit"], post["status"]) == (None, None, None)
        assert post["near"][0]["number"] == 0
        get = as_json(capsys, "explain", "GET", "https://api.example.com/search/a", "--rules", "limits.toml")
        assert get["rule"]["number"] == 0
        assert get["limit"] == {"name": "search", "rate": "10/second; 300/minute"}
        assert get["status"]["windows"][0]["used"] == 4

    @pytest.mark.parametrize(
        ("request_", "expected"),
        [
            (["https://api.example.com/slow", "GET"], "method 'https://api.example.com/slow' is a URL, not a method"),
            (["GET", "api.example.com/slow"], "url 'api.example.com/slow' is not a URL with scheme and host"),
            (["GET", "POST"], "url 'POST' is a method, not a URL"),
        ],
    )
    def test_what_is_no_request_is_told(
        self, request_: list[str], expected: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """It would be explained as unlimited otherwise."""
        assert expected in fault(capsys, "explain", *request_, "--rules", "limits.toml")

    def test_what_happens_to_an_unmatched_request_is_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        """In words and in JSON."""
        Path("strict.toml").write_text('unmatched = "error"\n')
        request = ["explain", "GET", "https://x.y/", "--rules", "strict.toml"]
        assert "no rule matches: refused (unmatched = 'error')" in told(capsys, *request)
        assert as_json(capsys, *request)["unmatched"] == "error"

    def test_headers_name_limits_and_are_not_shown(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A secret given as a header appears hashed alone."""
        Path("keys.toml").write_text(
            '[limits]\n"k-{header:X-Key}" = 5\n[[rules]]\nurl = "*"\nlimit = "k-{header:X-Key}"'
        )
        out = told(capsys, "explain", "GET", "https://x.y/", "--rules", "keys.toml", "--header", "X-Key: secret")
        assert "secret" not in out
        assert "limit 'k-" in out
        err = fault(capsys, "explain", "GET", "https://x.y/", "--rules", "keys.toml", "--header", "secret")
        assert "has no colon" in err


class TestCheck:
    """``nekkar check``."""

    def test_a_sound_file_is_summed_up(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Exit code 0."""
        out = told(capsys, "check", "limits.toml")
        assert out == "limits.toml: no fault; 4 rules, 3 limits (1 for each value of its captures)\n"
        Path("strict.toml").write_text('unmatched = "error"\n')
        out = told(capsys, "check", "strict.toml")
        assert out == "strict.toml: no fault; 0 rules, 0 limits; unmatched = error\n"

    def test_every_fault_is_told_with_its_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        """As editors and CI read it; exit code 1."""
        Path("bad.toml").write_text('[limits]\na = "5/m"\n\n[[rules]]\nurl = "*"\nlimit = "b"\n')
        assert main(["check", "bad.toml", "limits.toml", "missing.toml"]) == 1
        out, err = capsys.readouterr()
        lines = out.splitlines()
        assert lines[0].startswith("bad.toml:2: limits['a']: period 'm'")
        assert lines[1].startswith("bad.toml:4: rules[0]: no limit named 'b'")
        assert lines[2].startswith("missing.toml: can't be read")
        assert lines[3].startswith("limits.toml: no fault")
        assert err == "3 faults\n"
        faults = as_json(capsys, "check", "bad.toml", code=1)
        assert [(one["line"], one["where"]) for one in faults] == [(2, "limits['a']"), (4, "rules[0]")]
        assert as_json(capsys, "check", "limits.toml") == []


class TestLevers:
    """``nekkar hold``, ``release`` and ``reset``."""

    def test_they_do_what_they_say_for_all_who_share(self, limiter: Nekkar, capsys: pytest.CaptureFixture[str]) -> None:
        """Seen from the fleet's side."""
        limit = limiter("search", "10/second; 300/minute")
        assert as_json(capsys, "hold", "search", "5m", "--yes")["hold_until"]
        status = limit.status()
        assert status.hold_until is not None
        assert 295 < status.hold_until - status.at <= 300
        told(capsys, "release", "search", "--yes")
        assert limit.status().hold_until is None
        assert limit.status().windows[1].used == 4
        told(capsys, "reset", "search", "--yes")
        assert limit.status().windows[1].used == 0

    def test_a_limit_not_used_yet_needs_a_rate(self, limiter: Nekkar, capsys: pytest.CaptureFixture[str]) -> None:
        """From the rules or as an option, not both."""
        assert "give --rules FILE for its rate" in fault(capsys, "hold", "slow", "5m", "--yes", code=1)
        told(capsys, "hold", "slow", "5m", "--yes", "--rules", "limits.toml")
        told(capsys, "hold", "user-42", "5m", "--yes", "--rate", "250/minute")
        assert limiter("slow", "2/hour").status().hold_until
        assert limiter("user-42", "250/minute").status().hold_until
        assert "give one" in fault(capsys, "hold", "slow", "5m", "--rules", "limits.toml", "--rate", "5/s")

    def test_a_reset_by_name_goes_over_a_corrupt_value(
        self, limiter: Nekkar, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """It needs no terms, so that the value need not tell any; a hold does."""
        SqliteCache("limits.db").set("nekkar:search", "another program's")
        assert "delete the key" in fault(capsys, "hold", "search", "5m", "--yes", code=1)
        told(capsys, "reset", "search", "--yes")
        limiter("search", "10/second; 300/minute").acquire()

    def test_where_nobody_can_confirm_nothing_is_done(
        self, limiter: Nekkar, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A script must say --yes."""
        before = stored()
        with open(os.devnull) as nothing:
            monkeypatch.setattr("sys.stdin", nothing)
            assert "give --yes" in fault(capsys, "reset", "search")
        assert stored() == before

    @pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1), ("", 1)])
    def test_on_a_terminal_it_asks(self, answer: str, code: int, limiter: Nekkar) -> None:
        """Yes must be said; the question names the limit, the duration and the cache."""
        output, returned = on_terminal("hold", "search", "5m", answer=answer)
        assert "hold limit 'search' for 5m, for all who share sqlite:///limits.db? [y/N]" in output
        assert returned == code
        assert (limiter("search", "10/second; 300/minute").status().hold_until is not None) == (code == 0)


def on_terminal(*arguments: str, answer: str | None = None) -> tuple[str, int]:
    """Run a command on a terminal of 80 columns; return what it showed, and its exit code."""
    here, there = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "80", "TERM": "xterm"}
    command = [sys.executable, "-m", "nekkar", *arguments]
    process = subprocess.Popen(command, stdin=there, stdout=there, stderr=there, env=environment)
    os.close(there)
    if answer is not None:
        os.write(here, f"{answer}\n".encode())
    shown = b""
    try:
        while data := os.read(here, 1 << 16):
            shown += data
    except OSError:  # the terminal's other end is closed
        pass
    os.close(here)
    return shown.decode(), process.wait(60)


def test_on_a_terminal_tables_are_rich_and_fit(limiter: Nekkar) -> None:
    """Bold heads, bars, and no line over 80 columns."""
    limiter("slow", "2/hour").acquire()
    output, code = on_terminal("status", "--rules", "limits.toml")
    assert code == 0
    assert "\x1b[1m" in output
    assert "████░░░░" in output, "one of two an hour, however long the command takes to start"
    assert "10/second" in output


def test_a_password_in_the_caches_url_is_shown_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither above a table nor in the question of a lever."""
    with redis_server("--save", "", "--requirepass", "s3cret") as server:
        url = f"redis://:s3cret@127.0.0.1:{server.port}/0"
        output = told(capsys, "status", "slow", "--rules", "limits.toml", "--cache", url)
        question, code = on_terminal("reset", "slow", "--rate", "2/hour", "--cache", url, answer="n")
    assert output.startswith(f"Limits on redis://127.0.0.1:{server.port}/0\n")
    assert (f"for all who share redis://127.0.0.1:{server.port}/0? [y/N]" in question, code) == (True, 1)
    assert "s3cret" not in output + question


def test_on_a_terminal_a_plan_is_told_below_its_progress(limiter: Nekkar) -> None:
    """The bar goes to stderr, and is gone at the end."""
    output, code = on_terminal("simulate", "--rules", "limits.toml", "--calls", "GET https://x.y/ 5")
    assert code == 0
    assert "simulating" in output
    assert "5 calls by 1 worker take 0.5 s" in output


def test_a_watch_on_a_terminal_ends_with_an_interrupt(limiter: Nekkar) -> None:
    """It refreshes in place, and Ctrl-C is no failure."""
    here, there = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "xterm"}
    command = [sys.executable, "-m", "nekkar", "status", "search", "--watch", "--every", "0.5"]
    process = subprocess.Popen(command, stdin=there, stdout=there, stderr=there, env=environment)
    os.close(there)
    shown = b""
    while shown.count(b"search") < 3:
        shown += os.read(here, 1 << 16)
    process.send_signal(signal.SIGINT)
    try:
        while data := os.read(here, 1 << 16):
            shown += data
    except OSError:
        pass
    os.close(here)
    assert process.wait(30) == 0
    assert b"Traceback" not in shown


@pytest.mark.parametrize("arguments", ["check limits.toml", "explain GET https://x.y --rules limits.toml"])
def test_output_that_nobody_reads_is_no_traceback(arguments: str) -> None:
    """As with ``| head``: the exit code tells, whether Python holds the output back until the end or not."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": ""}
    command = [sys.executable, "-m", "nekkar", *arguments.split()]
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, env=environment, check=False)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("text", "expected"), [("30s", 30), ("5m", 300), ("1h30m", 5400), ("90", 90), ("0.5", 0.5), ("1d 2h", 93_600)]
)
def test_durations_are_read(text: str, expected: float) -> None:
    """As operators write them."""
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "5x", "m", "-5s", "5 minutes", "1e3"])
def test_what_is_no_duration_is_told(text: str) -> None:
    """With what would be one."""
    with pytest.raises(ConfigurationError, match="duration must be a time such as 30s, 5m"):
        seconds(text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1m"), (302, "5m 2s"), (12_000, "3h 20m"), (90_061, "1d 1h")],
)
def test_durations_are_shown(value: float, expected: str) -> None:
    """In two units at most."""
    assert duration(value) == expected


def test_a_table_lines_up() -> None:
    """Numbers to the right; no blanks at the ends of lines."""
    table = Table("Title", ("name", ">n", "last"), [("a", "1", "x"), ("long", "100", "")], "Note.")
    assert table.plain() == "Title\nname    n  last\na       1  x\nlong  100\nNote."


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///limits.db", "sqlite:///limits.db"),
        ("redis://me:s%40cret@host:6379/0", "redis://host:6379/0"),
        ("memcached://host:11211?timeout=1", "memcached://host:11211"),
        ("redis://host/0?password=s3cret", "redis://host/0"),
        ("memcached://[::1]:1,host", "memcached://[::1]:1,host"),
        ("unix://me:s3cret@/a/socket?db=2", "unix:///a/socket"),
    ],
)
def test_a_cache_is_shown_without_its_password(url: str, shown: str) -> None:
    """Its place alone: an option may be a password too."""
    assert redacted(url) == shown


class TestWrongRates:
    """A wrong ``--rate`` does not stay: it widens windows and margins for all, so a reset has to be able to end it."""

    @pytest.mark.parametrize("lever", [["hold", "search", "1s"], ["release", "search"], ["reset", "search"]])
    def test_a_reset_ends_what_a_wrong_rate_brought(
        self, lever: list[str], limiter: Nekkar, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        """No worker, old or new, hears of other limits afterwards, and none books by them."""
        told(capsys, *lever, "--rate", "2/hour", "--yes")
        told(capsys, "reset", "search", "--yes")
        caplog.clear()  # the commands, which share this process with the test, said it themselves
        known = limiter("search", "10/second; 300/minute")  # it knows the log of before
        new = Nekkar("sqlite:///limits.db")("search", "10/second; 300/minute")
        for worker in (known, new):
            worker.acquire()
        log = decode(SqliteCache("limits.db").gets("nekkar:search")[0] or b"")
        assert log.rates == parse("10/second; 300/minute").rates
        assert log.margin_us == parse("10/second; 300/minute").margin_us
        assert not [record for record in caplog.records if "other limits" in record.getMessage()]
        assert [window["limit"] for window in as_json(capsys, "status", "search")[0]["windows"]] == [10, 300]

    def test_a_reset_by_a_wrong_rate_brings_none(self, limiter: Nekkar, capsys: pytest.CaptureFixture[str]) -> None:
        """It leaves no terms at all: until the limit is used again, its name alone tells no rate."""
        told(capsys, "reset", "search", "--rate", "2/hour", "--yes")
        assert as_json(capsys, "status", "search")[0]["windows"] == []
        assert told(capsys, "status", "search").splitlines()[2].split() == ["search", "-", "-", "-", "now", "-", "-"]

    def test_a_reset_is_known_for_as_long_as_anybody_remembers_more(
        self, limiter: Nekkar, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Its key lives as long as the log that it replaced, or a worker would take its own for the last one."""
        slow = limiter("slow", "2/hour")
        slow.acquire(2)
        told(capsys, "reset", "slow", "--yes")
        with sqlite3.connect("limits.db") as connection:
            [(left,)] = connection.execute("SELECT dies_at - unixepoch() FROM nekkar WHERE key = 'nekkar:slow'")
        assert left > 3600
        assert slow.status().windows[0].used == 0
