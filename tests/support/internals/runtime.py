"""How generators are run in threads and tasks, and the clocks."""

from __future__ import annotations

from nekkar.core.runtime import fork_lock
from nekkar.core.runtime.drivers import _thread, is_nested, run, run_async, run_steps, wake_threads
from nekkar.core.runtime.effects import (
    Backoff,
    CacheCall,
    CacheSteps,
    Checkpoint,
    Event,
    QueueSteps,
    RunSteps,
    WaitUntil,
    is_under_way,
)
from nekkar.core.runtime.loop_anyio import AnyioLoop
from nekkar.core.runtime.loop_asyncio import AsyncioLoop, TaskEvent
from nekkar.core.runtime.loops import THREADS_PER_LOOP, this_loop
from nekkar.core.runtime.server_clock import READ_EVERY_US, RETRY_US, STALE_US, TRIES, ServerClock
from nekkar.core.runtime.slew import DRIFT, GOOD_US, SLEW_PARTS, Reading, SlewedTime, set_by
