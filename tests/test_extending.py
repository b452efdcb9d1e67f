"""The examples of ``docs/extending.md``, run from outside the package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmkd.config.sweep import load_sweep
from cmkd.sweep.search import pruner_of

ROOT = Path(__file__).resolve().parent.parent


def installed(folder: Path, section: str) -> dict[str, str]:
    """Install the files of a section in `folder`; returns the environment that finds them."""
    text = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    body = text.partition(f"## {section}\n")[2].partition("\n## ")[0]
    files = dict(re.findall(r"^`([\w.]+)`\n\n```\w+\n(.*?)^```", body, flags=re.M | re.S))
    assert files, section
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    project = tomllib.loads(files.get("pyproject.toml", ""))
    points = project.get("project", {}).get("entry-points", {})
    if points:
        info = folder / "extension-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extension\nVersion: 1.0\n")
        lines = [
            line
            for group, names in points.items()
            for line in (f"[{group}]", *(f"{name} = {value}" for name, value in names.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return {"PYTHONPATH": str(folder)}


TRACKED = """
from pathlib import Path
from cmkd.sweep.recorder import Recorder
from cmkd.tracking.mlflow_store import open_store
from cmkd.tracking.reader import open_reader
from cmkd.tracking.store import EpochRecord, RunEnding, RunIdentity

store = open_store("json://" + str(Path("runs").absolute()))
recorder = Recorder(store, print, writers=store.writers)
recorder.open(RunIdentity("t", "e", "n", {"kind": "trial"}, {"a": "1"}), {"config.json": "{}"})
epochs = [EpochRecord(step, step, {"val_acc": 10.0 * step}) for step in (1, 2)]
recorder.log("t", epochs)
recorder.close("t", RunEnding("FINISHED", epochs, {"test_acc": 5.0}))
recorder.drain()
(run,) = open_reader("json://" + str(Path("runs").absolute())).find({"kind": "trial"})
assert (run.status, run.metrics["test_acc"]) == ("FINISHED", 5.0), run
assert store.histories([run.run_id], "val_acc") == {run.run_id: {1: 10.0, 2: 20.0}}
assert store.read_text(run.run_id, "config.json") == "{}"
"""


def test_a_tracker_of_another_package_records_runs(tmp_path: Path) -> None:
    environment = {**os.environ, **installed(tmp_path, "A tracker")}
    command = [sys.executable, "-c", TRACKED]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_pruner_of_another_package_judges_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, "A pruner")
    monkeypatch.syspath_prepend(str(tmp_path))
    search = load_sweep(str(tmp_path / "patient.yaml")).spec.search
    assert search is not None
    pruner = pruner_of(search)
    assert pruner.prune("a", 1, {"a": 50.0, "b": 54.0}) == ""
    assert "6.0 points" in pruner.prune("a", 1, {"a": 50.0, "b": 56.0})


@pytest.mark.slow
def test_a_sweep_with_the_tracker_and_the_pruner_of_another_package(
    new_workspace: Callable[..., Any],
) -> None:
    space = new_workspace()
    for section in ("A tracker", "A pruner"):
        space.environment.update(installed(space.folder, section))
    runs = space.folder / "runs"
    options = ("--workers", "1", "--tracking-uri", f"json://{runs}")
    code, output = space.run("sweep", "patient.yaml", *options)
    assert code == 0, output
    documents = [json.loads(path.read_text()) for path in runs.glob("*.json")]
    assert {run["status"] for run in documents} <= {"FINISHED", "KILLED"}
    assert sum(run["status"] == "FINISHED" for run in documents) >= 1
    code, output = space.run("sweep", "patient.yaml", *options)
    assert code == 0 and "nothing to train" in output, output
