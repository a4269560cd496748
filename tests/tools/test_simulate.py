"""Plans: a fleet on paper takes as long as one in earnest, keeps the limits, and tells what binds."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from nekkar.core.clock import SystemClock
from nekkar.core.errors import ConfigurationError
from nekkar.core.limiter import Nekkar
from nekkar.rules import Rule, RuleTable
from tests.support.checks import spans_broken
from tests.support.internals.cli import main
from tests.support.internals.core import SECOND, monotonic, quota
from tests.support.internals.plan import Ask, Call, Hold, Start, Tally, asked, read_calls, read_log, run
from tests.support.servers import Memcached

RULES = RuleTable(
    [
        Rule("*/a", "fast"),
        Rule("*/b", "slow"),
        Rule("*/patient", "patient"),
        Rule("*/even", "even"),
        Rule("*/long", "long"),
    ],
    {
        "fast": "10/second; 30/4 s",
        "slow": "2/second",
        "long": "10/second; 20/10 s",
        "patient": {"rate": "1/minute", "max_wait": 5},
        "even": {"rate": "10/second", "spacing": "even"},
    },
)
URL = "https://api.example.com"


def simulated(calls: Iterable[str], workers: int, latency: float = 0.1, holds: Iterable[Hold] = ()) -> list[Start]:
    return list(run(asked(read_calls(calls), RULES, latency), workers, list(holds)))


def tallied(starts: Iterable[Start], workers: int) -> Tally:
    tally = Tally(workers)
    for start in starts:
        tally.add(start)
    return tally


class TestFleet:
    """The run on paper."""

    def test_unlimited_calls_take_their_latency(self) -> None:
        """Ten calls of a second by five workers: two seconds, and nobody waits."""
        tally = tallied(simulated([f"GET {URL}/free 10"], 5, 1.0), 5)
        assert (tally.seconds, tally.waiting_share, tally.calling_share) == (2.0, 0.0, 1.0)
        assert sorted(tally.per_worker.values()) == [2] * 5

    def test_windows_are_kept(self) -> None:
        """Every window of the limit, at every place; and all of it is used while it binds."""
        starts = simulated([f"GET {URL}/a 200"], 7, 0.02)
        times = [start.at for start in starts]
        for rate in quota("10/second; 30/4 s").rates:
            assert not spans_broken(times, rate.count, rate.period_us)
        assert 25_350_000 <= max(times) < 25_350_000 * 1.01  # six windows of 30, then one of 10, come before it

    def test_calls_of_a_worker_never_overlap(self) -> None:
        """Each asks for the next as it ends the one before."""
        starts = simulated([f"GET {URL}/a 100", f"GET {URL}/b 20"], 3, 0.3)
        for worker in range(3):
            own = sorted((one for one in starts if one.worker == worker), key=lambda one: one.asked)
            assert all(after.asked == before.ended for before, after in pairwise(own))

    def test_what_binds_is_told_of_each_wait(self) -> None:
        """A window, the spacing, a hold; nothing where a call did not wait."""
        bounds = {start.bound for start in simulated([f"GET {URL}/a 60"], 1, 0.0)}
        assert bounds == {None, "10 per 1 s", "30 per 4 s"}
        assert {start.bound for start in simulated([f"GET {URL}/even 9"], 1, 0.0)} == {None, "the spacing"}

    def test_a_call_that_would_wait_too_long_is_refused_at_once(self) -> None:
        """As in earnest: it takes no slot and no time."""
        starts = simulated([f"GET {URL}/patient 3"], 1, 1.0)
        assert [start.refused for start in starts] == [False, True, True]
        assert starts[-1].ended == SECOND

    def test_a_hold_moves_those_who_wait_behind_it(self) -> None:
        """Slots within the horizon are kept; all others come after the hold, and none is lost."""
        hold = Hold("slow", 2 * SECOND, 10 * SECOND)
        starts = simulated([f"GET {URL}/b 20"], 4, 0.0, [hold])
        times = sorted(start.at for start in starts)
        assert len(times) == 20
        assert times.count(2_100_000) == 2, "those due in just the horizon start"
        assert not [at for at in times if 2_100_000 < at < 12_000_000]
        assert [at for at in times if at >= 12_000_000][:2] == [12_000_000] * 2
        assert not spans_broken(times, 2, SECOND)
        assert "a hold" in {start.bound for start in starts}

    def test_calls_are_told_in_the_order_of_their_ends(self) -> None:
        """Those too that are still under way as the last one begins."""
        asks = [Ask(None, None, latency * SECOND) for latency in (3, 1, 5, 1)]
        assert [start.ended // SECOND for start in run(asks, 3)] == [1, 2, 3, 5]

    def test_holds_that_begin_together_all_count(self) -> None:
        """Of two limits, and of one: the later end stands."""
        holds = [Hold("fast", 0, 2 * SECOND), Hold("slow", 0, 5 * SECOND), Hold("slow", 0, 3 * SECOND)]
        assert [start.at for start in simulated([f"GET {URL}/b 1"], 1, 0.0, holds)] == [5 * SECOND]

    def test_costs_count(self) -> None:
        """A call that costs five is half a window."""
        ask = Ask("fast", quota("10/second"), 0, 5)
        assert [start.at for start in run([ask] * 5, 1)] == [0, 0, 1_050_000, 1_050_000, 2_100_000]


class TestSeveral:
    """Calls under several limits, and costs in units."""

    TABLE = RuleTable(
        [
            Rule("*/write", ["write", "all"], cost={"calls": 1}),
            Rule("*/model", "model-{json:model}", cost={"tokens": 40}),
            Rule("*/metered", "metered"),
            Rule("*/tokens", "tokens"),
            Rule("*/hand", "by hand"),
            Rule("*", "all"),
        ],
        {
            "write": "1/second",
            "all": "3 per 2 s",
            "model-{json:model}": "100 tokens per 10 s",
            "metered": {"rate": "5/second; 100 tokens/second", "meter": "openai"},
            "tokens": {"rate": "100 tokens/second", "meter": "openai"},
            "by hand": "5/second; 100 tokens/second",
        },
    )

    def starts(self, *calls: Call, workers: int = 5, holds: Iterable[Hold] = ()) -> list[Start]:
        return list(run(asked(calls, self.TABLE, 0.0), workers, list(holds)))

    def test_each_limit_is_kept(self) -> None:
        """And what binds is the one that was waited for."""
        starts = self.starts(Call("POST", f"{URL}/write", 3), Call("GET", f"{URL}/read", 3))
        assert [start.at for start in starts if start.name == "write"] == [0, 1_050_000, 2_100_000]
        assert not spans_broken(sorted(start.at for start in starts), 3, 2 * SECOND)
        assert {start.names for start in starts} >= {("write", "all"), ("all",)}
        tally = tallied(starts, 5)
        assert (tally.calls, tally.limits["write"].calls, tally.limits["all"].calls) == (6, 3, 6)

    def test_units_are_kept(self) -> None:
        """Each model has a limit of its own; two calls of 40 tokens fit into 100."""
        calls = [Call("POST", f"{URL}/model", 3, body=f'{{"model": "{model}"}}') for model in "ab"]
        starts = self.starts(*calls, workers=6)
        for model in "ab":
            at = [start.at for start in starts if start.name == f"model-{model}"]
            assert at == [0, 0, 10_050_000]
        assert {start.bound for start in starts} == {None, "100 tokens per 10 s"}

    def test_the_cost_of_a_call_comes_before_its_rules(self) -> None:
        """Unit by unit."""
        call = Call("POST", f"{URL}/model", 2, cost={"tokens": 60}, body='{"model": "a"}')
        assert [start.at for start in self.starts(call)] == [0, 10_050_000]

    def test_what_a_meter_would_tell_counts_as_nothing(self) -> None:
        """The calls count all the same."""
        assert max(start.at for start in self.starts(Call("POST", f"{URL}/metered", 6), workers=6)) == 1_050_000
        assert {start.at for start in self.starts(Call("POST", f"{URL}/tokens", 6), workers=6)} == {0}

    def test_a_unit_that_nothing_gives_is_bad_usage(self) -> None:
        """A log may give it."""
        with pytest.raises(
            ConfigurationError, match=r"nothing gives the tokens .* limit 'by hand' counts; give its rule"
        ):
            self.starts(Call("POST", f"{URL}/hand"))
        assert len(self.starts(Call("POST", f"{URL}/hand", cost={"tokens": 5}))) == 1

    @pytest.mark.parametrize("cost", [{"points": 1}, {"tokens": 101}])
    def test_a_cost_that_its_limit_would_refuse_is_bad_usage(self, cost: dict[str, int]) -> None:
        """As in earnest."""
        with pytest.raises(ConfigurationError):
            self.starts(Call("POST", f"{URL}/model", cost=cost, body='{"model": "a"}'))

    def test_a_hold_of_one_holds_all_that_fall_under_it(self) -> None:
        """Their slots in other limits are given back too."""
        starts = self.starts(Call("POST", f"{URL}/write", 4), workers=2, holds=[Hold("all", SECOND // 2, 4 * SECOND)])
        assert [start.at for start in starts] == [0, 4_500_000, 5_550_000, 6_600_000]


class TestAgreement:
    """A plan on paper and in earnest."""

    @pytest.mark.parametrize(
        ("calls", "workers", "latency"),
        [([f"GET {URL}/a 75"], 3, 0.02), ([f"GET {URL}/b 8", f"GET {URL}/a 25"], 2, 0.05)],
        ids=["one limit", "two limits"],
    )
    def test_a_real_run_takes_as_long(self, calls: list[str], workers: int, latency: float, server: Memcached) -> None:
        """To within 2 % of the total time: as many limiters, each a process to the others, on a real memcached."""
        asks = list(asked(read_calls(calls), RULES, latency))
        planned = tallied(run(asks, workers), workers).seconds
        assert planned > 4
        assert in_earnest(asks, workers, server.url) == pytest.approx(planned, rel=0.02)


def in_earnest(asks: list[Ask], workers: int, url: str) -> float:
    """Make all calls, each a sleep, and return how long that took."""
    left, lock, together = iter(asks), threading.Lock(), threading.Barrier(workers + 1)

    def work() -> None:
        limiter, clock = Nekkar(url, clock="local"), SystemClock()
        limiter("warm-up", 1000).acquire()
        together.wait()
        while True:
            with lock:
                ask = next(left, None)
            if ask is None:
                return
            if ask.name and ask.terms:
                limiter._limit_of(ask.name, ask.terms, None).acquire()
            clock.sleep_until(clock.now_us() + ask.latency, threading.Event())

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    together.wait()
    began = monotonic()
    for thread in threads:
        thread.join()
    return monotonic() - began


class TestTally:
    """What a plan comes to."""

    def test_the_limit_that_is_waited_for_binds(self) -> None:
        """By the window that is waited for longest."""
        tally = tallied(simulated([f"GET {URL}/long 100", f"GET {URL}/b 4"], 4, 0.01), 4)
        assert tally.binding == "long"
        assert tally.limits["long"].bound == "20 per 10 s"
        assert tally.verdict().startswith("Limit 'long' binds, by 20 per 10 s")

    def test_where_nobody_waits_the_workers_bind(self) -> None:
        """And more of them would help."""
        tally = tallied(simulated([f"GET {URL}/a 20"], 1, 1.0), 1)
        assert tally.binding is None
        assert tally.verdict().startswith("The workers bind: they call 100% of their time")

    @pytest.mark.parametrize(("seconds", "binding"), [(100, "jobs"), (300, None)])
    def test_a_little_waiting_binds_nobody(self, seconds: int, binding: str | None) -> None:
        """Up to a twentieth of the workers' time; the longest wait may be any of them."""
        times = [(0, 5, 6), (6, 8, seconds)]
        starts = [Start(0, "jobs", since * SECOND, at * SECOND, end * SECOND) for since, at, end in times]
        tally = tallied([replace(start, bound="a hold") for start in starts], 1)
        assert (tally.limits["jobs"].longest, tally.limits["jobs"].waited) == (5.0, 7.0)
        assert tally.binding == binding


class TestLogs:
    """Logs of requests."""

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("log.csv", "method,url,latency,cost\nGET,https://x.y/a,0.5,\nPOST,https://x.y/b,,3\n"),
            (
                "log.jsonl",
                '{"url": "https://x.y/a", "latency": 0.5}\n\n{"method": "POST", "url": "https://x.y/b", "cost": 3}\n',
            ),
        ],
    )
    def test_csv_and_json_lines_are_read(self, name: str, text: str, tmp_path: Path) -> None:
        """What a line leaves out is GET, 1, and not known."""
        (tmp_path / name).write_text(text)
        expected = [Call("GET", "https://x.y/a", latency=0.5), Call("POST", "https://x.y/b", cost=3)]
        assert read_log(str(tmp_path / name)) == expected

    def test_bodies_and_units_are_read(self, tmp_path: Path) -> None:
        """A body as text or as JSON, a cost as a table; of a HAR what was posted."""
        lines = [{"url": "https://x.y/a", "cost": {"tokens": 5}, "body": body} for body in ({"m": 1}, '{"m": 1}')]
        (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
        assert (
            read_log(str(tmp_path / "log.jsonl"))
            == [Call("GET", "https://x.y/a", cost={"tokens": 5}, body='{"m": 1}')] * 2
        )
        request = {"method": "POST", "url": "https://x.y/a", "postData": {"text": '{"m": 1}'}}
        (tmp_path / "log.har").write_text(json.dumps({"log": {"entries": [{"request": request}]}}))
        assert read_log(str(tmp_path / "log.har")) == [Call("POST", "https://x.y/a", body='{"m": 1}')]
        (tmp_path / "log.jsonl").write_text('{"url": "https://x.y/a", "cost": {"tokens": -5}}')
        with pytest.raises(ConfigurationError, match="request 1: cost in tokens -5"):
            read_log(str(tmp_path / "log.jsonl"))

    def test_har_is_read(self, tmp_path: Path) -> None:
        """Its times are milliseconds; a negative one is that of a request that was broken off, and no time is none."""
        request = {"method": "PUT", "url": "https://x.y/a"}
        entries = [{"request": request, **time} for time in ({"time": 250.0}, {"time": -1}, {"time": None}, {})]
        (tmp_path / "log.har").write_text(json.dumps({"log": {"entries": entries}}))
        assert [call.latency for call in read_log(str(tmp_path / "log.har"))] == [0.25, 0.0, None, None]
        assert read_log(str(tmp_path / "log.har"))[0] == Call("PUT", "https://x.y/a", latency=0.25)

    @pytest.mark.parametrize(
        ("name", "text", "expected"),
        [
            ("log.txt", "", "log must be a file that ends in .csv, .jsonl, .ndjson, .har, got"),
            ("log.csv", "method\nGET\n", "request 1: {'method': 'GET'} has no url"),
            (
                "log.csv",
                "url,latency\nhttps://x.y/,soon\n",
                "request 1: latency must be a number of seconds from 0, got 'soon'",
            ),
            ("log.csv", "url,cost\nhttps://x.y/,0\n", "request 1: cost 0 is out of bounds"),
            ("log.csv", "url\n", "there are no calls"),
            ("log.csv", "url,method\nGET,https://x.y/\n", "request 1: method 'https://x.y/' is a URL, not a method"),
            ("log.csv", "url\nx.y/a\n", "request 1: url 'x.y/a' is not a URL with scheme and host"),
            ("log.jsonl", "{", "is not what its ending says"),
            ("log.har", "{}", "is not what its ending says"),
        ],
    )
    def test_what_is_none_is_told(self, name: str, text: str, expected: str, tmp_path: Path) -> None:
        """With the file and the request."""
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigurationError) as error:
            read_log(str(tmp_path / name))
        assert expected in str(error.value)

    def test_a_file_that_is_not_there_is_told(self) -> None:
        """By its name."""
        with pytest.raises(ConfigurationError, match=r"log 'none\.csv' can't be read: No such file"):
            read_log("none.csv")

    @pytest.mark.parametrize("text", ["", "GET", "GET https://x.y/ many", "GET https://x.y/ 0", "GET a b c"])
    def test_calls_that_are_none_are_told(self, text: str) -> None:
        """With what would be some."""
        with pytest.raises(ConfigurationError, match="calls "):
            read_calls([text])

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("https://x.y/ 5", "method 'https://x.y/' is a URL, not a method"),
            ("https://x.y/ GET", "method 'https://x.y/' is a URL, not a method"),
            ("x.y/a 5", "method 'x.y/a' is a URL, not a method"),
            ("5 GET https://x.y/", "method '5' is not a method"),
            ("GET 5 https://x.y/", "url '5' is not a URL with scheme and host"),
            ("GET post 5", "url 'post' is a method, not a URL"),
            ("GET x.y/a 5", "url 'x.y/a' is not a URL with scheme and host"),
            ("GET /a 5", "url '/a' is not a URL with scheme and host"),
            ("GET https:///a 5", "url 'https:///a' is not a URL with scheme and host"),
        ],
    )
    def test_calls_whose_parts_are_in_another_order_are_told(self, text: str, expected: str) -> None:
        """Rules take any text for a method or a URL, and would call it unlimited."""
        with pytest.raises(ConfigurationError) as error:
            read_calls([text])
        assert str(error.value).startswith(f"calls {text!r}: {expected}; give METHOD URL, such as GET https://")

    def test_what_a_browser_logs_besides_is_read(self, tmp_path: Path) -> None:
        """A page's own data needs no host."""
        (tmp_path / "log.jsonl").write_text('{"url": "data:image/png;base64,AA"}\n{"url": "blob:https://x.y/1"}\n')
        assert len(read_log(str(tmp_path / "log.jsonl"))) == 2

    def test_too_many_calls_are_told(self) -> None:
        """Before any is run."""
        with pytest.raises(ConfigurationError, match="over 1000000 calls"):
            read_calls([f"GET {URL} 1000001"])


class TestCommand:
    """``nekkar simulate``."""

    @pytest.fixture(autouse=True)
    def rules(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("limits.toml").write_text('[limits]\na = "10/second"\nb = { rate = 1, max_wait = 1 }\n' + "".join(
            f'[[rules]]\nurl = "x.y/{name}"\nlimit = "{name}"\n' for name in "ab"
        ))  # fmt: skip

    def simulate(self, capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
        assert main(["simulate", "--rules", "limits.toml", *arguments]) == code
        out, err = capsys.readouterr()
        assert err == ""
        return out

    def test_it_tells_how_long_and_why(self, capsys: pytest.CaptureFixture[str]) -> None:
        """In a title, a row for each limit, and a verdict."""
        calls = ["--calls", "GET https://x.y/a 100", "GET https://x.y/c 10", "--workers", "5", "--latency", "0.1"]
        lines = self.simulate(capsys, *calls).splitlines()
        assert lines[0].startswith("110 calls by 5 workers take ")
        assert lines[2].split() == ["a", "100", "0", *lines[2].split()[3:8], "10", "per", "1", "s"]
        assert lines[3].split()[:2] == ["(unlimited)", "10"]
        assert lines[4].startswith("Limit 'a' binds, by 10 per 1 s")

    def test_json_has_the_figures(self, capsys: pytest.CaptureFixture[str]) -> None:
        """For scripts."""
        told: dict[str, Any] = json.loads(
            self.simulate(capsys, "--calls", "GET https://x.y/a 21", "--latency", "0.01", "--json")
        )
        assert (told["calls"], told["workers"], told["binding"]) == (21, 1, "a")
        assert told["seconds"] == pytest.approx(2.11)
        assert told["limits"][0]["bounds"] == {"10 per 1 s": pytest.approx(1.9)}

    def test_a_refused_call_is_not_what_was_wanted(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Exit code 1, and the number of them."""
        out = self.simulate(capsys, "--calls", "GET https://x.y/b 3", code=1)
        assert out.splitlines()[2].split()[:3] == ["b", "1", "2"]

    def test_a_log_and_a_hold(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A hold of ten seconds after one second adds ten."""
        Path("log.csv").write_text("url,count,latency\nhttps://x.y/a,50,0.01\n")
        plain = json.loads(self.simulate(capsys, "--log", "log.csv", "--json"))["seconds"]
        held = json.loads(self.simulate(capsys, "--log", "log.csv", "--hold", "a 1s 10s", "--json"))["seconds"]
        assert plain + 9 < held < plain + 10

    def test_a_hold_names_a_limit_as_the_rules_do(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A name with a space, and one that a template spells; a template itself is no limit."""
        Path("limits.toml").write_text(
            '[limits]\n"a b" = 5\n"u-{u}" = 5\n[[rules]]\nurl = "x.y/{u}"\nlimit = "u-{u}"\n'
        )
        call = ["--calls", "GET https://x.y/42", "--latency", "0", "--json"]
        assert json.loads(self.simulate(capsys, *call, "--hold", "a b 0s 9s"))["seconds"] == 0
        assert json.loads(self.simulate(capsys, *call, "--hold", "u-42 0s 9s"))["seconds"] == 9
        assert main(["simulate", "--rules", "limits.toml", *call, "--hold", "u-{u} 0s 9s"]) == 2
        assert "limit 'u-{u}' is a template; name one of its limits" in capsys.readouterr().err

    def test_calls_that_the_rules_refuse_are_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        """No plan is made of what would not be sent."""
        Path("limits.toml").write_text('unmatched = "error"\n' + Path("limits.toml").read_text())
        assert main(["simulate", "--rules", "limits.toml", "--calls", "GET https://x.y/a", "GET https://x.y/c"]) == 2
        assert "GET 'https://x.y/c': no rule matches, and unmatched is 'error'" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["--workers", "0"], "workers 0 is out of bounds"),
            (["--latency", "-1"], "latency -1.0 is out of bounds"),
            (["--hold", "a 1s"], "hold must be 'NAME AT DURATION'"),
            (["--hold", "aa 1s 1s"], "no limit named 'aa' (did you mean 'a'?)"),
            (["--hold", "1s 1s a"], "no limit named '1s'; the rules define no such limit"),
            (["--plot", "plan.gif"], "plot must be a file that ends in"),
            (["--plot", "none/plan.png"], "its folder does not exist"),
        ],
    )
    def test_bad_usage_is_told(self, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
        """On one line."""
        assert main(["simulate", "--rules", "limits.toml", "--calls", "GET https://x.y/a", *arguments]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert expected in err
