"""Extras: a module that needs a library says which, and how to install it."""

from __future__ import annotations

import builtins
import sys
from importlib import import_module
from typing import Any

import pytest

NEED = {
    "nekkar.requests": "requests",
    "nekkar.httpx": "httpx",
    "nekkar.httpx2": "httpx2",
    "nekkar.opentelemetry": "opentelemetry",
}


@pytest.mark.parametrize("module", NEED)
def test_a_module_without_its_library_says_what_to_install(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is still a ModuleNotFoundError of that library, raised from the first one."""
    library, find = NEED[module], builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == library:
            raise ModuleNotFoundError(f"No module named {library!r}", name=library)
        return find(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError) as raised:
        import_module(module)
    assert (
        str(raised.value) == f"{module} needs {library}, which is not installed; run: pip install 'nekkar[{library}]'"
    )
    assert raised.value.name == library
    assert isinstance(raised.value.__cause__, ModuleNotFoundError)


def test_a_module_whose_library_lacks_another_names_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where httpx is there but something that it needs is not, the error names what is missing."""
    find = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "httpx":
            raise ModuleNotFoundError("No module named 'httpcore'", name="httpcore")
        return find(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "nekkar.httpx", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"nekkar\.httpx needs httpcore, .* 'nekkar\[httpx\]'"):
        import_module("nekkar.httpx")
