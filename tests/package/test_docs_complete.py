"""The docs leave nothing out: each public name, parameter, field, option, key and URL stands on its page."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, get_args

import pytest

from nekkar.core.errors import NekkarError
from nekkar.core.events import Event
from tests.support.internals.caches import SCHEMES
from tests.support.internals.cli import _parser
from tests.support.internals.plan import _READERS
from tests.support.internals.rules import SETTINGS
from tests.support.pages import DOCS

EVENTS = [kind.__name__ for kind in get_args(Event)]

# Each module with public names, those that it does not list itself, and the pages that tell how to use them.
MODULES: list[tuple[str, list[str], str]] = [
    ("nekkar", [], "how-to/*.md"),
    ("nekkar.rules", [], "how-to/rule-files.md"),
    ("nekkar.requests", [], "how-to/requests.md"),
    ("nekkar.httpx", [], "how-to/httpx.md"),
    ("nekkar.httpx2", [], "how-to/httpx.md"),
    ("nekkar.meters", [], "how-to/tokens.md"),
    ("nekkar.core.cache", [], "how-to/caches/*.md"),
    ("nekkar.redis", ["RedisCache"], "how-to/caches/*.md"),
    ("nekkar.core.events", [*EVENTS, "Listening"], "how-to/telemetry.md"),
    ("nekkar.progress", ["Progress"], "how-to/telemetry.md"),
    ("nekkar.opentelemetry", ["instrument"], "how-to/telemetry.md"),
    ("nekkar.testing", [], "how-to/**/*.md"),
    ("nekkar.testing.fixtures", ["nekkar_clock", "nekkar_limiter"], "how-to/testing.md"),
]
NAMES = [(module, name, pages) for module, more, pages in MODULES for name in more or import_module(module).__all__]
# Public for nekkar's own parts, or the libraries' own interface.
INNER = {"hear", "now_us", "sleep_until", "sleep_until_async", "send", "handle_request"}
INNER |= {"handle_async_request", "close", "aclose"}
MADE_BY_NEKKAR = {"Limit", "Listening"}  # nobody else calls these classes


def read(pages: str) -> str:
    """Return the text of the pages of a pattern."""
    return "\n".join(page.read_text(encoding="utf-8") for page in sorted(DOCS.glob(pages)))


REFERENCE, COMMAND_LINE = read("reference/*.md"), read("reference/command-line.md")


def is_told(word: str, text: str) -> bool:
    """Whether a page has a word in code: between backticks, or in a fence."""
    code = re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL)
    return any(re.search(rf"(?<![\w-]){re.escape(word)}(?!\w)", one) for one in code)


def words(thing: Any) -> Iterator[str]:
    """Yield what a user writes or reads of a public name: methods, parameters, fields."""
    for name, value in vars(thing).items() if inspect.isclass(thing) else ():
        function = getattr(value, "__func__", value)
        is_method = inspect.isfunction(function) and not name.startswith(("_", "test_")) and name not in INNER
        if is_method or name == "__call__" or isinstance(value, property):
            yield from [name] if name != "__call__" else []
            yield from parameters(function) if inspect.isfunction(function) else []
    if callable(thing) and thing.__name__ not in MADE_BY_NEKKAR and not has_no_own_init(thing):
        yield from parameters(thing)


def parameters(thing: Callable[..., Any]) -> Iterator[str]:
    """Yield what can be given to a callable by name, but for the event that a listener is called with."""
    for name, parameter in inspect.signature(thing).parameters.items():
        if name not in ("self", "cls", "event", "kwargs") and parameter.kind is not parameter.VAR_POSITIONAL:
            yield name


def has_no_own_init(thing: Any) -> bool:
    """Whether it is an error that takes what Python's or a library's takes."""
    return inspect.isclass(thing) and issubclass(thing, Exception) and "__init__" not in vars(thing)


@pytest.mark.parametrize(("module", "name", "pages"), NAMES, ids=[f"{module}.{name}" for module, name, _ in NAMES])
def test_each_public_name_is_told_whole(module: str, name: str, pages: str) -> None:
    """With each of its parameters, methods and fields, on the page that tells how to use it; and in the reference."""
    text = read(pages)
    thing = getattr(import_module(module), name)
    missing = {word for word in words(thing) if not is_told(word, text)}
    assert not missing, f"{pages} says nothing of these of {name}"
    assert re.search(rf"^::: [\w.]+\.{name}$", REFERENCE, re.MULTILINE) or is_told(name, REFERENCE)


def test_each_error_that_a_user_may_see_is_told() -> None:
    """Those that are not public too: by which public error to catch them."""
    errors = [error for error in vars(import_module("nekkar.core.errors")).values() if inspect.isclass(error)]
    names = {error.__name__ for error in errors if issubclass(error, NekkarError)}
    assert {name for name in names if name not in read("reference/errors.md")} == set()


def test_httpx2_has_the_names_of_httpx() -> None:
    """So its reference need not be written twice."""
    assert import_module("nekkar.httpx").__all__ == import_module("nekkar.httpx2").__all__


def commands() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command."""
    (found,) = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found.choices)


@pytest.mark.parametrize("command", commands())
def test_each_command_is_told_with_each_option(command: str) -> None:
    """In a section of its own, all options and arguments, as the parser has them."""
    section = COMMAND_LINE.partition(f"## nekkar {command}\n")[2].partition("\n## ")[0]
    for action in commands()[command]._actions:
        for word in action.option_strings or [str(action.metavar)]:
            assert word in ("-h", "--help") or is_told(word, section), f"nekkar {command} {word}"


def test_each_key_of_a_rule_file_is_told() -> None:
    """Settings of limits, and keys of rules, each in the how-to and in the reference."""
    for page in ("how-to/rule-files.md", "reference/rule-file.md"):
        assert {
            word for word in (*SETTINGS, "url", "limit", "methods", "unmatched") if not is_told(word, read(page))
        } == set()


def test_each_url_of_a_cache_is_told() -> None:
    """Each scheme, and each kind of log that ``simulate`` reads."""
    text = read("how-to/caches/index.md")
    assert {scheme for scheme in SCHEMES if not re.search(rf"`{scheme}:", text)} == set()
    assert {ending for ending in _READERS if f"`{ending}`" not in COMMAND_LINE} == set()


def test_the_environment_is_told() -> None:
    """The one variable that nekkar reads."""
    assert is_told("NEKKAR_CACHE", read("how-to/command-line.md"))
    assert is_told("NEKKAR_CACHE", COMMAND_LINE)
