"""One trial by Ray Train's TorchTrainer: two real processes against one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
from pathlib import Path
from cmkd.config.trial import Setting, TrialConfig
from cmkd.data.dataset import open_dataset
from cmkd.sweep.worker import DistributedTrialWorker
from cmkd.sweep.ray_engine import start_engine
from cmkd.training.trial import TrialRun
from cmkd.training.runtime import configure

def trial(lr, data_id):
    setting = Setting.model_validate({
        "method": {"lambda_1": 0.0, "lambda_2": 0.0, "heads": 1, "hidden": 4},
        "student": {"width": 4},
        "teacher": {"width": 4},
        "training": {"epochs": 3, "dropout": 0.0, "lr": lr},
    })
    return TrialConfig(setting=setting, data="synthetic-smoke", data_id=data_id, fold=0, seed=0)

def losses(epochs):
    return [epoch.metrics["train_loss"] for epoch in epochs]

def main(together, alone):
    configure(threads=1)
    data_id = open_dataset("synthetic-smoke", together).id
    good, bad = trial(3e-3, data_id), trial(1e12, data_id)
    run = TrialRun(good, alone, device="cpu")
    while not run.finished:
        run.train_epoch()
    expected = {"losses": losses(run.history), "summary": run.finish().summary}
    # The first epoch by one process, in the folder where two go on.
    first = TrialRun(good, together, device="cpu")
    first.train_epoch()
    first.learner.save_checkpoint()
    configs = {config.id: config for config in (good, bad)}
    with start_engine(2, together):
        crew = DistributedTrialWorker(configs, together, 2, gpus=False)
        for config in (good, bad):
            crew.start(config.id)
            updates = [crew.step()]
            while not updates[-1].done:
                updates.append(crew.step())
            if config is good:
                epochs = [epoch for update in updates for epoch in update.epochs]
                steps = [epoch.step for epoch in epochs]
                found = {"losses": losses(epochs), "summary": updates[-1].outcome.summary}
            else:
                cause = updates[-1].failure.cause
    print(json.dumps({"expected": expected, "found": found, "steps": steps, "cause": cause}))

if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
"""


@pytest.mark.slow  # a real Ray, and its workers
def test_two_processes_of_ray_train_go_on_from_one(smoke_data: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("together", "alone")]
    for folder in folders:
        folder.mkdir()
        for part in ("data", "arrays"):
            (folder / part).symlink_to(smoke_data / part)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), *map(str, folders)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["steps"] == [1, 2, 3]
    assert result["found"]["losses"] == pytest.approx(result["expected"]["losses"], rel=1e-3)
    for key in ("best_val_acc", "test_acc_last"):
        # One of 48 clips may tip over.
        assert result["found"]["summary"][key] == pytest.approx(
            result["expected"]["summary"][key], abs=5
        )
    assert result["cause"].startswith("TrialFailed: loss is not finite")
