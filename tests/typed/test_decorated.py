"""What a limit decorates stays what it was: to mypy and pyright, and when it is called."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, assert_type, overload

from nekkar import Limit, Nekkar
from nekkar.testing import FakeClock

limiter = Nekkar(clock=FakeClock())
limit = limiter("calls", 1000)
assert_type(limit, Limit)


@limiter(name="some_id_a", rate_limit=100)
def plain(number: int, *, text: str = "a") -> list[str]:
    return [text] * number


@limit
async def task(number: int) -> bytes:
    return b"a" * number


@limit
def items(number: int) -> Iterator[int]:
    yield from range(number)


@limit
async def stream(number: int) -> AsyncIterator[int]:
    yield number


@overload
def either(value: int) -> int: ...
@overload
def either(value: str) -> str: ...
@limit
def either(value: int | str) -> int | str:
    return value


class Doubled:
    def __call__(self, number: int) -> int:
        return 2 * number


class Api:
    @limit
    def method(self, path: str) -> int:
        return len(path)

    @limit
    async def coroutine(self, path: str) -> int:
        return len(path)

    @limit
    @staticmethod
    def static(path: str) -> int:
        return len(path)

    @classmethod
    @limit
    def of_class(cls, path: str) -> Api:
        return cls()

    @property
    @limit
    def size(self) -> int:
        return 3


def test_functions_keep_their_signatures() -> None:
    """Arguments, defaults, overloads and what is returned; the name too."""
    assert assert_type(plain(2, text="b"), list[str]) == ["b", "b"]
    assert assert_type(either(1), int) == 1
    assert assert_type(either("a"), str) == "a"
    assert assert_type(limit(len)([1, 2]), int) == 2
    assert assert_type(limit(Doubled())(2), int) == 4
    assert plain.__name__ == "plain"
    wrong: list[Callable[[], object]] = [
        lambda: plain("2"),  # type: ignore[arg-type]
        lambda: plain(2, test="b"),  # type: ignore[call-arg]
        lambda: either(None),  # type: ignore[call-overload]
        lambda: task(),  # type: ignore[call-arg]
        lambda: Api().method(3),  # type: ignore[arg-type]
        lambda: limit(3),  # type: ignore[arg-type]
        lambda: limiter("calls", 1.5),  # type: ignore[arg-type]
    ]
    assert len(wrong) == 7, "mypy warns of each ignore that it has no use for"


def test_methods_are_bound() -> None:
    """``self`` and ``cls`` are no arguments of what an instance or a class shows; a property is its value."""
    assert assert_type(Api().method("abc"), int) == 3
    assert assert_type(Api.static("abc"), int) == 3
    assert isinstance(assert_type(Api.of_class("abc"), Api), Api)
    assert assert_type(Api().size, int) == 3


def test_coroutines_and_generators_stay_such() -> None:
    """They are awaited and iterated as before, with items of their own type."""

    async def main() -> None:
        waiting: Coroutine[Any, Any, bytes] = task(2)
        assert assert_type(await waiting, bytes) == b"aa"
        assert assert_type(await Api().coroutine("abc"), int) == 3
        assert assert_type([item async for item in stream(3)], list[int]) == [3]

    asyncio.run(main())
    assert assert_type(list(items(3)), list[int]) == [0, 1, 2]
