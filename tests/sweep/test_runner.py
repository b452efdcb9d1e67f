"""How CPUs and GPUs are shared out, and what becomes of errors that pass through a real Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmkd.sweep.runner import gpu_share

TOO_LONG = """
import sys
from pathlib import Path
from cmkd.errors import InfrastructureError
from cmkd.sweep.runner import start_engine
try:
    with start_engine(1, Path(sys.argv[1])):
        pass
except InfrastructureError as error:
    print(error)
"""
ERRORS = """
import os, sys
from pathlib import Path
from cmkd.sweep import runner

def teach(config, cache):
    if config == "raises":
        raise ValueError("no such teacher")
    os._exit(1)
    yield

def refuse(trial_id):
    raise ZeroDivisionError("ours")

runner.train_teacher = teach
runner.RETRIES = 0
with runner.start_engine(2, Path(sys.argv[1])) as engine:
    for config in ("raises", "dies"):
        for update in engine.train_teachers({"t": config}, lambda: None):
            print(update.failure.cause)
            print("teach" in update.failure.trace)
    try:
        events = runner.Events(refuse, lambda update: None, lambda: None)
        engine.train_trials({"t": None}, events, "name")
    except ZeroDivisionError as error:
        print(repr(error))
"""


GIVEN_UP = """
import sys, time
from pathlib import Path
from cmkd.sweep import runner, tuning
from cmkd.sweep.worker import Outcome, Update

class Counts:
    def __init__(self, configs, cache):
        self.epochs = configs
    def start(self, trial_id):
        self.trial_id, self.epoch = trial_id, 0
    def step(self):
        self.epoch += 1
        over = self.epoch == self.epochs[self.trial_id]
        return Update(self.trial_id, (self.epoch,), 1, Outcome({}, ()) if over else None)

tuning.TrialWorker = Counts
events = runner.Events(
    lambda trial_id: print("started", trial_id),
    lambda update: print(update.trial_id, *update.epochs, update.done),
    lambda: None,
    lambda update: update.trial_id == "slow" and update.epochs[0] == 2,
)
with runner.start_engine(1, Path(sys.argv[1])) as engine:
    engine.train_trials({"slow": 9, "next": 1}, events, "name")
"""


def output_of(script: str, folder: Path, **environment: str) -> list[str]:
    """Lines that a script prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if "(raylet)" not in line]


@pytest.mark.parametrize(
    ("gpus", "workers", "share"), [(0, 2, 0.0), (1, 1, 1.0), (1, 4, 0.25), (2, 3, 0.5), (4, 2, 1.0)]
)
def test_all_workers_fit_on_the_gpus(gpus, workers, share):
    assert gpu_share(gpus, workers) == share


def test_an_engine_that_does_not_start_names_a_remedy(tmp_path):
    (line,) = output_of(TOO_LONG, tmp_path, RAY_TMPDIR=str(tmp_path / ("x" * 120)))
    assert line.startswith("Ray does not start: ")
    assert line.endswith("; a short RAY_TMPDIR may help")


@pytest.mark.slow  # a real Ray, and its workers
def test_causes_survive_the_engine(tmp_path):
    told, trace, died, _, ours = output_of(ERRORS, tmp_path)
    assert told == "ValueError: no such teacher"
    assert trace == "True", "the frames of the worker are kept"
    assert died.startswith("WorkerDied: its process was killed")
    assert died.endswith(")")
    assert ours == "ZeroDivisionError('ours')"


@pytest.mark.slow  # a real Ray, and its worker
def test_a_trial_that_is_given_up_ends_and_the_next_one_starts(tmp_path):
    assert output_of(GIVEN_UP, tmp_path) == [
        "started slow",
        "slow 1 False",
        "slow 2 False",
        "started next",
        "next 1 True",
    ]
