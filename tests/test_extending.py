"""The examples of ``docs/extending.md``: written to a folder as they stand, loaded and trained."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cmkd.config.backbones import find_backbone
from cmkd.config.sweep import load_sweep
from cmkd.config.trial import Setting
from cmkd.data.annotations import OFFICIAL
from cmkd.data.sources import OfficialRequest, find_official
from cmkd.errors import ConfigError, DataError
from cmkd.report.arms import family_of_arm, find_arm
from cmkd.report.evidence import no_evidence
from cmkd.report.paper import find_table, own_table
from cmkd.report.table_page import build_page
from cmkd.report.tables import build_table
from cmkd.sweep.plan import axes_of
from cmkd.sweep.search import pruner_of
from cmkd.training.cost import ProbeTask, probe

ROOT = Path(__file__).resolve().parents[1]


def examples() -> Mapping[str, str]:
    """Files of the page by name."""
    page = (ROOT / "docs" / "extending.md").read_text("utf-8")
    found = re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```$", page, flags=re.M | re.S)
    return dict(found)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in examples().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    find_backbone.cache_clear()
    for name in ("my_nets", "my_losses", "my_sets", "patience"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def settings(spec: Path) -> dict[str, Setting]:
    return {arm.name: arm.setting for arm in load_sweep(str(spec)).arms}


def test_a_backbone(folder: Path) -> None:
    arms = settings(folder / "conv3d.yaml")
    assert {family_of_arm(setting) for setting in arms.values()} == {"C3D"}
    task = ProbeTask(tuple(arms.values()), (arms["both"],), picture=(64, 64), num_classes=3)
    students, teachers = probe(task)
    assert [found.failure for found in (*students, *teachers)] == ["", "", ""]
    assert students[0].fingerprint != students[1].fingerprint


def test_a_loss_with_its_weight_as_an_axis(folder: Path) -> None:
    arms = settings(folder / "cosine.yaml")
    assert len(arms) == 3
    key = "method.extra_losses.my_losses:cosine"
    axes = axes_of(arms.values())
    assert sorted(row[key] for row in axes.values()) == ["0.0", "0.1", "1.0"]
    without = arms[next(name for name in arms if name.endswith("=0.0]"))]
    plain = without.method.model_copy(update={"extra_losses": ()})
    assert without.id == without.model_copy(update={"method": plain}).id
    assert all(setting.method.needs_teacher for setting in arms.values())
    students, _ = probe(ProbeTask(tuple(arms.values()), (), picture=(64, 64), num_classes=3))
    assert [found.failure for found in students] == ["", "", ""]
    assert len({found.fingerprint for found in students}) == 3


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("student.backbone: tsm_r51", "unknown backbone 'tsm_r51'; did you mean 'tsm_r50'"),
        ("student.backbone: my_nets:NONE", "my_nets:NONE cannot be imported"),
        ("student.backbone: my_losses:cosine", "not a cmkd.config.backbones.Backbone"),
        ("student.backbone: no_such_module:X", "no_such_module"),
        ("method.extra_losses.cosine: 1.0", "unknown loss 'cosine'"),
        ("method.extra_losses.spatial: 1.0", "set lambda_1"),
        ("method.extra_losses.my_losses:cosine: -1.0", "greater than or equal to 0"),
    ],
)
def test_mistakes_name_file_line_and_remedy(folder: Path, line: str, says: str) -> None:
    path = folder / "wrong.yaml"
    path.write_text(f"name: w\ndescription: d\nbase:\n  {line}\nblocks:\n  a: {{}}\n")
    with pytest.raises(ConfigError) as caught:
        load_sweep(str(path))
    assert str(caught.value).startswith(f"{path}:4: ")
    assert says in str(caught.value)


def test_registered_names(folder: Path) -> None:
    about = folder / "mine-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[cmkd.backbones]\nconv3d = my_nets:CONV3D\n[cmkd.losses]\ncosine = my_losses:cosine\n"
    )
    code = (
        "import sys\n"
        "from cmkd.config.backbones import find_backbone\n"
        "from cmkd.config.method import MethodConfig\n"
        "assert find_backbone('tsm_r50').family == 'TSM' and 'torch' not in sys.modules\n"
        "method = MethodConfig(extra_losses={'cosine': 0.5})\n"
        "print(find_backbone('conv3d').family, method.weights['cosine'])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert run.stdout.split() == ["C3D", "0.5"], run.stderr


def test_a_table_finds_the_arms_of_its_rows(folder: Path) -> None:
    sweep = load_sweep("my_arms.yaml")
    spec = find_table("my_table.yaml", "my_arms.yaml")
    rows = spec.load().rows
    found = [find_arm(sweep, row.ours) for row in rows if row.ours is not None]
    assert [arm.name if arm else None for arm in found] == ["gated", "ungated"]
    evidence = no_evidence(sweep, "synthetic-smoke")
    page = build_page(build_table(spec, evidence), version="test")
    methods = [line.cells[0].text for line in page.grids[0].lines]
    assert methods[:2] == ["TSM+ours", "TSM+ours"]
    own = own_table(sweep)
    assert (own.labels, own.references) == (("method.lambda_1", "method.gate"), ("control",))


def test_a_data_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OFFICIAL, "gestures", OFFICIAL["ucf101"])  # taken back with the test
    monkeypatch.syspath_prepend(folder)
    importlib.import_module("my_sets")
    rows = [f"{c}{n} {c} p{n} {'test' if n == 2 else 'train'}" for c in "ab" for n in range(3)]
    (folder / "list.txt").write_text("\n".join(rows))
    for row in rows:
        (folder / "videos" / f"{row.partition(' ')[0]}.mp4").parent.mkdir(exist_ok=True)
        (folder / "videos" / f"{row.partition(' ')[0]}.mp4").touch()
    request = OfficialRequest("gestures", folder, "1")
    found = find_official(folder / "videos", request)
    assert found.classes == ("a", "b") and len(found.sources) == 6
    assert {source.group for source in found.sources} == {"p0", "p1", "p2"}
    assert found.official is not None and found.official.complete
    (folder / "list.txt").write_text("a0 a p0 dev\n" + "\n".join(rows[1:]))
    with pytest.raises(DataError, match="NAME CLASS PERSON"):
        find_official(folder / "videos", request)


def installed(folder: Path) -> dict[str, str]:
    """Install the example of a tracker in `folder`; returns the environment that finds it."""
    files = examples()
    for name in ("json_tracker.py", "patience.py", "patient.yaml"):
        (folder / name).write_text(files[name], encoding="utf-8")
    info = folder / "extension-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extension\nVersion: 1.0\n")
    points = tomllib.loads(files["pyproject.toml"])["project"]["entry-points"]["cmkd.trackers"]
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[cmkd.trackers]", *lines, ""]))
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


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
    environment = {**os.environ, **installed(tmp_path)}
    command = [sys.executable, "-c", TRACKED]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_pruner_of_another_package_judges_trials(folder: Path) -> None:
    search = load_sweep(str(folder / "patient.yaml")).spec.search
    assert search is not None
    pruner = pruner_of(search)
    assert pruner.prune("a", 1, {"a": 50.0, "b": 54.0}) == ""
    assert "6.0 points" in pruner.prune("a", 1, {"a": 50.0, "b": 56.0})


@pytest.mark.slow
def test_a_sweep_with_the_tracker_and_the_pruner_of_another_package(
    new_workspace: Callable[..., Any],
) -> None:
    space = new_workspace()
    space = replace(space, environment=installed(space.folder))
    runs = space.folder / "runs"
    options = ("--workers", "1", "--tracking-uri", f"json://{runs}")
    code, output = space.run("sweep", "patient.yaml", *options)
    assert code == 0, output
    documents = [json.loads(path.read_text()) for path in runs.glob("*.json")]
    assert {run["status"] for run in documents} <= {"FINISHED", "KILLED"}
    assert sum(run["status"] == "FINISHED" for run in documents) >= 1
    code, output = space.run("sweep", "patient.yaml", *options)
    assert code == 0 and "nothing to train" in output, output
