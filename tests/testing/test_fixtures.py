"""The pytest plugin: fixtures for whoever installs nekkar, light to load, and gone with ``-p no:nekkar``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.package.test_layers import EXTRAS, LAZY, run
from tests.support.pages import ROOT, Fence, all_fences

BLOCKS = [fence for fence in all_fences("python") if re.search(r"def test_|\(CacheConformance\)", fence.code)]

USES_BOTH = """
import pytest

def test_clock_and_limiter_go_together(nekkar_clock, nekkar_limiter):
    limit = nekkar_limiter("jobs", "10/second")
    before = nekkar_clock.now
    for _ in range(30):
        limit.acquire()
    assert round(nekkar_clock.now - before, 6) == 2.1

@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_has_its_own(nekkar_limiter, turn):
    nekkar_limiter("jobs", 1).acquire(max_wait=0)
"""
USES_NONE = "def test_nothing(): pass\n"


def pytest_run(folder: Path, test: str, *arguments: str) -> str:
    """Run pytest on a test in a folder, warnings as errors, as where nekkar is installed; return what it printed.

    The entry point is the one in pyproject.toml, whatever of nekkar is installed here, and older or newer.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    plugins = "".join(f"{name} = {module}\n" for name, module in project["entry-points"]["pytest11"].items())
    installed = folder / "site" / "nekkar-0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: nekkar\nVersion: 0\n")
    (installed / "entry_points.txt").write_text(f"[pytest11]\n{plugins}")
    (folder / "test_it.py").write_text(test)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder / "site")])}
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "-rs", *arguments, "test_it.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_the_fixtures_are_there_where_nekkar_is_installed(tmp_path: Path) -> None:
    """By the entry point alone; each test has a clock and a limiter of its own, and the limiter runs on the clock."""
    assert "3 passed" in pytest_run(tmp_path, USES_BOTH)


def test_the_fixtures_may_be_asked_for_twice(tmp_path: Path) -> None:
    """By entry point and by name: pytest once refused to start, one module having two names."""
    test = 'pytest_plugins = ["nekkar.testing.fixtures"]\n' + USES_BOTH
    assert "3 passed" in pytest_run(tmp_path, test, "-p", "nekkar.testing.fixtures")


def test_the_fixtures_say_what_they_are(tmp_path: Path) -> None:
    """``pytest --fixtures`` lists both with their docstrings."""
    told = pytest_run(tmp_path, USES_NONE, "--fixtures")
    assert re.search(r"nekkar_clock.*\n.*jumps over every wait", told)
    assert re.search(r"nekkar_limiter.*\n.*in memory", told)


def test_the_plugin_can_be_turned_off(tmp_path: Path) -> None:
    """``-p no:nekkar`` leaves other tests alone, and the fixtures out."""
    assert "1 passed" in pytest_run(tmp_path / "one", USES_NONE, "-p", "no:nekkar")
    assert "fixture 'nekkar_clock' not found" in pytest_run(tmp_path / "other", USES_BOTH, "-p", "no:nekkar")


def test_the_plugin_is_light() -> None:
    """Beyond pytest itself it loads no extra, no cache's library and no event loop."""
    code = f"""
import sys, pytest
before = set(sys.modules)
import nekkar.testing.plugin, nekkar.testing.fixtures
print(*sorted((set(sys.modules) - before) & set({[*EXTRAS, *LAZY]})))
"""
    assert run(code).split() == []


def test_the_fake_clock_and_the_suite_need_no_pytest() -> None:
    """``nekkar.testing`` loads neither pytest nor unittest's runner."""
    assert run("import sys, nekkar.testing; print('pytest' in sys.modules, 'unittest' in sys.modules)").split() == [
        "False",
        "False",
    ]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_the_tests_in_the_docs_pass(block: Fence, tmp_path: Path) -> None:
    """Each block with tests, as a file of tests."""
    told = pytest_run(tmp_path, block.code)
    assert re.search(r"\d+ passed", told), told
    assert not re.search(r"failed|error", told), told


def test_there_are_tests_in_the_docs() -> None:
    """The test above is not empty."""
    assert len(BLOCKS) >= 2
