"""The demonstration: its fleet, its server and its pictures."""

from __future__ import annotations

from nekkar.demo.children import ChildFailed, child
from nekkar.demo.fleet import Outcome, Tally, run_fleet
from nekkar.demo.server import READY, StrictServer, serve
from nekkar.demo.show import Result, progress, show
from nekkar.demo.stage import read_plan
from nekkar.demo.window import fits, free_at, most_calls
from nekkar.demo.worker import Answer, CountingCache, Ended, Terms
