"""What a report costs on a large store of made-up runs: seconds and memory."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import cmkd
from cmkd.config.sweep import Arm, load_sweep
from cmkd.report.stamp import SETTLED_SECONDS
from cmkd.tracking.mlflow_store import open_store

CLASSES, CLIPS, EPOCHS, FRAMES = 12, 1000, 50, 8
METRICS = (
    *("train_loss", "train_acc", "loss_ce", "loss_spatial", "loss_temporal", "alpha_entropy"),
    *("val_acc", "val_loss", "lr", "step_seconds", "seconds"),
)
TAGS = {
    "kind": "trial",
    "sweep": "ablation",
    "fold": "0",
    "folds": "1",
    "teacher": "made up",
    "data": "synthetic",
    "data_id": "made up",
    "data_kind": "embedded",
    "git_commit": "0" * 40,
    "selection": "best validation",
}
INSIDE_SEEDS = 5
"""Of every arm keep what goes on inside; a report reads no more."""


@dataclass(frozen=True)
class ReportCost:
    """Of one command from its start to its end; `mib` is the most memory that it held."""

    runs: int
    seconds: float
    cpu_seconds: float
    mib: float


def measure_reports(folder: Path) -> Mapping[str, ReportCost]:
    """Reports on stores of 10,000 and of 500 runs of 50 epochs, by their names."""
    large = make_store(folder / "large", runs=10_000)
    small = make_store(folder / "small", runs=500)
    time.sleep(SETTLED_SECONDS)
    return {
        "tables alone": _measure(large, 10_000, "tables", "--no-plots"),
        "tables and figures": _measure(large, 10_000, "tables"),
        "the same again, nothing changed": _measure(large, 10_000, "tables"),
        "tables alone of a smaller store": _measure(small, 500, "tables", "--no-plots"),
    }


def measure_results(folder: Path) -> Mapping[str, tuple[int, float]]:
    """Rows and CPU seconds of each frame of `cmkd.results` on a store of 500 runs."""
    uri = f"sqlite:///{make_store(folder, runs=500) / 'mlflow.db'}"
    cmkd.results.trials(uri)  # Loads pandas.
    found = {}
    for read in (cmkd.results.trials, cmkd.results.epochs, cmkd.results.predictions):
        started = time.process_time()
        rows = len(read(uri))
        found[read.__name__] = (rows, time.process_time() - started)
    return found


def make_store(folder: Path, *, runs: int) -> Path:
    """A store in ``folder/mlflow.db`` with `runs` finished trials of Table 4; returns `folder`."""
    folder.mkdir(parents=True)
    open_store(f"sqlite:///{folder / 'mlflow.db'}").find({"kind": "trial"})
    arms = load_sweep("ablation").arms
    rng = np.random.default_rng(0)
    labels = [f"class_{number % CLASSES:02d}" for number in range(CLIPS)]
    with sqlite3.connect(folder / "mlflow.db") as store:
        store.execute("PRAGMA synchronous = OFF")
        store.execute(
            "INSERT INTO experiments (experiment_id, name, lifecycle_stage) "
            "VALUES (1, 'ablation/synthetic', 'active')"
        )
        for number in range(runs):
            seed, place = divmod(number, len(arms))
            right = rng.random(CLIPS) < 0.6 + 0.03 * (place % 5)
            _add_run(store, folder, number, arms[place], seed, labels, right)
        # In the order of the index, which takes a tenth of the time.
        store.executemany(
            "INSERT INTO metrics (key, value, timestamp, run_uuid, step) VALUES (?, ?, ?, ?, ?)",
            (
                (key, 100.0 * epoch / EPOCHS, epoch, f"{number:032x}", epoch)
                for key in sorted(METRICS)
                for epoch in range(1, EPOCHS + 1)
                for number in range(runs)
            ),
        )
    return folder


def _add_run(
    store: sqlite3.Connection,
    folder: Path,
    number: int,
    arm: Arm,
    seed: int,
    labels: list[str],
    right: np.ndarray,
) -> None:
    run_id = f"{number:032x}"
    files = folder / "mlartifacts" / run_id
    files.mkdir(parents=True)
    store.execute(
        "INSERT INTO runs (run_uuid, name, status, start_time, lifecycle_stage, artifact_uri, "
        "experiment_id) VALUES (?, ?, 'FINISHED', ?, 'active', ?, 1)",
        (run_id, f"{arm.name} fold 0 seed {seed}", number, files.as_uri()),
    )
    tags = TAGS | {
        "arm": arm.name,
        "seed": str(seed),
        "trial_id": f"{number:012x}",
        "setting_id": arm.setting.id,
    }
    store.executemany(
        "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)",
        [(key, value, run_id) for key, value in tags.items()],
    )
    _write_predictions(files / "predictions.csv", labels, right)
    if seed < INSIDE_SEEDS and arm.setting.method.decoder:
        _write_inside(files / "inside.json", number, taught=arm.setting.method.needs_teacher)
    accuracy = 100 * float(right.mean())
    last = {"test_acc": accuracy, "test_acc_last": accuracy, "best_val_acc": accuracy}
    store.executemany(
        "INSERT INTO latest_metrics (key, value, timestamp, step, is_nan, run_uuid) "
        "VALUES (?, ?, 0, 0, 0, ?)",
        [(key, value, run_id) for key, value in (dict.fromkeys(METRICS, 1.0) | last).items()],
    )


def _write_predictions(path: Path, labels: list[str], right: np.ndarray) -> None:
    rows = ["clip,group,label,selected,last"]
    for clip, (label, is_right) in enumerate(zip(labels, right.tolist(), strict=True)):
        said = label if is_right else labels[(clip + 1) % CLIPS]
        rows.append(f"{label}/test_{clip:04d}.mp4,,{label},{said},{said}")
    path.write_text("\r\n".join(rows) + "\r\n")


def _write_inside(path: Path, number: int, *, taught: bool) -> None:
    edges = np.random.default_rng(number).random((FRAMES, FRAMES)).round(4).tolist()
    graphs = dict.fromkeys(("1", "2", "3"), edges)
    clip = {
        "clip": "a.mp4",
        "label": "a",
        "motion": [1.0] * FRAMES,
        "alpha": [1.0] * FRAMES,
        "student": graphs,
        "teacher": graphs if taught else None,
    }
    path.write_text(json.dumps({"schema": 1, "clips": [clip]}))


def _measure(folder: Path, runs: int, *arguments: str) -> ReportCost:
    command = [sys.executable, "-m", "cmkd", "report", *arguments]
    command += ["--tracking-uri", f"sqlite:///{folder / 'mlflow.db'}", "--out", str(folder / "out")]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    seconds = time.perf_counter() - started
    return ReportCost(runs, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
