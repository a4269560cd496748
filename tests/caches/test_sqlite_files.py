"""The SQLite file under running processes: removed, replaced, damaged, busy; and forks."""

from __future__ import annotations

import inspect
import logging
import os
import shutil
import sqlite3
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from nekkar.core.cache import SqliteCache
from nekkar.core.errors import CacheError
from tests.support.internals.caches import idle_in, pool, pool_of
from tests.support.internals.caches import sqlite as sqlite_module

PATIENCE = 30.0

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def remove(file: Path) -> None:
    for each in file.parent.glob(file.name + "*"):
        each.unlink()


def replace(file: Path) -> None:
    other = file.with_name("other")
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("PRAGMA user_version = 1")
    os.replace(other, file)


def renew_folder(file: Path) -> None:
    shutil.rmtree(file.parent)
    file.parent.mkdir()


def rename_folder(file: Path) -> None:
    os.rename(file.parent, file.parent.with_name("aside"))
    file.parent.mkdir()


LOSSES: dict[str, Callable[[Path], object]] = {
    "the file and those beside it are removed": remove,
    "another file is moved over it": replace,
    "the log alone is removed": lambda file: file.with_name(file.name + "-wal").unlink(),
    "the index alone is removed": lambda file: file.with_name(file.name + "-shm").unlink(),
    "the folder is removed and made again": renew_folder,
    "the folder is renamed, and another takes its place": rename_folder,
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_cache_follows_its_path_to_the_file_that_is_there_now(
    loss: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It shares the new file with a process that opens it afterwards, and says once what happened."""
    monkeypatch.setattr(sqlite_module, "CHECK_EVERY_S", 0.0)
    file = tmp_path / "folder" / "cache.db"
    file.parent.mkdir()
    running = SqliteCache(file, timeout=PATIENCE)
    running.set("key", "old")
    LOSSES[loss](file)
    running.get("key")
    later = SqliteCache(file, timeout=PATIENCE)
    later.set("key", "from the later one")
    assert running.get("key") == "from the later one"
    running.set("key", "from the running one")
    assert later.get("key") == "from the running one"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(file) in record.getMessage()
    assert "removed or replaced" in record.getMessage()


def test_a_link_that_leads_elsewhere_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a deploy points a link at a new folder."""
    monkeypatch.setattr(sqlite_module, "CHECK_EVERY_S", 0.0)
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "first.db")
    cache = SqliteCache(link)
    for _ in range(2):
        cache.set("key", "value")
    link.unlink()
    link.symlink_to(tmp_path / "second.db")
    cache.set("key", "value")
    assert SqliteCache(tmp_path / "second.db").get("key") == "value"


def test_files_are_compared_a_few_times_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at each command; and a file in use that nobody touches is never taken for another one."""
    looks: list[str] = []
    files = sqlite_module._files

    def counted(path: str) -> object:
        looks.append(path)
        return files(path)

    monkeypatch.setattr(sqlite_module, "_files", counted)
    cache, other, now = SqliteCache(tmp_path / "a.db"), SqliteCache(tmp_path / "a.db"), 1000.0
    monkeypatch.setattr(sqlite_module, "monotonic", lambda: now)
    cache.set("key", "value")
    opened = idle_in(pool_of(cache))[0]
    for _ in range(20):
        now += sqlite_module.CHECK_EVERY_S / 9.9
        cache.set("key", "value")
        other.set("key", "value")
        pool_of(other).clear()  # the first and the last connection come and go around it
    assert idle_in(pool_of(cache))[0] is opened
    assert looks.count(str(tmp_path / "a.db")) < 30


def test_a_folder_that_is_gone_is_an_error_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And once it is there again, the cache goes on."""
    monkeypatch.setattr(sqlite_module, "CHECK_EVERY_S", 0.0)
    file = tmp_path / "folder" / "cache.db"
    file.parent.mkdir()
    cache = SqliteCache(file, timeout=0.05)
    cache.set("key", "value")
    shutil.rmtree(file.parent)
    for _ in range(2):
        with pytest.raises(CacheError, match=r"cache\.db: unable to open.*see that its folder exists"):
            cache.set("key", "value")
    file.parent.mkdir()
    cache.set("key", "value")
    assert cache.get("key") == "value"


def test_a_damaged_file_is_an_error_with_a_remedy_of_its_own(tmp_path: Path) -> None:
    """Time and rights are not what it lacks."""
    file = tmp_path / "cache.db"
    file.write_bytes(b"neither a database nor empty" * 100)
    with pytest.raises(CacheError, match=r"not a database.*name another file, or .*delete it .*cache\.db-wal"):
        SqliteCache(file).get("key")


def test_a_write_that_waits_for_other_processes_holds_up_no_reader(tmp_path: Path) -> None:
    """Nor any other command of its process: it waits without SQLite's lock."""
    cache = SqliteCache(tmp_path / "cache.db", timeout=PATIENCE)
    cache.set("key", "value")
    with closing(sqlite3.connect(tmp_path / "cache.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        writer = threading.Thread(target=cache.set, args=("key", "new"))
        writer.start()
        for _ in range(20):
            assert cache.get("key") == "value"
            time.sleep(0.001)
        assert writer.is_alive()
        other.execute("ROLLBACK")
    writer.join(PATIENCE)
    assert cache.get("key") == "new"


# Forks.


def status_of_child(action: Callable[[], object]) -> int:
    """Fork, and run an action in the child; return 0 where it returned in time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads is what is tested
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        thread = threading.Thread(target=action, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        status = 2 if thread.is_alive() else 0
    finally:
        os._exit(status)


@forks
def test_no_fork_comes_in_the_midst_of_a_command(tmp_path: Path) -> None:
    """Whatever SQLite holds in another thread is released before the process is copied, and no connection is open."""
    cache = SqliteCache(tmp_path / "cache.db", timeout=PATIENCE)
    cache.set("key", "value")
    inside, over = threading.Event(), threading.Event()

    def slow(connection: sqlite3.Connection) -> None:
        inside.set()
        time.sleep(0.1)
        over.set()

    thread = threading.Thread(target=cache._run, args=(slow,))
    thread.start()
    assert inside.wait(PATIENCE)

    def use() -> None:
        assert over.is_set()
        assert not pool._left_to_the_parent or not any(pool._left_to_the_parent)
        cache.set("key", "child's")

    assert status_of_child(use) == 0
    thread.join(PATIENCE)
    assert cache.get("key") == "child's"


@forks
def test_forks_beside_busy_threads_leave_children_free(tmp_path: Path) -> None:
    """Threads that connect, read, write and drop caches; each child uses the file at once."""
    stop = threading.Event()

    def busy(number: int) -> None:
        while not stop.is_set():
            cache = SqliteCache(tmp_path / "cache.db", timeout=PATIENCE)
            for _ in range(5):
                cache.set(f"key-{number}", "value")

    threads = [threading.Thread(target=busy, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(15):
            assert status_of_child(lambda: SqliteCache(tmp_path / "cache.db", timeout=PATIENCE).set("key", "x")) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)


def test_an_interrupt_while_a_command_begins_leaves_the_file_to_other_threads(tmp_path: Path) -> None:
    """Raised at each line up to the command, even right behind the acquiring of the lock that commands share."""
    cache = SqliteCache(tmp_path / "limits.db", timeout=2)
    cache.set("key", "value")
    steps = sqlite_module._one_at_a_time.__wrapped__  # type: ignore[attr-defined]
    lines, first = inspect.getsourcelines(steps)
    last = first + next(number for number, line in enumerate(lines) if line.strip() == "yield")
    for interrupted in range(first + 2, last + 1):

        def local(frame: FrameType, event: str, _: object, line: int = interrupted) -> Any:
            if event == "line" and frame.f_lineno == line:
                raise KeyboardInterrupt
            return local

        before = sys.gettrace()
        sys.settrace(lambda frame, event, _: local if frame.f_code is steps.__code__ else None)
        try:
            with suppress(KeyboardInterrupt):
                cache.get("key")
        finally:
            sys.settrace(before)
        with ThreadPoolExecutor(1) as other:
            assert other.submit(cache.get, "key").result(PATIENCE) == "value", f"after an interrupt at {interrupted}"
