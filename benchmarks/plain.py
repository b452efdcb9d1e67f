"""CPU of a sweep beside that of the same trials without orchestration, as a user might write them.

A plain loop in one process, and joblib with a process per worker; both log every epoch to MLflow.
Network, data, epochs, validation, checkpoints and test are those of `cmkd`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.naive import SPEC, trials_of
from benchmarks.sweep import WORKERS
from cmkd.config.trial import TrialConfig

PERIOD_SECONDS = 0.1


@dataclass(frozen=True)
class Cost:
    """Seconds of a command, on the clock and of the CPU of all its processes."""

    wall: float
    cpu: float


def measure_plain(cache: Path, folder: Path, epochs: int = 4) -> dict[str, Cost]:
    """Costs of ours, of the loop and of joblib, where data and teacher are there."""
    spec = folder / "against_plain.yaml"
    spec.write_text(SPEC.replace("training.epochs: 4", f"training.epochs: {epochs}", 1))
    found = {}
    for way in ("teacher", "ours", "loop", "joblib"):
        place = folder / way
        place.mkdir()
        command = [sys.executable, "-m", "benchmarks.plain", way, str(spec), str(cache), str(place)]
        if way in ("teacher", "ours"):
            command = [sys.executable, "-m", "cmkd", "sweep", str(spec), "--workers", str(WORKERS)]
            # The first run makes the data, the teacher and what is known of the networks.
            command += ["--only", "both", "--seeds", "1"] if way == "teacher" else []
        environment = os.environ | {
            "CMKD_CACHE": str(cache),
            "MLFLOW_TRACKING_URI": f"sqlite:///{place / 'mlflow.db'}",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        found[way] = cost_of(command, place, environment)
        if way == "teacher":
            # Results of one way are no other's.
            shutil.rmtree(cache / "trials")
    del found["teacher"]
    return found


def cost_of(command: list[str], folder: Path, environment: dict[str, str]) -> Cost:
    """Cost of a command; processes that live shorter than `PERIOD_SECONDS` are missed.

    Raises:
        CalledProcessError: it fails.
    """
    import psutil

    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    seen: dict[tuple[int, float], float] = {}
    while process.poll() is None:
        try:
            main = psutil.Process(process.pid)
            for one in (main, *main.children(recursive=True)):
                times = one.cpu_times()
                seen[one.pid, one.create_time()] = times.user + times.system
        except psutil.Error:
            pass
        time.sleep(PERIOD_SECONDS)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Cost(time.perf_counter() - started, sum(seen.values()))


def train(config: TrialConfig, cache: Path) -> None:
    """One trial and its run."""
    import mlflow

    from cmkd.config.base import dotted
    from cmkd.training.runtime import configure
    from cmkd.training.trial import TrialRun

    configure(threads=1)
    mlflow.set_experiment("plain")
    with mlflow.start_run(run_name=config.id):
        mlflow.log_params(dotted(config.setting.as_json()))
        trial = TrialRun(config, cache)
        while not trial.finished:
            trial.train_epoch()
            record = trial.history[-1]
            mlflow.log_metrics(dict(record.metrics), step=record.step)
        result = trial.finish()
        mlflow.log_metrics(dict(result.summary))
        for path in result.files:
            mlflow.log_artifact(str(path))


def main(way: str, spec: Path, cache: Path, folder: Path) -> None:
    """All trials of the spec, in a cache of links to what they have in common."""
    import mlflow

    own = folder / "cache"
    own.mkdir()
    for shared in cache.iterdir():
        if shared.name not in ("trials", "locks"):
            (own / shared.name).symlink_to(shared)
    mlflow.set_experiment("plain")
    if way == "loop":
        for config in trials_of(spec, own):
            train(config, own)
        return
    from joblib import Parallel, delayed

    Parallel(WORKERS)(delayed(train)(config, own) for config in trials_of(spec, own))


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
