"""Full-size sweeps before anything is there: what is missing, what it costs, and the commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cmkd.config.sweep import TABLES, load_sweep
from cmkd.config.trial import Setting, StudentConfig, TeacherConfig, preset
from cmkd.config.weight_names import named_weights
from cmkd.errors import InputError
from cmkd.sweep.needs import PUBLISHED, needs_of, with_weight_ids
from cmkd.sweep.plan import SweepRequest
from cmkd.training.build import build_teacher
from cmkd.training.checkpoint import write_tensors
from cmkd.training.weights import import_file

SMALL = Setting(student=StudentConfig(width=4), teacher=TeacherConfig(width=4))
FULL_SIZE = {
    "ablation-ucf101": (10, 0, "tsm-ucf-hmdb", "tdn-ucf-hmdb"),
    "ablation-ssv2": (10, 0, "tsm-ssv2", "tdn-ssv2"),
    "comparison-ucf-hmdb": (4, 0, "tsm-ucf-hmdb", "tdn-ucf-hmdb"),
    "comparison-k400": (4, 0, "tsm-k400", "tdn-k400"),
    "hyperparameters-ucf101": (10, 5, "tsm-ucf-hmdb", None),
}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_arms_have_the_published_schedules_and_the_papers_weights(name: str) -> None:
    sweep = load_sweep(name)
    known, waiting, *protocols = FULL_SIZE[name]
    assert (len(sweep.arms), len(sweep.waiting)) == (known, waiting)
    assert sweep.spec.data in PUBLISHED
    for arm in sweep.arms:
        like = preset(protocols[arm.name.startswith("tdn")] or "")
        setting = arm.setting
        assert (setting.training, setting.teacher.training) == (
            like.training,
            like.teacher.training,
        )
        assert setting.teacher.backbone == like.teacher.backbone
        assert setting.student.model_copy(update={"weights": None}) == like.student
        assert setting.inputs.model_copy(update={"views": "prepared"}) == like.inputs
        assert (setting.student.weights, setting.inputs.views) == ("imagenet-r50", "fresh")
        kinetics = "ucf" in name
        family = arm.name[:3] if arm.name.startswith("tdn") else "tsm"
        assert setting.teacher.weights == (f"{family}-k400" if kinetics else "imagenet-r50")
    both = [arm.setting.method for arm in sweep.arms if arm.name.endswith(("both", "ours"))]
    assert {(method.lambda_1, method.lambda_2) for method in both} <= {(0.1, 1.0)}
    assert name.partition("-")[0] in TABLES.values()


def test_a_dry_run_without_anything_says_all_that_is_missing(tmp_path: Path) -> None:
    sweep = load_sweep("comparison-ucf-hmdb")
    request = SweepRequest(sweep, "hmdb51", 3, 1, tmp_path, only=("tsm_baseline",))
    lines = list(needs_of(request))
    assert lines[0].startswith("HMDB-51: 1 arms, folds x seeds 3 x 3, so 9 trials of 3,570 clips")
    assert "hours of an A100" in lines[1] and "GiB on the GPU" in lines[1]
    assert lines[2].startswith("about 4 GB of prepared videos")
    command = (
        "cmkd data prepare hmdb51_org --as hmdb51 --annotations testTrainMulti_7030_splits --flip "
        "--name hmdb51 --crop 224 --phase"
    )
    assert lines[3] == f"missing: HMDB-51; {command}"
    assert [line.rpartition("; ")[2] for line in lines[4:]] == [
        "cmkd teacher import FILE --name imagenet-r50",
        "cmkd teacher import FILE --name tsm-k400",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_SIZE)
def test_the_command_prints_it_and_ends_with_the_remedy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "cmkd", "sweep", name, "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    sweep = load_sweep(name)
    data = sweep.spec.data
    assert done.stderr.count("missing: ") == 1 + len(named_weights(sweep)), "data and weights"
    assert f"make it with: cmkd data prepare {PUBLISHED[data].options}" in done.stderr.replace(
        "\n", " "
    )
    assert not (tmp_path / "mlflow.db").exists()


def test_names_of_weights_become_ids_before_a_trial_has_its_own(tmp_path: Path) -> None:
    spec = tmp_path / "named.yaml"
    spec.write_text(
        "name: named\ndescription: d\nbase: {teacher.weights: mine}\n"
        "blocks: {a: {}, b: {student.weights: [mine, other]}}\n"
    )
    sweep = load_sweep(str(spec))
    assert with_weight_ids(sweep, tmp_path) == sweep
    found = _import(tmp_path, seed=0)
    arms = {arm.name: arm.setting for arm in with_weight_ids(sweep, tmp_path).arms}
    assert {setting.teacher.weights for setting in arms.values()} == {found}
    assert [setting.student.weights for setting in arms.values()] == [None, found, "other"]
    again = _import(tmp_path, seed=1)
    with pytest.raises(InputError, match=f"{found} and {again}|{again} and {found}"):
        with_weight_ids(sweep, tmp_path)


def _import(folder: Path, seed: int) -> str:
    torch.manual_seed(seed)
    network = build_teacher(SMALL, 3)
    path = folder / f"{seed}.safetensors"
    write_tensors(path, network.state_dict(), {})
    return import_file(path, folder, "mine").weights.id
