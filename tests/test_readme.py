"""The README keeps its word: every block runs, and the first one, in a fleet, meets no 429."""

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

from nekkar.cli import main
from nekkar.core.rate import quota
from nekkar.demo.server import StrictServer
from tests.integration.servers import Memcached

README = Path(__file__).parent.parent / "README.md"
LIMITS_TOML = re.findall(r"```toml\n(.*?)```", README.read_text(), re.DOTALL)[0]
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)


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


@pytest.mark.parametrize("block", BLOCKS, ids=[str(number) for number in range(len(BLOCKS))])
def test_every_block_runs(block: str, server: Memcached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in the README works as it stands, but for the address of memcached."""
    monkeypatch.chdir(tmp_path)
    Path("limits.toml").write_text(LIMITS_TOML)
    program = block.replace("memcached://localhost:11211", server.url).replace("9464", "0")
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mocked:
        mocked.get(re.compile("https://.*example.com/.*"), json={})
        exec(compile(program, str(README), "exec"), {"__name__": "__main__"})


def test_every_command_runs_and_says_what_is_shown(
    server: Memcached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line of a console, in order; what stands below it is its output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEKKAR_CACHE", server.url)
    Path("limits.toml").write_text(LIMITS_TOML)
    (console,) = re.findall(r"```console\n(.*?)```", README.read_text(), re.DOTALL)
    commands = [part.partition("\n") for part in console.split("$ nekkar ")[1:]]
    assert len(commands) >= 8
    for command, _, shown in commands:
        assert main(shlex.split(command)) == 0, command
        out = capsys.readouterr().out
        assert out
        assert shown in ("", out)


def test_there_are_blocks_to_run() -> None:
    """The test above is not empty."""
    assert len(BLOCKS) >= 5


def test_three_processes_of_the_first_example_meet_no_429(server: Memcached) -> None:
    """Each makes 100 calls at a limit of 100, with a period of 2 s in place of 60, against a strict server."""
    with strict_server("100/2s") as strict:
        program = BLOCKS[0].replace("memcached://localhost:11211", server.url)
        program = program.replace("https://api.example.com", f"http://127.0.0.1:{strict.server_address[1]}")
        assert "rate_limit=100)" in program
        program = program.replace("rate_limit=100)", "rate_limit=100, period=2)")
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
    commands = re.findall(r"```sh\n(.*?)\n```", README.read_text(), re.DOTALL)
    assert [command.split()[:4] for command in commands] == [["python3", "-m", "venv", ".venv"]] * 2
    assert [command.split()[-1] for command in commands] == ["demo", "loadfile"]
    assert "-m pytest" in commands[1]
