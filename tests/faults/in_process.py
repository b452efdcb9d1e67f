"""Sweeps without Ray: `run_sweep` with its own workers, recorder and store, in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cmkd.api import run_sweep
from cmkd.config.data import EncodingConfig
from cmkd.data import dataset
from cmkd.data.synthetic import SyntheticRecipe
from cmkd.sweep import ray_engine, run
from cmkd.sweep.worker import TrialWorker
from cmkd.training import loop

ENCODING = EncodingConfig(width=64, height=64, gop=8, qscale=6, num_frames=16)
RECIPE = SyntheticRecipe(name="mini", train=12, val=12, test=12, encoding=ENCODING)
SPEC = """
name: {name}
description: a test
data: mini
seeds: 1
base: {{training.epochs: 2, student.width: 4, teacher.width: 4, teacher.training.epochs: 1,
  training.lr: {lr}, method.heads: 1, method.hidden: 4}}
blocks:
  control: {{method.lambda_1: [0.0], method.lambda_2: [0.0]}}
  both: {{}}
"""
"""A teacher and two trials, which take a fraction of a second."""
EXPECTED = SimpleNamespace(lines=list, forecast=SimpleNamespace(workers=1, wall=(0.0, 0.0)))


@dataclass(frozen=True)
class Engine:
    """As Ray's: trains by the same worker; `in_step` waits for the records of every epoch."""

    cache: Path
    in_step: bool

    def train(self, events: Any, tick: Callable[[], None]) -> None:
        worker, recorder = TrialWorker(events.configs, self.cache), events._recorder
        while (key := events.queue.pop()) is not None:
            tick()
            events.started(key)
            worker.start(key)
            is_done = False
            while not is_done:
                update = worker.step()
                events.updated(update)
                is_done = update.done
                while self.in_step and (recorder._queue or recorder._busy):
                    time.sleep(0.001)


def install(patch: pytest.MonkeyPatch, cache: Path, *, in_step: bool) -> None:
    """Make sweeps of this process run in it, on the data set ``mini``."""
    cache.mkdir(parents=True, exist_ok=True)
    patch.setenv("CMKD_CACHE", str(cache))
    patch.setitem(dataset.RECIPES, "mini", RECIPE)
    patch.setattr(dataset, "usable_cpus", lambda: 1)
    patch.setattr(run, "_preflight", lambda *_: EXPECTED)
    patch.setattr(ray_engine, "start_engine", lambda *_: nullcontext(Engine(cache, in_step)))
    patch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)


def complete(spec: Path, tracking_uri: str, only: Sequence[str] = ()) -> None:
    """Run the sweep once; all of it must succeed."""
    result = run_sweep(str(spec), workers=1, tracking_uri=tracking_uri, only=only)
    assert result.plan.complete and not result.failures, result.failures
