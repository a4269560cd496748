"""The python-gitlab SDK on a limited session, not a line of it changed: attempts take slots, refusals are heard."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import gitlab
import pytest
import requests

from nekkar.core.cache import MemoryCache
from nekkar.core.limiter import Nekkar
from nekkar.requests import limit
from nekkar.rules import Rule, RuleTable
from nekkar.testing import FakeClock
from tests.support.http_server import Handler, Server
from tests.support.web import running

NAME = "gitlab-{header:PRIVATE-TOKEN}"
RULES = RuleTable([Rule("*/api/v4/*", NAME)], {NAME: {"rate": "4/minute", "headers": True}})


class GitlabHandler(Handler):
    """Answers /api/v4/projects, after as many refusals as its server is told to give."""

    def answer_api(self) -> None:
        assert isinstance(self.server, GitlabServer)
        headers = {"Content-Type": "application/json"}
        if self.server.refusals:
            return self.answer(429, headers | self.server.refusals.pop(), b'{"message": "429 Too Many Requests"}')
        project = {"id": 42, "name": "nekkar"}
        body = project if self.rest.endswith("/42") else [project]
        return self.answer(200, headers | self.server.told, json.dumps(body).encode())


class GitlabServer(Server):
    handler = GitlabHandler

    def __init__(self) -> None:
        super().__init__()
        self.refusals: list[dict[str, str]] = []
        self.told: dict[str, str] = {}


@pytest.fixture
def server() -> Iterator[GitlabServer]:
    with running(GitlabServer()) as served:
        yield served


@pytest.fixture
def sleeps(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the SDK sleeps before it repeats a call; time passes meanwhile."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.advance(seconds)

    monkeypatch.setattr("gitlab.utils.time.sleep", sleep)
    return slept


def client_of(server: Server, limiter: Nekkar) -> gitlab.Gitlab:
    session = requests.Session()
    session.trust_env = False
    return gitlab.Gitlab(server.url, private_token="glpat-secret", session=limit(session, limiter, RULES))


def test_calls_wait_for_their_limit(server: GitlabServer, clock: FakeClock) -> None:
    """Four a minute for each token: the fifth call comes a minute after the first."""
    before = clock.now
    with client_of(server, Nekkar(clock=clock)) as client:
        assert client.projects.get(42).name == "nekkar"
        assert [project.id for project in client.projects.list(get_all=False)] == [42]
        for _ in range(3):
            client.projects.get(42)
    assert clock.now - before > 60
    assert len(server.seen) == 5


def test_a_refusal_is_heard_by_the_fleet_and_waited_for_once(
    server: GitlabServer, clock: FakeClock, sleeps: list[float]
) -> None:
    """The SDK sleeps for the 20 s of ``Retry-After`` and repeats the call; another process waits as long."""
    cache = MemoryCache()
    server.refusals = [{"Retry-After": "20"}]
    before = clock.now
    with client_of(server, Nekkar(cache, clock=clock)) as client:
        client.projects.get(42)
    assert clock.now - before == pytest.approx(20)
    assert sleeps == [20]
    assert len(server.seen) == 2
    server.refusals = [{"Retry-After": "20"}]
    with client_of(server, Nekkar(cache, clock=clock)) as client, pytest.raises(gitlab.GitlabError):
        client.http_get("/projects/42", obey_rate_limit=False)
    before = clock.now
    with client_of(server, Nekkar(cache, clock=clock)) as client:
        client.projects.get(42)
    assert clock.now - before == pytest.approx(20)


def test_what_gitlab_says_is_left_counts(server: GitlabServer, clock: FakeClock) -> None:
    """The reset is Unix time, by the clock of the answer's ``Date``: three of four calls are others' until then."""
    reset = f"{int(time.time()) + 30}"
    server.told = {"RateLimit-Limit": "4", "RateLimit-Remaining": "0", "RateLimit-Reset": reset}
    before = clock.now
    with client_of(server, Nekkar(clock=clock)) as client:
        client.projects.get(42)
        client.projects.get(42)
    assert clock.now - before == pytest.approx(30, abs=2)
