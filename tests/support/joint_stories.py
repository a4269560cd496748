"""The stories of several limits on one call, and how many schedules of each."""

from __future__ import annotations

from typing import Any

from tests.support.internals.core import Quota, cost_of, quota
from tests.support.joint_world import Group, JointStory
from tests.support.simulation import MS


def spaced(text: str, spacing_us: int) -> Quota:
    """Return a quota whose slots are so many microseconds apart."""
    plain = quota(text)
    return Quota(plain.rates, spacing_us, plain.margin_us)


SMALL = (quota("4/s"), quota("6 per 2 s"))
CLOSE: Any = ((MS // 5,),)
FAULTY: Any = {"flushes": 1, "kills": 1, "freezes": 1, "cancels": 3, "lost": 0.03, "starved": 0.02, "skew_us": 5 * MS}
LIGHT, HEAVY = cost_of({"calls": 1, "tokens": 10}), cost_of({"calls": 1, "tokens": 60})
BOTH = (Group((0, 1), 3, 2), Group((1,), 2, 2, 2))

STORIES = {
    "plain": JointStory(
        quotas=SMALL, groups=(Group((0, 1), 3, 2), Group((1,), 2, 2, 3)), away_us=CLOSE, leaks=True,
        judged=True, seconds=6,
    ),
    "costs": JointStory(
        quotas=(quota("6/s"), quota("9 per 2 s")),
        groups=(Group((0, 1), 3, 2, 0, (1, 1, 3)), Group((1,), 2, 2, 2, (1, 2)), Group((0,), 1, 1, 3)),
        away_us=CLOSE, leaks=True, judged=True, seconds=6,
    ),
    "both": JointStory(
        quotas=(quota("5/s"), quota("5/s")), groups=(Group((0, 1), 2, 2), Group((0,), 2, 2, 1), Group((1,), 2, 2, 2)),
        away_us=CLOSE, leaks=True, judged=True, seconds=8,
    ),
    "cancelled": JointStory(quotas=SMALL, groups=BOTH, cancels=12, away_us=CLOSE, tasks=True, leaks=True, max_wait=0.5),
    "flushed": JointStory(quotas=SMALL, groups=BOTH, flushes=2, skew_us=5 * MS),
    "storm": JointStory(quotas=SMALL, groups=(*BOTH, Group((0,), 1, 1, 4)), **FAULTY),
    "tasks": JointStory(quotas=SMALL, groups=(*BOTH, Group((0,), 1, 1, 4)), tasks=True, max_wait=0.3, **FAULTY),
    "deaf": JointStory(quotas=SMALL, groups=BOTH, lost=0.2, freezes=1, cancels=4, starved=0.05),
    "three": JointStory(
        quotas=(*SMALL, quota("5/s")),
        groups=(Group((0, 1, 2), 3, 2), Group((1, 2), 2, 1, 2), Group((2,), 1, 2)), **FAULTY
    ),
    "returned": JointStory(
        quotas=(*SMALL, quota("5/s")), groups=(Group((0, 1, 2), 2, 2), Group((1, 2), 2, 1, 1), Group((2,), 1, 2)),
        away_us=CLOSE, leaks=True, judged=True, seconds=6,
    ),
    "apart": JointStory(quotas=SMALL, groups=BOTH, away_us=((150, 10 * MS), (10 * MS, 150, 40 * MS)), **FAULTY),
    "far": JointStory(
        quotas=(*SMALL, quota("9/s")), groups=(Group((0, 1, 2), 2, 1), Group((2,), 1, 1, 2)),
        away_us=((20 * MS, 30 * MS),), judged=True, seconds=8,
    ),
    "units": JointStory(
        quotas=(quota("5/s"), quota("9/s; 100 tokens/2s")),
        groups=(Group((0, 1), 3, 2, 0, (LIGHT, HEAVY)), Group((1,), 1, 2, 2, (LIGHT,)), Group((0,), 1, 1, 3)),
        cancels=2, freezes=1, skew_us=5 * MS, seconds=6,
    ),
    "batch": JointStory(
        quotas=(quota("10/s"),),
        groups=(Group((0,), 3, 2, 0, (1, 1, 2)), Group((0,), 3, 3, 1, (1, 2), headroom=3000)), **FAULTY,
    ),
    "batch both": JointStory(
        quotas=(quota("6/s"), quota("12 per 2 s")),
        groups=(Group((0, 1), 3, 1), Group((0, 1), 2, 3, 2, headroom=4000), Group((1,), 2, 1)), **FAULTY,
    ),
    "batch heavy": JointStory(
        quotas=(quota("10/s"),), groups=(Group((0,), 2, 1, 0, (8,)), Group((0,), 3, 3, 1, headroom=3000)),
        away_us=CLOSE, judged=True, exact=True, seconds=6,
    ),
    "held": JointStory(quotas=SMALL, groups=BOTH, holds=2, cancels=2, away_us=CLOSE, seconds=6),
    "reset": JointStory(quotas=SMALL, groups=BOTH, resets=2, freezes=1, kills=1, skew_us=5 * MS, seconds=6),
    "newcomers": JointStory(quotas=SMALL, groups=BOTH, flushes=2, newcomers=True, away_us=CLOSE, seconds=6),
    "shaken": JointStory(
        quotas=SMALL, groups=(*BOTH, Group((0,), 1, 1, 4)), holds=1, resets=1, newcomers=True, seconds=6, **FAULTY
    ),
    "mixed": JointStory(
        quotas=SMALL, groups=(*BOTH, Group((0,), 1, 1, 4)), mixed=(quota("2/s"), quota("9 per 2 s")), **FAULTY
    ),
    "spaced": JointStory(
        quotas=(spaced("8/s", 90 * MS), spaced("12 per 2 s", 40 * MS)), groups=(*BOTH, Group((0,), 1, 1, 4)), **FAULTY
    ),
    "storm of units": JointStory(
        quotas=(quota("5/s"), quota("9/s; 100 tokens/2s")),
        groups=(Group((0, 1), 3, 2, 0, (LIGHT, HEAVY)), Group((1,), 1, 2, 2, (LIGHT,)), Group((0,), 1, 1, 3)), **FAULTY,
    ),
    "reversed": JointStory(
        quotas=SMALL, groups=(Group((0, 1), 2, 2), Group((1, 0), 2, 2, 1), Group((0,), 1, 1)), away_us=CLOSE,
        leaks=True,
    ),
}  # fmt: skip
