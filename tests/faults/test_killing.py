"""Sweeps that are killed again and again, stopped, frozen, or started twice."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROUNDS = int(os.environ.get("CMKD_FAULT_ROUNDS", "10"))
"""More of them, or another seed, make a longer test: CMKD_FAULT_ROUNDS=100 pytest -s FILE."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(max(900, 240 * ROUNDS))]

Make = Callable[..., Any]

SEED = int(os.environ.get("CMKD_FAULT_SEED", "0"))
SHORT_ID = 8
"""Characters of a run's id that tables show."""
CODES = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
EPOCHS_OF_TRIALS = (
    "select count(*) from metrics m join runs r using (run_uuid) "
    "where m.key = 'val_acc' and r.name not like 'teacher%'"
)


def report_of(space: Any) -> dict[str, str]:
    """The report on a sweep, by file, with names in place of the ids that MLflow draws."""
    code, output = space.run(
        "report", "tables", "--sweep", "tiny.yaml", "--no-plots", "--out", "report"
    )
    assert code == 0, output
    code, output = space.run("report", "verify", "report", "--sweep", "tiny.yaml")
    assert code == 0, output
    files = sorted(Path(space.folder, "report").iterdir())
    assert len(files) >= 5
    texts = {path.name: path.read_text() for path in files if path.is_file()}
    for run_id, name in space.query("select run_uuid, name from runs"):
        for known in (run_id, run_id[:SHORT_ID]):
            texts = {file: text.replace(known, name) for file, text in texts.items()}
    return texts


def stop_once(space: Any, rng: random.Random, number: int) -> tuple[int, int, int]:
    """Start the sweep and send it a signal; (signal, exit code, epochs in the store)."""
    signum = rng.choice(list(CODES))
    while_starting = rng.random() < 0.25
    ((before,),) = space.query(EPOCHS_OF_TRIALS) or [(0,)]
    process = space.start("sweep", "tiny.yaml")
    while process.poll() is None:
        if while_starting and any("/gcs_server " in command for _, command in space.processes()):
            break
        if space.query(EPOCHS_OF_TRIALS) > [(before,)]:
            break
        time.sleep(0.05)
    time.sleep(rng.uniform(0.0, 0.5))
    process.send_signal(signum)
    output, _ = process.communicate(timeout=120)
    assert "Traceback" not in output, output
    if signum != signal.SIGKILL:
        assert "to go on: cmkd sweep tiny.yaml" in output
        assert "RUNNING" not in space.statuses().values()
    ((after,),) = space.query(EPOCHS_OF_TRIALS) or [(0,)]
    assert process.returncode == CODES[signum], (number, output)
    print(f"round {number}: {signal.Signals(signum).name}, {before} -> {after} epochs", flush=True)
    return signum, process.returncode, after


def test_row_09_however_often_it_is_stopped_the_tables_are_the_same(new_workspace: Make) -> None:
    epochs = 6 * ROUNDS
    rng = random.Random(SEED)
    space = new_workspace(epochs)
    started = time.monotonic()
    reached = [stop_once(space, rng, number)[2] for number in range(ROUNDS)]
    assert reached == sorted(reached)
    assert 0 < reached[-1] < 2 * epochs, "the sweep was stopped in the middle"
    code, output = space.run("sweep", "tiny.yaml")
    print(f"{ROUNDS} rounds in {time.monotonic() - started:.0f} s, epochs {reached}", flush=True)
    assert code == 0, output
    assert space.disorder() == []

    unbroken = new_workspace(epochs)
    code, output = unbroken.run("sweep", "tiny.yaml")
    assert code == 0, output
    assert space.metrics() == unbroken.metrics()
    assert report_of(space) == report_of(unbroken)
