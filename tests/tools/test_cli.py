"""The command line: help needs nothing, bad usage is told in words; ``nekkar demo`` works and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nekkar.core.limiter import Nekkar
from tests.support.internals.cli import main
from tests.support.servers import free_port, memcached

PROCESSES = Path("/proc")  # elsewhere than on Linux, tests see only the files that are left
NO_EXTRAS = "import sys; sys.modules.update(requests=None, rich=None, httpx=None, redis=None, matplotlib=None)"
COMMANDS = ("status", "explain", "check", "simulate", "hold", "release", "reset", "demo")
MAIN = "from nekkar.cli import main; sys.exit(main(sys.argv[1:]))"


def bare_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process where no extra can be imported."""
    command = [sys.executable, "-W", "error", "-c", f"{NO_EXTRAS}; {MAIN}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--help"], "demo"),
        (["--version"], "nekkar "),
        *(([command, "--help"], "Exit code: 0") for command in COMMANDS),
    ],
)
def test_help_and_version_need_no_extra(arguments: list[str], expected: str) -> None:
    done = bare_python(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert expected in done.stdout


def test_without_the_extra_the_demo_says_what_to_install() -> None:
    done = bare_python("demo")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "nekkar demo: needs requests and rich; install them: pip install 'nekkar[cli]'\n"


def test_limits_are_seen_and_planned_with_no_extra(tmp_path: Path) -> None:
    """Whatever needs no picture and no demo; a picture says what to install."""
    cache = f"sqlite:///{tmp_path / 'limits.db'}"
    Nekkar(cache)("jobs", 10).acquire()
    file = tmp_path / "limits.toml"
    file.write_text('[limits]\njobs = 10\n[[rules]]\nurl = "x.y"\nlimit = "jobs"\n')
    plan = ["simulate", "--rules", str(file), "--calls", "GET https://x.y/ 5"]
    explain = ["explain", "GET", "https://x.y/", "--rules", str(file)]
    for arguments in (["status", "jobs", "--cache", cache], ["check", str(file)], explain, plan):
        done = bare_python(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
    done = bare_python(*plan, "--plot", "plan.png")
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs matplotlib; install them: pip install 'nekkar[plot]'" in done.stderr


def test_the_module_runs_as_the_script_does() -> None:
    command = [sys.executable, "-m", "nekkar", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout[:7]) == (0, "nekkar ")


@pytest.mark.parametrize("arguments", [[], ["demon"], ["demo", "--workers", "x"], ["demo", "--sec", "3"]])
def test_what_the_parser_does_not_know_is_bad_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--rate", "5/m", "period 'm' in rate '5/m'"),
        ("--rate", "", "rate ''"),
        ("--rate", "0/second", "rate '0/second': 0 is out of bounds"),
        ("--rate", "1000000/second", "rate '1000000/second' allows 10000000 calls"),
        ("--workers", "0", "workers 0"),
        ("--workers", "65", "workers 65"),
        ("--seconds", "0.5", "seconds 0.5"),
        ("--seconds", "nan", "seconds nan"),
        ("--cache", "disk:", "cache URL *** (shown without"),
        ("--cache", "memory:", "cache memory: is not shared by processes"),
    ],
)
def test_a_bad_value_is_named_on_one_line(
    option: str, value: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", option, value]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nekkar demo: ")
    assert expected in err
    assert err.count("\n") == 1


def test_a_cache_that_is_away_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    assert main(["demo", "--cache", f"memcached://127.0.0.1:{port}"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"nekkar demo: memcached at 127.0.0.1:{port}: ")
    assert err.count("\n") == 1


# the whole


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "nekkar", "demo", "--workers", "2", "--rate", "20/second", *arguments]


def environment(folder: Path) -> dict[str, str]:
    """Give a demo a folder of its own for temporary files, which also marks its processes."""
    return os.environ | {"TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder)}


def left_behind(folder: Path) -> list[str]:
    """Return the temporary files that remain, and the processes that were told of the folder and still run."""
    found = [path.name for path in folder.iterdir()]
    for process in PROCESSES.glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def settled(folder: Path) -> list[str]:
    """Return what is left behind after the demo's own helpers had a moment to see its end."""
    for _ in range(100):
        if not (found := left_behind(folder)):
            break
        threading.Event().wait(0.05)
    return found


def test_with_nekkar_there_is_no_429_and_without_there_are_some(tmp_path: Path) -> None:
    done = subprocess.run(
        command("--seconds", "2", "--json"), capture_output=True, text=True, timeout=120, env=environment(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    limited, bare = figures["with_nekkar"], figures["without"]
    assert (limited["refused"], limited["other"], limited["failures"]) == (0, 0, [])
    assert limited["calls"] == limited["accepted"] == sum(limited["calls_per_worker"])
    assert 20 < limited["accepted"] <= figures["most_calls"] == 40
    assert limited["cache_operations"] >= 2
    assert bare["refused"] > 0
    assert bare["cache_operations_per_call"] is None
    assert "with nekkar: 2.0 of 2 s" in done.stderr
    assert settled(tmp_path) == []


def test_a_demo_through_memcached_leaves_no_key(tmp_path: Path) -> None:
    with memcached() as server:
        arguments = command("--seconds", "1", "--cache", server.url)
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, env=environment(tmp_path))
        assert (done.returncode, done.stderr) == (0, "")
        assert server.commands() > 20
        assert server.stats()["curr_items"] == "0"
    assert "with nekkar" in done.stdout
    assert settled(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_everything(tmp_path: Path, number: signal.Signals, code: int) -> None:
    demo = subprocess.Popen(
        command("--seconds", "60"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=environment(tmp_path) | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        for _ in range(400):
            if any(path.glob("*-wal") for path in tmp_path.iterdir()):
                break
            threading.Event().wait(0.05)
        threading.Event().wait(1.0)
        os.killpg(demo.pid, number) if number == signal.SIGINT else demo.send_signal(number)
        _, err = demo.communicate(timeout=30)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == code
    assert err == ("nekkar demo: interrupted\n" if number == signal.SIGINT else "")
    assert settled(tmp_path) == []
