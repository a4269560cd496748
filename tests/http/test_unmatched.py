"""Requests that no rule matches, and other faults of a configuration, through every client."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import requests

from nekkar.core.errors import ConfigurationError
from nekkar.core.limiter import Nekkar
from nekkar.requests import NekkarAdapter, RequestConfigurationError, options
from nekkar.rules import Rule, RuleTable
from tests.http.test_feedback import Canned
from tests.support.faces import FACES, Face, done, entered
from tests.support.internals.http import HttpLimiter

URL = "https://api.openai.com/v1/chat/completions"
LIMITS = {"chat": "5/minute", "user-{user}": "250/minute"}
RULES = [
    Rule("*/chat/completions", "chat"),
    Rule("x.y/users/{user}/*", "user-{user}"),
    Rule("x.y/free", False),
]


def table(unmatched: str) -> RuleTable:
    return RuleTable(RULES, LIMITS, unmatched=unmatched)


@pytest.fixture
def sent() -> list[str]:
    """What reached the transport below."""
    return []


def client_of(face: Face, limiter: Nekkar, rules: RuleTable, sent: list[str]) -> Any:
    def answer(request: Any) -> Any:
        sent.append(str(request.url))
        return face.library.Response(200)

    return face.limit(face.client(transport=face.library.MockTransport(answer)), limiter, rules)


def session_of(limiter: Nekkar, rules: RuleTable, sent: list[str]) -> requests.Session:
    class Noting(Canned):
        def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
            sent.append(str(request.url))
            return super().send(request, *args, **kwargs)

    session = requests.Session()
    session.mount("https://", NekkarAdapter(limiter, rules, Noting(200, {})))
    return session


@pytest.mark.parametrize("face", FACES, ids=str)
def test_httpx_refuses_an_unmatched_request_before_it_is_sent(
    face: Face, limiter: Nekkar, sent: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """By an error that ``except TransportError`` catches, as it does httpx' own for an unknown scheme."""

    async def body() -> None:
        async with entered(client_of(face, limiter, table("error"), sent)) as client:
            with pytest.raises(face.library.TransportError) as raised:
                await done(client.post(URL))
            await done(client.get("https://x.y/free"))
        error: Any = raised.value
        assert {face.module.RequestConfigurationError, ConfigurationError} <= set(type(error).__mro__)
        assert isinstance(error.__cause__, ConfigurationError)
        assert str(error.request.url) == URL
        assert "the nearest is rules[0], '*/chat/completions'" in str(error)
        assert pickle.loads(pickle.dumps(error)).args == error.args

    face.run(body)
    assert sent == ["https://x.y/free"]
    assert caplog.records == []


def test_requests_refuses_an_unmatched_request_before_it_is_sent(limiter: Nekkar, sent: list[str]) -> None:
    """By an error that ``except requests.RequestException`` catches."""
    with session_of(limiter, table("error"), sent) as session:
        with pytest.raises(requests.RequestException) as raised:
            session.post(URL)
        session.get("https://x.y/free")
    error: Any = raised.value
    assert {RequestConfigurationError, ConfigurationError} <= set(type(error).__mro__)
    assert isinstance(error.__cause__, ConfigurationError)
    assert error.request.url == URL
    assert "the nearest is rules[0], '*/chat/completions'" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (RequestConfigurationError, str(error))
    assert sent == ["https://x.y/free"]


@pytest.mark.parametrize(("policy", "lines"), [("warn", 1), ("ignore", 0)])
@pytest.mark.parametrize("face", [*FACES, None], ids=str)
def test_an_unmatched_request_is_sent_unlimited(
    face: Face | None, policy: str, lines: int, limiter: Nekkar, sent: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """With one line for its host, or with none. Its admission is None."""

    async def body(face: Face) -> None:
        async with entered(client_of(face, limiter, table(policy), sent)) as client:
            answers = [await done(client.post(URL, params={"key": "SECRET"})) for _ in range(7)]
        assert {answer.extensions["nekkar"] for answer in answers} == {None}

    if face:
        face.run(body, face)
    else:
        with session_of(limiter, table(policy), sent) as session:
            assert {session.post(URL, params={"key": "SECRET"}).nekkar for _ in range(7)} == {None}  # type: ignore[attr-defined]
    assert len(sent) == 7
    said = [message for message in caplog.messages if "no rule matches" in message]
    assert len(said) == lines
    assert "SECRET" not in "".join(said)


@pytest.mark.parametrize("face", FACES, ids=str)
@pytest.mark.parametrize("given", [{"cost": 6}, {"cost": 0}, {"costs": 1}, {"max_wait": "long"}, 5])
def test_httpx_tells_a_bad_call_by_an_error_of_its_own_kind(
    face: Face, given: Any, limiter: Nekkar, sent: list[str]
) -> None:
    """An option that can't be, a cost that can never be admitted: nothing is sent, and the client's errors catch it."""

    async def body() -> None:
        async with entered(client_of(face, limiter, table("error"), sent)) as client:
            with pytest.raises(face.library.TransportError) as raised:
                await done(client.post("https://x.y/chat/completions", extensions={"nekkar": given}))
        assert isinstance(raised.value, face.module.RequestConfigurationError)

    face.run(body)
    assert sent == []


def test_requests_tells_a_cost_that_can_never_be_admitted_by_an_error_of_its_own_kind(
    limiter: Nekkar, sent: list[str]
) -> None:
    """It is known only once the limit is."""
    with session_of(limiter, table("error"), sent) as session, options(cost=6):
        with pytest.raises(requests.RequestException, match="cost 6 can never be admitted") as raised:
            session.post("https://x.y/chat/completions")
        assert isinstance(raised.value, RequestConfigurationError)
    assert sent == []


# What a URL spells, and what code defines.


@pytest.mark.parametrize("first", ["code", "request"])
def test_a_captured_name_that_code_defines_with_other_terms_raises_from_neither(
    first: str, limiter: Nekkar, sent: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A user named ``admin`` must not break the calls, nor the code that defines ``user-admin``, whichever is first.

    Each keeps its own terms, and counts the calls of both; the log says so once.
    """
    with session_of(limiter, table("error"), sent) as session:
        if first == "code":
            limiter("user-admin", "3/minute").acquire()
        responses = [session.get("https://x.y/users/admin/a") for _ in range(2)]
        by_hand = limiter("user-admin", "3/minute")
        if first == "request":
            by_hand.acquire()
        responses += [session.get("https://x.y/users/admin/a") for _ in range(4)]
    assert {response.nekkar.name for response in responses} == {"user-admin"}  # type: ignore[attr-defined]
    (window,) = by_hand.status().windows
    assert (window.limit, window.used) == (3, 7)
    told = [message for message in caplog.messages if "has other terms by hand or in other rules" in message]
    assert len(told) == 1
    assert "'user-admin'" in told[0]
    assert "250 per 60 s" in told[0]
    assert "3 per 60 s" in told[0]


def test_two_definitions_in_code_still_differ_loudly(limiter: Nekkar, sent: list[str]) -> None:
    """Whatever requests came before."""
    with session_of(limiter, table("error"), sent) as session:
        session.get("https://x.y/users/admin/a")
    first = limiter("user-admin", "3/minute")
    with pytest.raises(ConfigurationError, match="'user-admin' is defined already, as 3 per 60 s"):
        limiter("user-admin", "250/minute")
    assert limiter("user-admin", "3/minute", max_wait=1).name == first.name


def test_a_limit_of_the_table_that_code_defines_with_other_terms_is_told_where_the_two_meet(limiter: Nekkar) -> None:
    """When the adapter is made, and not by a request."""
    by_hand = limiter("chat", "9/minute")
    with pytest.raises(ConfigurationError, match="'chat' is defined already, as 9 per 60 s"):
        HttpLimiter(limiter, table("warn"))
    del by_hand


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("42", "user-42"),
        ("%34%32", "user-42"),
        ("./42", "user-42"),
        ("x/../42", "user-42"),
        ("４２", "user-４２"),  # noqa: RUF001  another user: the service gets other bytes
        ("42%00", "user-42\\x00"),
        ("42%0d%0a", "user-42\\x0d\\x0a"),
        ("42%2f", "user-42/"),
        ("42%20", "user-42 "),
        ("42;v=1", "user-42;v=1"),
        ("42%E2%80%8B", "user-42\u200b"),
        ("%ff", "user-\\udcff"),
    ],
)
def test_spellings_of_one_user_share_a_limit_and_others_have_their_own(
    spelled: str, name: str, limiter: Nekkar, sent: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """What a service reads as one path is one limit; every other is admitted under a name of its own."""
    rules = table("error")
    assert rules.resolve("GET", f"https://x.y/users/{spelled}/a") == name
    with session_of(limiter, rules, sent) as session:
        response = session.get(f"https://x.y/users/{spelled}/a")
    assert response.nekkar.name == name  # type: ignore[attr-defined]
    assert len(sent) == 1
