"""``python -m tests.benchmarks``: measure nekkar beside its peers, print tables and goals, draw a picture."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tests.benchmarks import cost, faces, load, loops, size, tokens
from tests.benchmarks.figures import QUICK, Figure, Part, Scale, Stage
from tests.benchmarks.goals import verdicts
from tests.benchmarks.limiters import BY_NAME
from tests.benchmarks.page import written
from tests.benchmarks.report import draw, show
from tests.benchmarks.token_limiters import TOKENS
from tests.support.servers import memcached, redis_server

SERVERS = {"memcached": "memcached", "redis-server": "Redis"}
PARTS: dict[str, Part] = {
    "cost": cost.sync,
    "tasks": cost.tasks,
    "threads": load.threads,
    "processes": load.processes,
    "binding": load.binding,
    "tokens": tokens.tokens,
    "spacing": load.spacing,
    "loops": loops.loops,
    "logs": size.logs,
    "waiting": size.tasks,
    "rules": faces.rules,
    "http": faces.http,
    "import": faces.imports,
}


def main(arguments: list[str] | None = None) -> list[Figure]:
    """Run the parts that are asked for; return the figures."""
    options = _options(arguments)
    scale = QUICK if options.quick else Scale()
    console = Console()
    with (
        tempfile.TemporaryDirectory(prefix="nekkar-bench-") as folder,
        memcached("-t", "2") as cache,
        redis_server() as redis,
    ):
        words = options.only.split(";") if options.only else [""]
        stage = Stage(scale, cache, redis, folder, lambda each: any(word in each.name for word in words))
        figures = _measured(console, stage, options.parts or list(PARTS))
    _tell(console, figures, options)
    return figures


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all unless given")
    parser.add_argument("--quick", action="store_true", help="a smoke run: tiny numbers, which mean nothing")
    parser.add_argument("--only", default="", help="contenders whose name has one of these words, parted by semicolons")
    parser.add_argument("--picture", default="benchmarks.png", help="where to draw (benchmarks.png)")
    parser.add_argument(
        "--pages", nargs="+", default=[], help="pages to write the tables into, such as docs/performance.md"
    )
    parser.add_argument("--json", default="", help="where to write the figures as JSON")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    return options


def _measured(console: Console, stage: Stage, parts: list[str]) -> list[Figure]:
    figures: list[Figure] = []
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[now]}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("benchmarks", total=len(parts), now="")
        for name in parts:
            progress.update(bar, description=name)
            for figure in PARTS[name](stage):
                progress.update(bar, now=f"{figure.what}: {figure.who}")
                figures.append(figure)
            progress.advance(bar)
        progress.update(bar, description="done", now="")
    return figures


def _tell(console: Console, figures: list[Figure], options: argparse.Namespace) -> None:
    found = verdicts(figures)
    show(console, figures, found)
    where = (
        f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, {_versions()}, on loopback."
    )
    console.print(where)
    written(options.pages, figures, found, where)
    if missing := sorted({each.library for each in [*BY_NAME.values(), *TOKENS] if not each.is_installed}):
        console.print(f"Left out, since not installed (pip install 'nekkar[bench]'): {', '.join(missing)}")
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(figure) for figure in figures], indent=1), encoding="utf-8")
    if draw(figures, options.picture):
        console.print(f"Picture: {options.picture}")


def _versions() -> str:
    """Return the versions of the servers, as they tell them."""
    said = [
        subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        for program in SERVERS
    ]
    versions = [re.search(r"\d+(\.\d+)+", each) for each in said]
    return " and ".join(f"{name} {found[0]}" for name, found in zip(SERVERS.values(), versions, strict=True) if found)


if __name__ == "__main__":
    main()
