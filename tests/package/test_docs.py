"""The README and the docs keep their word: every block runs, and the first one, in a fleet, meets no 429."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import httpx2
import pytest
import responses

from nekkar.rules import faults
from tests.support.internals.cli import _parser, main
from tests.support.internals.core import quota
from tests.support.internals.demo import StrictServer
from tests.support.pages import LIMITS_TOML, PAGES, README, ROOT, Fence, all_fences, fences
from tests.support.servers import Memcached, memcached, redis_server

BLOCKS = all_fences("python")
CONSOLES = all_fences("console")
RULE_FILES = [fence for fence in all_fences("toml") if "broken.toml" not in fence.files]
COMMANDS = [
    command.removeprefix("nekkar ")
    for fence in [*CONSOLES, *all_fences("sh")]
    for command in re.findall(r"^(?:\$ )?(nekkar [a-z].*?)(?: +#.*)?$", fence.code, re.MULTILINE)
]
ON_PAPER = ("check", "explain", "simulate")  # the same output wherever and whenever they run


class CountingServer(StrictServer):
    """A strict server that counts what it accepted and refused."""

    accepted = refused = 0

    def offer(self, at_us: int) -> int:
        wait = super().offer(at_us)
        if wait:
            self.refused += 1
        else:
            self.accepted += 1
        return wait


@contextmanager
def strict_server(rate: str) -> Iterator[CountingServer]:
    with CountingServer(quota(rate).rates) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()


ANSWER = {"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello."}}]}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clients of httpx and httpx2 answer for themselves."""
    for library in (httpx, httpx2):
        answer = library.MockTransport(lambda request, library=library: library.Response(200, json=ANSWER))
        sync, task = answer.handle_request, answer.handle_async_request
        monkeypatch.setattr(library.HTTPTransport, "handle_request", lambda self, request, sync=sync: sync(request))
        monkeypatch.setattr(
            library.AsyncHTTPTransport, "handle_async_request", lambda self, request, task=task: task(request)
        )


@pytest.fixture(scope="module")
def a_memcached() -> Iterator[Memcached]:
    """A memcached of this file's own."""
    with memcached() as running:
        yield running


@pytest.fixture(scope="module")
def redis_port() -> Iterator[int]:
    """The port of a Redis of this file's own."""
    with redis_server() as running:
        yield running.port


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a reader is in, with a rule file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "limits.toml").write_text(LIMITS_TOML)
    return tmp_path


def write(fence: Fence, folder: Path) -> None:
    """Write the files that a fence's page has given so far."""
    for name, content in fence.files.items():
        (folder / name).write_text(content, encoding="utf-8")


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_runs(
    block: Fence,
    a_memcached: Memcached,
    folder: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each by itself works as it stands, but for the addresses of servers; its rules match all that it sends."""
    write(block, folder)
    a_memcached.ask("flush_all")
    program = re.sub(r'localhost(:|", )11211', rf"127.0.0.1\g<1>{a_memcached.port}", block.code)
    if "6379" in program:
        program = program.replace("6379", str(request.getfixturevalue("redis_port")))
    program = program.replace("9464", "0")  # of metrics
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mocked:
        mocked.get(re.compile("https?://.*"), json={})
        exec(compile(program, str(block), "exec"), {"__name__": "__main__"})
    assert [message for message in caplog.messages if "no rule matches" in message] == []


@pytest.mark.parametrize("console", CONSOLES, ids=str)
def test_every_command_runs_and_says_what_is_shown(
    console: Fence,
    a_memcached: Memcached,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each line of a console, in order; what stands below it is its output, where that is always the same."""
    write(console, folder)
    commands = [part.partition("\n") for part in console.code.split("$ nekkar ")[1:]]
    assert commands
    for command, _, shown in commands:
        on_paper = command.split()[0] in ON_PAPER
        monkeypatch.setenv("NEKKAR_CACHE", "" if on_paper else a_memcached.url)
        code, out = main(shlex.split(command)), capsys.readouterr().out
        assert out
        if on_paper and shown:
            assert shown == out
        else:
            assert code == 0, command


@pytest.mark.parametrize("file", RULE_FILES, ids=str)
def test_every_rule_file_is_sound(file: Fence, folder: Path) -> None:
    """``nekkar check`` finds no fault in what is shown, but for what is shown to have some."""
    write(file, folder)
    assert faults(folder / "limits.toml") == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_line_is_one(command: str) -> None:
    """The parser takes each, those too that no test runs."""
    assert _parser().parse_args(shlex.split(command)).command == command.split()[0]


def test_each_file_of_tests_that_a_page_names_is_there() -> None:
    """Who says how a promise is tested says so of tests that there are; a placeholder of a reader's own is none."""
    named = {name for page in PAGES for name in re.findall(r"tests/[\w/]*\w+\.py", page.read_text(encoding="utf-8"))}
    assert len(named) >= 10
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_there_is_something_to_run() -> None:
    """The tests above are not empty."""
    assert len(BLOCKS) >= 30
    assert len(COMMANDS) >= 8
    assert len(RULE_FILES) >= 3


def test_three_processes_of_the_first_example_meet_no_429(server: Memcached) -> None:
    """Each makes 100 calls at a limit of 100, with a period of 2 s in place of 60, against a strict server."""
    with strict_server("100/2s") as strict:
        program = next(fences(README, "python")).code.replace("memcached://localhost:11211", server.url)
        program = program.replace("https://api.example.com", f"http://127.0.0.1:{strict.server_address[1]}")
        assert "rate_limit=100)" in program
        # The margin is that of the example, of a minute.
        program = program.replace("rate_limit=100)", "rate_limit=100, period=2, margin=0.3)")
        workers = [subprocess.Popen([sys.executable, "-W", "error", "-c", program]) for _ in range(3)]
        try:
            assert [worker.wait(60) for worker in workers] == [0, 0, 0]
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
    assert (strict.accepted, strict.refused) == (300, 0)


def test_the_two_commands_stand_in_the_readme() -> None:
    """One line each, with their own set-up; the build runs the second as it stands."""
    commands = [fence.code.strip() for fence in fences(README, "sh") if ".venv" in fence.code]
    assert [command.split()[:4] for command in commands] == [["python3", "-m", "venv", ".venv"]] * 2
    assert [command.split()[-1] for command in commands] == ["demo", "loadfile"]
    assert "-m pytest" in commands[1]
