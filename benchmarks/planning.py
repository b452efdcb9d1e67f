"""What it takes to expand and plan a sweep of 100,000 trials."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SEEDS = 1000
LAMBDAS = [0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]
RUNS = 5


@dataclass(frozen=True)
class PlanningFigures:
    """Medians over fresh processes; times leave out the import of Python modules.

    `cpu_seconds` is what `seconds` of wall time would be on a machine with nothing else to do.
    """

    trials: int
    seconds: float
    cpu_seconds: float
    mebibytes: float


def measure_planning() -> PlanningFigures:
    """Expand a grid of 100 arms with 1,000 seeds and look all of it up in an empty store."""
    laps = []
    for _ in range(RUNS):
        command = [sys.executable, "-m", "benchmarks.planning"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        laps.append(json.loads(done.stdout))
    laps.sort(key=lambda lap: lap["seconds"])
    median = laps[RUNS // 2]
    return PlanningFigures(**median)


def plan_once(seeds: int = SEEDS) -> dict[str, Any]:
    """Figures of this process, which should do nothing else."""
    from cmkd.config.sweep import load_sweep
    from cmkd.sweep.plan import make_plan
    from cmkd.sweep.trials import expand

    axes = {"method.lambda_1": LAMBDAS, "method.lambda_2": LAMBDAS}
    spec = {"name": "many", "description": "a grid", "blocks": {"grid": axes}}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "many.yaml")
        path.write_text(json.dumps(spec), encoding="utf-8")
        started, cpu = time.perf_counter(), time.process_time()
        sweep = load_sweep(str(path))
        trials = expand(sweep, data="synthetic", data_id="0" * 12, folds=1, seeds=seeds)
        plan = make_plan(trials, ())
        assert len(plan.to_run) == len(sweep.arms) * seeds
        plan.lines()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return asdict(PlanningFigures(len(trials), seconds, cpu, peak))


if __name__ == "__main__":
    print(json.dumps(plan_once()))
