"""``cmkd status``."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from cmkd.cli.main import app
from cmkd.machine import owner
from cmkd.sweep.progress import ArmStatus, RunningTrial, StatusWriter, SweepStatus

ARMS = (ArmStatus("control", 3, 1, 0, 1, 61.25), ArmStatus("both", 2, 0, 1, 2, None))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CMKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path / "cache"


def keep(cache: Path, status: SweepStatus) -> None:
    view: Any = SimpleNamespace(confirm=None, note=None)
    StatusWriter(view, cache / "sweeps" / f"{status.sweep}.json", status)._write()


def running(name: str = "tiny") -> SweepStatus:
    return SweepStatus(
        name,
        "gestures",
        "sqlite:////x/mlflow.db",
        owner().replace("/", "-elsewhere/", 1),
        started=time.time() - 600,
        done=5,
        running=1,
        failed=1,
        to_go=3,
        seconds_left=720.0,
        arms=ARMS,
        training=(RunningTrial("control seed 3 fold 0", 4, 12),),
        failures=("1 x ValueError: no [both seed 0 fold 0]",),
    )


def test_a_running_sweep_is_told_whole(cache: Path) -> None:
    keep(cache, running())
    done = CliRunner().invoke(app, ["status"])
    assert done.exit_code == 0, done.output
    first, counts, _, *arms, training, failed, store = done.stdout.splitlines()
    assert first.startswith("tiny on gestures: running for 10 min now by process ")
    assert re.fullmatch(r".*by process \d+ on host .*-elsewhere, about 12 min left", first)
    assert counts.strip() == "5 done, 1 running, 1 failed, 3 to go"
    assert [line.split() for line in arms] == [
        ["control", "3", "1", "0", "1", "61.2", "%"],
        ["both", "2", "0", "1", "2", "-"],
    ]
    assert training.strip() == "control seed 3 fold 0: epoch 4 of 12"
    assert failed.strip() == "failed: 1 x ValueError: no [both seed 0 fold 0]"
    assert store.strip() == "store sqlite:////x/mlflow.db"


def test_the_json_says_the_same_and_the_last_sweeps_are_shown(cache: Path) -> None:
    for name in "abcd":
        keep(cache, running(name))
    done = CliRunner().invoke(app, ["status", "--json", "--last", "2"])
    told = json.loads(done.stdout)
    assert told["schema"] == 1
    assert [one["sweep"] for one in told["sweeps"]] == ["d", "c"]
    assert told["sweeps"][0]["state"] == "running"
    assert told["sweeps"][0]["arms"][0]["best_val_acc"] == 61.25
    assert told["sweeps"][0]["training"][0]["epoch"] == 4


def test_with_nothing_there_it_says_so_and_makes_nothing(cache: Path) -> None:
    done = CliRunner().invoke(app, ["status"])
    assert (done.exit_code, done.stdout[:12]) == (0, "no sweep yet")
    assert list(cache.parent.iterdir()) == []


def test_row_18_a_running_sweep_is_told_while_its_store_is_away(cache: Path) -> None:
    uri = "http://127.0.0.1:9"
    keep(cache, replace(running(), store=uri))
    shown = CliRunner().invoke(app, ["status", "--tracking-uri", uri])
    assert (shown.exit_code, shown.stdout[:8]) == (0, "tiny on ")
    other = CliRunner().invoke(app, ["status", "--tracking-uri", "http://127.0.0.1:10"])
    assert (other.exit_code, other.stdout[:12]) == (0, "no sweep yet")


def test_it_costs_less_than_a_second(cache: Path) -> None:
    keep(cache, running())
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "cmkd", "status"]
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
