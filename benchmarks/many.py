"""``python -m benchmarks.many``: many trials of one step each, through engine and tracking store.

They take as little time as a trial can, so that what is measured is the driver and the store: is
every record there, once, and does memory stay where it was?
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import mlflow_server, postgres_server, resident_mebibytes
from cmkd.data.dataset import ensure_synthetic
from cmkd.data.synthetic import SyntheticRecipe
from cmkd.tracking.mlflow_store import open_store

RECIPE = SyntheticRecipe(name="one-step", train=24, val=12, test=12)
"""Two clips of each class to train on: less than a batch, so an epoch is one step."""
SPEC = """\
name: many
description: one arm, one step
seeds: 1
base:
  training.epochs: 1
  student.width: 4
  method.decoder: false
  method.lambda_1: 0.0
  method.lambda_2: 0.0
blocks:
  one: {}
"""
POINTS = (100, 500, 1000)


@dataclass(frozen=True)
class ManyFigures:
    """What became of the trials.

    Attributes:
        statuses: runs by status.
        missing: finished runs without exactly one validation and one test accuracy, and trials
            without exactly one run.
        memory: MiB of the driver and of the server by trials done.
        complaints: lines of output that tell of the store, or why the sweep failed.
        drain: seconds from the last trial to the end of the sweep.
    """

    trials: int
    code: int
    statuses: dict[str, int]
    missing: int
    memory: dict[int, tuple[float, float]]
    complaints: list[str]
    seconds: float
    drain: float

    def lines(self) -> list[str]:
        """For people."""
        rows = [
            f"  {self.trials} trials, exit code {self.code}: {self.statuses}, "
            f"{self.missing} missing or double, {len(self.complaints)} complaints of the store",
            f"  {self.seconds / self.trials:.2f} s per trial, {self.drain:.1f} s after the last",
        ]
        rows += [
            f"  after {done:4d} trials: driver {driver:.0f} MiB, server {server:.0f} MiB"
            for done, (driver, server) in self.memory.items()
        ]
        return rows + [f"  {line}" for line in self.complaints]


def measure_many(
    folder: Path, trials: int, uri: str, server: Callable[[], float] = lambda: 0.0
) -> ManyFigures:
    """Run `trials` trials with the store at `uri`; `server` gives the memory of what serves it."""
    cache = folder / "cache"
    root = ensure_synthetic(RECIPE, cache)
    (folder / "many.yaml").write_text(SPEC, encoding="utf-8")
    command = [sys.executable, "-m", "cmkd", "sweep", "many.yaml", "--data", str(root), "--yes"]
    command += ["--seeds", str(trials), "--tracking-uri", uri]
    environment = {**os.environ, "CMKD_CACHE": str(cache)}
    output = folder / "output.log"
    memory: dict[int, tuple[float, float]] = {}
    began = last = time.monotonic()
    with output.open("w", encoding="utf-8") as log:
        driver = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        counted = 0
        while driver.poll() is None:
            time.sleep(1.0)
            done = len(list(cache.glob("trials/*/outcome.json")))
            if done > counted:
                counted, last = done, time.monotonic()
            for point in POINTS:
                if counted >= point and point not in memory:
                    memory[point] = (resident_mebibytes(driver.pid), server())
                    seconds = (time.monotonic() - began) / point
                    print(
                        f"  {point} trials: {memory[point]} MiB, {seconds:.2f} s each", flush=True
                    )
    ended = time.monotonic()
    text = output.read_text(encoding="utf-8")
    runs = open_store(uri).find({"kind": "trial"})
    per_trial = Counter(run.trial_id for run in runs)
    whole = [
        run
        for run in runs
        if per_trial[run.trial_id] == 1
        and run.status == "FINISHED"
        and {"val_acc", "test_acc"} <= run.metrics.keys()
    ]
    return ManyFigures(
        trials=trials,
        code=driver.returncode,
        statuses=dict(Counter(run.status for run in runs)),
        missing=trials - len(whole),
        memory=memory,
        complaints=[
            line
            for line in text.splitlines()
            if "tracking store" in line or (driver.returncode and "cmkd:" in line)
        ],
        seconds=ended - began,
        drain=ended - last,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the figures for SQLite, or for an MLflow server in front of PostgreSQL."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many", description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    chosen = parser.parse_args(arguments)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cmkd-many-")))
        if chosen.store == "sqlite":
            print("SQLite")
            figures = measure_many(folder, chosen.trials, f"sqlite:///{folder}/mlflow.db")
        else:
            print("MLflow server in front of PostgreSQL")
            postgres = stack.enter_context(postgres_server())
            server = stack.enter_context(mlflow_server(folder, postgres.url))
            figures = measure_many(folder, chosen.trials, server.url, server.resident_mebibytes)
    print("\n".join(figures.lines()))


if __name__ == "__main__":
    main()
