"""The layers: imports go one way, the core knows no HTTP, and importing nekkar pulls in no extra."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import nekkar

PACKAGE = Path(nekkar.__file__).parent  # the installed one, where that is what is tested
ROOT = PACKAGE.parent

# From the bottom up: a module imports, at its top, only from lines above its own. A folder is one
# layer; inside it imports go one way too, since nowhere are they circular.
LAYERS = [
    "nekkar.core.lazy",
    "nekkar.core.errors",
    "nekkar.core.events",
    "nekkar.core.cost",
    "nekkar.core.quota",
    "nekkar.core.once",
    "nekkar.core.rounds",
    "nekkar.core.admission",
    "nekkar.core.runtime.fork_lock",
    "nekkar.core.window",
    "nekkar.core.clock",
    "nekkar.core.cache",
    "nekkar.core.runtime",
    "nekkar.core.shared",
    "nekkar.core.waiting",
    "nekkar.core.decorator",
    "nekkar.core.limit_core",
    "nekkar.core.reservation",
    "nekkar.core.limit",
    "nekkar.core.joint",
    "nekkar.core.limiter",
    "nekkar.meters",
    "nekkar.rules",
    "nekkar",
    "nekkar.http",
    "nekkar.requests",
    "nekkar.httpx",
    "nekkar.httpx2",
    "nekkar.redis",
    "nekkar.testing",
    "nekkar.tables",
    "nekkar.progress",
    "nekkar.opentelemetry",
    "nekkar.plan",
    "nekkar.plot",
    "nekkar.demo",
    "nekkar.cli",
    "nekkar.__main__",
]
ADAPTERS = {"nekkar.requests", "nekkar.httpx", "nekkar.httpx2", "nekkar.redis"}
SHARED = {
    "nekkar.http.retry_after",
    "nekkar.http.ratelimit_headers",
    "nekkar.http.bodies",
    "nekkar.http.inspection",
    "nekkar.http.feedback",
    "nekkar.http.limiter",
    "nekkar.http.taps",
    "nekkar.http.transport",
}
HTTP = {"requests", "httpx", "httpx2", "urllib3", "http", "httpcore", "httpcore2", "aiohttp", "h11"}
EXTRAS = ["requests", "httpx", "httpx2", "redis", "rich", "matplotlib", "opentelemetry"]
LAZY = ["pymemcache", "sqlite3", "anyio", "asyncio"]
MOST_LINES = 300

FILES = sorted(path.relative_to(ROOT) for path in PACKAGE.rglob("*.py"))
MODULES = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield what runs when a module is imported: not the bodies of functions, nor what is for type checkers."""
    for statement in body:
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            yield from statements(statement.orelse)
            continue
        yield statement
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            for block in ("body", "orelse", "finalbody"):
                yield from statements(getattr(statement, block, []))
            for handler in getattr(statement, "handlers", []):
                yield from statements(handler.body)


def imported(node: ast.AST) -> list[str]:
    """Return the modules that one statement imports; of nekkar's, the very file that a name comes from."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        files = [f"{node.module}.{alias.name}" for alias in node.names]
        return [file if file in MODULES else node.module for file in files]
    return []


def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports as it is imported itself."""
    return {name for statement in statements(tree(path).body) for name in imported(statement)}


def layer(module: str) -> int:
    """Return the number of a module's layer: its own line, or its folder's."""
    if module in LAYERS:
        return LAYERS.index(module)
    folder = module.rpartition(".")[0]
    assert folder not in ("", "nekkar"), f"{module} has no line in LAYERS; add one where it belongs"
    return layer(folder)


@pytest.mark.parametrize("module", [name for name in MODULES if name != "nekkar.core"])
def test_imports_go_one_way(module: str) -> None:
    """No module imports from its own layer or one above it, but for its own folder."""
    for name in imports(MODULES[module]):
        if name.partition(".")[0] == "nekkar":
            same_folder = layer(name) == layer(module) and module.startswith(LAYERS[layer(name)])
            assert layer(name) < layer(module) or same_folder, f"{module} imports {name}, which is above it"


def test_nothing_is_circular() -> None:
    """No module imports itself, however many steps it takes."""
    own = {name: {other for other in imports(path) if other in MODULES} - {name} for name, path in MODULES.items()}
    assert set(TopologicalSorter(own).static_order()) == set(MODULES)


def test_the_table_of_contents_of_the_core_is_empty() -> None:
    """``nekkar.core`` itself imports nothing, so that importing one of its files imports no other."""
    assert imports(MODULES["nekkar.core"]) == set()


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("nekkar.core") or name in SHARED])
def test_the_core_knows_nothing_of_http(module: str) -> None:
    """Nowhere in the core and in what the HTTP faces share, not even inside a function, is an HTTP library imported."""
    names = {name for node in ast.walk(tree(MODULES[module])) for name in imported(node)}
    assert not {name for name in names if name.partition(".")[0] in HTTP or name.startswith("urllib.request")}


@pytest.mark.parametrize("module", [name for name in MODULES if name in ADAPTERS])
def test_adapters_know_nothing_of_each_other(module: str) -> None:
    """Each adapter needs its own library alone: none imports another."""
    others = ADAPTERS - {module}
    assert not others & {name for node in ast.walk(tree(MODULES[module])) for name in imported(node)}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_all_imports_are_absolute(path: Path) -> None:
    """A module named like the library that it adapts never imports itself by accident."""
    relative = [node for node in ast.walk(tree(path)) if isinstance(node, ast.ImportFrom) and node.level]
    assert not relative


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_is_one_idea(path: Path) -> None:
    """No file has over 300 lines, and each opens with its idea."""
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    assert ast.get_docstring(tree(path))


def run(code: str) -> str:
    """Run code in a fresh interpreter; return what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded(code: str, names: list[str]) -> list[str]:
    """Return which of some modules are loaded in a fresh interpreter that ran some code."""
    return run(f"{code}\nimport sys\nprint(*sorted(set({names}) & set(sys.modules)))").split()


def test_importing_nekkar_imports_no_extra_and_no_driver() -> None:
    """``import nekkar`` needs the standard library alone; caches and event loops come when first used."""
    assert loaded("from nekkar import *\nimport nekkar.testing", [*EXTRAS, *LAZY]) == []


def test_a_program_pays_for_what_it_uses() -> None:
    """``import nekkar`` alone loads none of its parts; a limiter loads no rules, and no cache but its own."""
    assert loaded("import nekkar", [*MODULES, "dataclasses"]) == ["nekkar", "nekkar.core", "nekkar.core.lazy"]
    others = ["nekkar.rules", *(f"nekkar.core.cache.{name}" for name in ("memcached", "sqlite", "url", "stream"))]
    assert loaded("import nekkar\nnekkar.Nekkar()('calls', 5).acquire()", [*others, "socket"]) == []


@pytest.mark.parametrize("package", ["nekkar", "nekkar.core.cache"])
def test_names_that_come_when_asked_for_are_there(package: str) -> None:
    """A package shows, gives and exports each of its names, whether or not it was used; and no other."""
    assert run(f"import {package} as it\nprint(set(it.__all__) <= set(dir(it)))") == "True\n"
    assert run(f"import {package} as it\nprint([name for name in it.__all__ if not hasattr(it, name)])") == "[]\n"
    names = f"import {package} as it\nprint(sorted(set(it.__all__) - set(globals())))"
    assert run(f"from {package} import *\n{names}") == "[]\n"
    with pytest.raises(AttributeError, match=f"{package}.* has no attribute 'Nothing'"):
        _ = import_module(package).Nothing


def test_a_limit_for_threads_loads_no_event_loop() -> None:
    """A program of threads over a memory cache never loads anyio, pymemcache or sqlite3."""
    assert loaded("from nekkar import Nekkar\nwith Nekkar()('calls', 5): pass", [*EXTRAS, *LAZY]) == []


@pytest.mark.parametrize("library", ["requests", "httpx", "httpx2", "opentelemetry"])
def test_importing_an_adapter_imports_its_library_alone(library: str) -> None:
    """``nekkar.requests`` loads requests, and no extra that requests does not; so do the others."""
    pytest.importorskip(library)
    alone = loaded(f"import {library}", EXTRAS)  # httpx loads rich where click is there too, for its own commands
    assert library in alone
    assert loaded(f"import nekkar.{library}", EXTRAS) == alone
