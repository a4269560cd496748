"""Scripts: what is done to a fleet and its server, and when; drawn from a seed, so that a run can be repeated.

Times are seconds from the fleet's begin. The victim of a deed is drawn when it is done, among those fit for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

Act = Literal["kill", "kill in a swap", "freeze", "thaw", "flush", "stop server", "start server"]


@dataclass(frozen=True, slots=True)
class Deed:
    """One act, ``at`` so many seconds."""

    at: float
    act: Act


Script = Callable[[Random], list[Deed]]


def nothing(draw: Random) -> list[Deed]:
    """Do no harm."""
    return []


def kills(count: int, first: float, last: float, each: int) -> Script:
    """Kill workers one after another, one of ``each`` in the middle of a swap."""

    def script(draw: Random) -> list[Deed]:
        times = sorted(draw.uniform(first, last) for _ in range(count))
        return [Deed(at, "kill" if index % each else "kill in a swap") for index, at in enumerate(times)]

    return script


def freeze(first: float, seconds: float) -> Script:
    """Stop a worker for so long, then let it go on."""

    def script(draw: Random) -> list[Deed]:
        at = first + draw.random()
        return [Deed(at, "freeze"), Deed(at + seconds, "thaw")]

    return script


def flushes(*times: float) -> Script:
    """Empty the cache, up to 2 s after each of these times: anywhere in a period."""
    return lambda draw: [Deed(at + 2 * draw.random(), "flush") for at in times]


def restarts(away: float, *times: float) -> Script:
    """Kill the server, up to 2 s after each of these times, and start another on its port after a while."""

    def script(draw: Random) -> list[Deed]:
        stops = [at + 2 * draw.random() for at in times]
        return [deed for at in stops for deed in (Deed(at, "stop server"), Deed(at + away, "start server"))]

    return script


def together(*scripts: Script) -> Script:
    """Follow several scripts at once."""
    return lambda draw: sorted((deed for script in scripts for deed in script(draw)), key=lambda deed: deed.at)


def at_random(first: float, last: float, pause: float) -> Script:
    """Do one thing or another every ``pause`` seconds or so, whatever is under way."""

    def script(draw: Random) -> list[Deed]:
        deeds: list[Deed] = []
        at = server_is_back = first
        while (at := at + draw.uniform(0.2, 1.8) * pause) < last:
            acts: list[Act] = ["kill", "kill in a swap", "freeze"]
            act = draw.choice([*acts, "flush", "stop server"] if at > server_is_back else acts)
            end = min(last, at + draw.uniform(0.1, 4.0))
            deeds.append(Deed(at, act))
            deeds += [Deed(end, "thaw")] if act == "freeze" else []
            deeds += [Deed(end, "start server")] if act == "stop server" else []
            server_is_back = end if act == "stop server" else server_is_back
        return sorted(deeds, key=lambda deed: deed.at)

    return script
