"""A real sweep as a user starts it: what of its wall time is training."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient

from cmkd.tracking.mlflow_store import MlflowStore

WORKERS = min(2, os.cpu_count() or 1)
SPEC = """\
name: bench
description: twelve short trials of two arms
data: synthetic-smoke
seeds: 6
base:
  training.epochs: 8
  teacher.training.epochs: 1
blocks:
  baseline:
    method.decoder: [false]
    method.lambda_1: [0.0]
    method.lambda_2: [0.0]
  both:
    method.lambda_1: [0.1]
    method.lambda_2: [1.0]
"""


@dataclass(frozen=True)
class SweepFigures:
    """Seconds of one sweep; `step` and `train` are summed over its trials."""

    trials: int
    workers: int
    wall: float
    trial_wall: float
    step: float
    train: float
    repeat: float

    @property
    def efficiency(self) -> float:
        """Share of the workers' time, while trials ran, that is training steps."""
        return self.step / (self.trial_wall * self.workers)


def measure_sweep(cache: Path, folder: Path) -> SweepFigures:
    """Run the spec in `folder` twice: the first run trains, the second finds all of it done."""
    spec = folder / "bench.yaml"
    spec.write_text(SPEC, encoding="utf-8")
    command = [sys.executable, "-m", "cmkd", "sweep", str(spec), "--workers", str(WORKERS)]
    environment = {**os.environ, "CMKD_CACHE": str(cache)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    walls = []
    for _ in range(2):
        started = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        walls.append(time.perf_counter() - started)
    store = f"sqlite:///{folder / 'mlflow.db'}"
    runs = MlflowStore(store).find({"kind": "trial"})
    return SweepFigures(
        trials=len(runs),
        workers=WORKERS,
        wall=walls[0],
        trial_wall=trial_wall(store),
        step=sum(run.metrics["seconds_step"] for run in runs),
        train=sum(run.metrics["seconds_train"] for run in runs),
        repeat=walls[1],
    )


def trial_wall(store: str) -> float:
    """First start to last end of the trials in a store, from its own times."""
    client = MlflowClient(store)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(ids, max_results=1000)
    runs = [run for run in found if run.data.tags.get("kind") != "teacher"]
    started = min(run.info.start_time for run in runs)
    ended = max(run.info.end_time for run in runs)
    return float(ended - started) / 1000
