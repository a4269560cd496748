"""Tests reach private names of nekkar through ``tests/support/internals``, so that a move changes one line there."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

from tests.package.test_public import MODULES as PUBLIC

TESTS = Path(__file__).parents[1]
OF_OTHERS = {"_replace", "_exit", "_content"}  # of named tuples, os and requests
Files = dict[str, list[ast.AST]]


@cache
def rooms_and_tests() -> tuple[Files, Files]:
    """Return the syntax nodes of each room of ``internals``, and of each other file under ``tests``."""
    found: tuple[Files, Files] = {}, {}
    for path in sorted(TESTS.rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        found[path.parent.name != "internals"][path.relative_to(TESTS).as_posix()] = nodes
    return found


def imports(found: list[ast.AST], package: str) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of each ``from module import name`` of a package."""
    for node in found:
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith(f"{package}."):
            yield from ((node.module or "", alias.name) for alias in node.names)


def is_public(module: str, name: str) -> bool:
    return f"{module}.{name}" in PUBLIC or (module in PUBLIC and name in import_module(module).__all__)


def is_patched_by_path(node: ast.AST) -> bool:
    """Whether a node is ``monkeypatch.setattr("nekkar.module.name", …)``."""
    match node:
        case ast.Call(func=ast.Attribute(attr="setattr"), args=[ast.Constant(value=str(target)), *_]):
            return target.startswith("nekkar.")
    return False


def private_attributes(found: list[ast.AST]) -> set[str]:
    """Return the names with one leading underscore that a file reads of anything but ``self``."""
    read = [node for node in found if isinstance(node, ast.Attribute) and node.attr[0] == "_"]
    return {node.attr for node in read if node.attr[1] != "_" and ast.unparse(node.value) not in ("self", "cls")}


def test_a_test_imports_only_public_names() -> None:
    """Any other name comes from its room of ``internals``: add it there."""
    _, tests = rooms_and_tests()
    used = [(file, *name) for file, nodes in tests.items() for name in imports(nodes, "nekkar")]
    assert [each for each in used if not is_public(*each[1:])] == []


def test_nothing_is_patched_by_its_path() -> None:
    """``setattr(object, name, …)`` goes on working when the file of the object moves."""
    _, tests = rooms_and_tests()
    patched = [(file, node) for file, found in tests.items() for node in found if is_patched_by_path(node)]
    assert [f"{file}: {ast.unparse(node)}" for file, node in patched] == []


def test_a_private_attribute_is_read_by_one_file() -> None:
    """One that several files need has a function in ``internals``."""
    _, tests = rooms_and_tests()
    readers: dict[str, list[str]] = defaultdict(list)
    for file, found in tests.items():
        for name in private_attributes(found) - OF_OTHERS:
            readers[name].append(file)
    assert {name: files for name, files in readers.items() if len(files) > 1} == {}


def test_internals_has_nothing_that_no_test_uses() -> None:
    """What the tests stop using goes."""
    rooms, tests = rooms_and_tests()
    used = {name for found in tests.values() for name in imports(found, "tests.support.internals")}
    for room, found in rooms.items():
        module = f"tests.{room.removesuffix('.py').replace('/', '.')}"
        here = {node.id for node in found if isinstance(node, ast.Name)}
        functions = [node.name for node in found if isinstance(node, ast.FunctionDef)]
        offered = {name for _, name in imports(found, "nekkar")}.union(functions) - here
        assert {name for name in offered if (module, name) not in used} == set()
