"""What tracking costs: one trial written to SQLite, and a sweep on a server that takes its time."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import mlflow_server, slow_proxy
from cmkd.tracking.mlflow_store import open_store
from cmkd.tracking.store import EpochRecord, RunEnding, RunIdentity

TRIALS, EPOCHS = 5, 20
METRICS = (
    *("train_loss", "train_acc", "loss_ce", "loss_spatial", "loss_temporal"),
    *("alpha_entropy", "val_acc", "lr", "step_seconds", "seconds"),
)

SLOW_SECONDS = 1.0
"""Before every answer of the slow server."""
SPEC = """\
name: tracked
description: two arms, two seeds
data: synthetic-smoke
seeds: 2
base:
  training.epochs: 24
  teacher.training.epochs: 1
blocks:
  baseline:
    method.decoder: [false]
    method.lambda_1: [0.0]
    method.lambda_2: [0.0]
  both: {}
"""


@dataclass(frozen=True)
class ServerFigures:
    """One sweep on a server.

    Attributes:
        epoch: median seconds of an epoch, as the trials measure it.
        requests: to the server, per trial.
        wall: seconds from the first epoch to the end.
        drain: of these, after the last trial has ended.
    """

    epoch: float
    requests: float
    wall: float
    drain: float


def measure_servers(cache: Path, folder: Path) -> tuple[ServerFigures, ServerFigures]:
    """The same sweep on a server that answers at once and on one that waits `SLOW_SECONDS`.

    Args:
        cache: has the data set and its arrays, and is not written to.
    """
    fast, slow = (_sweep(cache, folder / f"{delay:g}", delay) for delay in (0.0, SLOW_SECONDS))
    return fast, slow


def _sweep(cache: Path, folder: Path, delay: float) -> ServerFigures:
    (folder / "cache").mkdir(parents=True)
    for part in ("data", "arrays"):
        (folder / "cache" / part).symlink_to(cache / part)
    (folder / "tracked.yaml").write_text(SPEC, encoding="utf-8")
    with (
        mlflow_server(folder, f"sqlite:///{folder}/mlflow.db") as server,
        slow_proxy(server.port, delay) as (url, seen),
    ):
        command = [sys.executable, "-m", "cmkd", "sweep", "tracked.yaml", "--tracking-uri", url]
        environment = {**os.environ, "CMKD_CACHE": str(folder / "cache")}
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        ended = time.time()
    paths = list((folder / "cache").glob("trials/*/outcome.json"))
    epochs = [epoch for path in paths for epoch in json.loads(path.read_text())["history"]]
    began = min(one["timestamp_ms"] / 1000 - one["metrics"]["seconds"] for one in epochs)
    return ServerFigures(
        epoch=statistics.median(one["metrics"]["seconds"] for one in epochs),
        requests=len(seen) / len(paths),
        wall=ended - began,
        drain=ended - max(path.stat().st_mtime for path in paths),
    )


def measure_tracking(folder: Path) -> float:
    """Median seconds per trial: run, parameters, tags, metrics of 20 epochs, end."""
    store = open_store(f"sqlite:///{folder / 'tracking.db'}")
    laps = []
    for trial in range(TRIALS):
        names = [f"key_{number}" for number in range(30)]
        identity = RunIdentity(
            trial_id=f"bench-{trial}",
            experiment="bench/tracking",
            name=f"bench {trial}",
            tags=dict.fromkeys(names[:12], "tag"),
            params=dict.fromkeys(names, "value"),
        )
        started = time.perf_counter()
        run_id = store.open(identity, {})
        for epoch in range(1, EPOCHS + 1):
            store.log(run_id, [EpochRecord(epoch, 1_700_000_000_000 + epoch, _metrics(epoch))])
        store.close(run_id, RunEnding("FINISHED", summary=_metrics(0)))
        laps.append(time.perf_counter() - started)
    return statistics.median(laps)


def _metrics(epoch: int) -> dict[str, float]:
    return {name: epoch + 0.5 for name in METRICS}
