"""The gate and the claims against losses that are broken, on networks that are really trained.

A sweep refuses such a loss before it trains anything (`cmkd.sweep.preflight`). Here trials are
trained without that step, to see that what is held against their results finds it too.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from cmkd.config.sweep import load_sweep
from cmkd.config.trial import TrialConfig
from cmkd.data import dataset as datasets
from cmkd.data.decoded_cache import ensure_arrays
from cmkd.data.synthetic import SyntheticRecipe
from cmkd.method import losses
from cmkd.sweep.recorder import Origin, trial_identity
from cmkd.sweep.trials import PlannedTrial
from cmkd.tracking.mlflow_store import open_store
from cmkd.tracking.store import RunEnding
from cmkd.training.teacher import ensure_teacher
from cmkd.training.trial import TrialRun

# MLflow's own use of SQLAlchemy, at its import.

SPEC = """
name: gate
description: two arms that lambda_2 tells apart
data: synthetic
seeds: 3
base:
  student.backbone: tiny_tsm
  teacher.backbone: tiny_tsm
  training.epochs: 6
  teacher.training.epochs: 4
  method.lambda_1: 0.1
blocks:
  spatial: {method.lambda_2: [0.0]}
  both: {method.lambda_2: [1.0]}
"""


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the spec, and the clips and the teacher in ``cache``."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "gate.yaml").write_text(SPEC)
    return folder


@pytest.fixture
def small_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedded set that two hundred steps can learn something of."""
    small = SyntheticRecipe(name="synthetic", train=192, val=48, test=120)
    monkeypatch.setitem(datasets.RECIPES, "synthetic", small)


def train(folder: Path, seeds: Sequence[int], name: str) -> str:
    """Every arm with `seeds`, recorded as a sweep records it; the URI of the store `name`.db."""
    cache = folder / name
    for part in ("data", "arrays", "teachers"):
        (folder / part).mkdir(exist_ok=True)
        (cache / part).parent.mkdir(exist_ok=True)
        (cache / part).symlink_to(folder / part)
    sweep = load_sweep(str(folder / "gate.yaml"))
    dataset = datasets.open_dataset("synthetic", cache)
    uri = f"sqlite:///{folder}/{name}.db"
    store, origin = open_store(uri), Origin("gate", dataset.info, 1)
    for arm in sweep.arms:
        for seed in seeds:
            config = TrialConfig(
                setting=arm.setting, data="synthetic", data_id=dataset.id, fold=0, seed=seed
            )
            ensure_arrays(dataset, config.setting.reading, cache, workers=2)
            ensure_teacher(config, cache, device="cpu")
            run = TrialRun(config, cache, device="cpu")
            while not run.finished:
                run.train_epoch()
            outcome = run.finish()
            trial = PlannedTrial(config.id, config, (arm.name,))
            run_id = store.open(trial_identity(trial, origin), {})
            store.log(run_id, run.history)
            store.close(run_id, RunEnding("FINISHED", summary=outcome.summary, files=outcome.files))
    return uri


def report(*arguments: str) -> tuple[int | str | None, str]:
    """Exit code and output of ``cmkd report ARGUMENTS``."""
    command = [sys.executable, "-m", "cmkd", "report", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("small_data")
def test_an_ignored_weight_is_found_and_other_seeds_are_not(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, baseline = str(ready / "gate.yaml"), str(ready / "baseline.json")
    honest = train(ready, (0, 1, 2), "honest")
    code, said = report("baseline", "--sweep", spec, "--out", baseline, "--tracking-uri", honest)
    assert code == 0, said

    again = train(ready, (3, 4, 5), "again")
    code, said = report("check", "--baseline", baseline, "--tracking-uri", again)
    assert code == 0, said

    monkeypatch.setattr(losses, "temporal_loss", lambda *_: torch.zeros(()))
    broken = train(ready, (3, 4, 5), "broken")
    code, said = report("check", "--baseline", baseline, "--tracking-uri", broken)
    assert code == 1, said
    assert "arms spatial and both: dead toggle" in said

    arguments = ("--sweep", spec, "--data", "synthetic", "--out", str(ready / "out"))
    code, said = report("claims", *arguments, "--tracking-uri", broken)
    assert code == 1, said
    assert "both − spatial: the same predictions on every clip" in said
    code, said = report("claims", *arguments, "--tracking-uri", again)
    assert code == 0, said
