"""Trials on clips that are decoded while they train: values, repeatability, and what is written."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmkd.config.data import ViewsConfig
from cmkd.config.trial import Setting, TrialConfig
from cmkd.data.clip import read_clip
from cmkd.data.dataset import Dataset, open_dataset
from cmkd.data.stream import ClipStream
from cmkd.data.views import apply_view, draw_view
from cmkd.errors import FileError
from cmkd.sweep.failures import beyond_the_trials, failure_of, is_transient
from cmkd.training import loop
from cmkd.training.batches import InputScales
from cmkd.training.checkpoint import CURRENT
from cmkd.training.streaming import StreamReader
from cmkd.training.student import StudentLearner
from cmkd.training.teacher import ensure_teacher
from cmkd.training.trial import TrialRun

MakeTrial = Callable[..., TrialConfig]
CPU = torch.device("cpu")


@pytest.fixture
def fresh_cache(mini_cache: Path, tmp_path: Path) -> Path:
    """A cache with the shared data alone."""
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / "data").symlink_to(mini_cache / "data")
    return tmp_path / "fresh"


def fresh(config: TrialConfig, loaders: int, **inputs: Any) -> TrialConfig:
    """The trial with fresh views, an online teacher, four frames a clip, six batches an epoch."""
    plain = config.setting.as_json()
    plain["training"]["batch_size"] = 6
    plain["inputs"] |= {"views": "fresh", "loaders": loaders, "num_frames": 4} | inputs
    plain["teacher"]["features"] = "online"
    plain["teacher"]["training"]["epochs"] = 1
    return config.model_copy(update={"setting": Setting.model_validate_json(json.dumps(plain))})


def losses(trial: TrialRun) -> list[dict[str, float]]:
    """Metrics of all epochs but times."""
    while not trial.finished:
        trial.train_epoch()
    return [
        {name: value for name, value in record.metrics.items() if "seconds" not in name}
        for record in trial.history
    ]


@pytest.mark.parametrize(
    "views",
    [
        ViewsConfig(flip="both", shift=0.2, scale=0.1, rotation=9.0),
        ViewsConfig(flip="horizontal", crop=48, phase=True),
    ],
    ids=["moved", "cropped"],
)
def test_views_on_the_device_are_those_of_the_cpu(
    mini_cache: Path, make_trial: MakeTrial, views: ViewsConfig
) -> None:
    config = fresh(make_trial(), 0, motion="per_frame")
    opened = open_dataset(config.data, mini_cache)
    dataset = replace(opened, info=opened.info.model_copy(update={"views": views}))
    reading, sides = config.setting.reading, (64, 64)
    assert sides == (dataset.info.encoding.height, dataset.info.encoding.width)
    stream = ClipStream(dataset, reading, 7, processes=0, pinned=False)
    reader = StreamReader(stream, config, InputScales(2.0, 4.0), CPU)
    clips = [5, 40, 17]
    rows = reader.epoch_rows(clips, 2)
    i_frames, own, motion, residual = reader.compressed(rows)
    frames = reader.frames(rows)
    mean = torch.tensor(114.0)
    for place, clip in enumerate(clips):
        entry = dataset.clips[clip]
        view = draw_view(views, f"7\0{2}\0{entry.path}", *sides)
        kept = apply_view(read_clip(dataset.root / entry.path, reading, phase=view.phase), view)
        # The CPU path rounds pictures to bytes and maps to float16.
        seen = i_frames[own[place], 0] * 58 + mean
        assert np.abs(seen.numpy() - kept.iframes[kept.gop]).max() < 0.51
        assert np.abs((frames[place] * 58 + mean).numpy() - kept.frames).max() < 0.51
        for found, expected in ((motion * 2, kept.motion), (residual * 4, kept.residual)):
            np.testing.assert_allclose(found[place], expected, rtol=2**-10, atol=2e-3)


def test_loaders_change_nothing_and_an_epoch_goes_on_where_it_was_kept(
    fresh_cache: Path, make_trial: MakeTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [
        fresh(make_trial(lambda_1=0.0, lambda_2=0.0, decoder=False), loaders) for loaders in (0, 2)
    ]
    assert configs[0].id == configs[1].id
    alone = losses(TrialRun(configs[0], fresh_cache, device="cpu"))
    assert not (fresh_cache / "arrays").exists()
    assert alone[0]["train_loss"] != alone[1]["train_loss"]
    folder = fresh_cache / "trials" / configs[0].id
    shutil.rmtree(folder)

    # Six batches an epoch: the second epoch ends after four, of which three were kept.
    left = 10
    step = StudentLearner.batch_loss

    def interrupted(learner: StudentLearner, batch: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        return step(learner, batch)

    monkeypatch.setattr(loop, "WITHIN_EPOCH_SECONDS", 0.0)
    monkeypatch.setattr(loop, "WITHIN_EPOCH_STEPS", 1)
    with monkeypatch.context() as patched:
        patched.setattr(StudentLearner, "batch_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            losses(TrialRun(configs[1], fresh_cache, device="cpu"))
    state = torch.load(folder / CURRENT, weights_only=True)
    assert (len(state["history"]), state["progress"]["steps"]) == (1, 3)
    assert losses(TrialRun(configs[1], fresh_cache, device="cpu")) == alone


KILLED = """
import os, signal, sys
from pathlib import Path
from cmkd.config.trial import TrialConfig
from cmkd.training import loop
from cmkd.training.student import StudentLearner
from cmkd.training.trial import TrialRun

loop.WITHIN_EPOCH_SECONDS, loop.WITHIN_EPOCH_STEPS = 0.0, 1
step, started = StudentLearner.batch_loss, []

def killed(learner, batch):
    started.append(batch)
    if len(started) == 10:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(learner, batch)

StudentLearner.batch_loss = killed
trial = TrialRun(TrialConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2]), device="cpu")
while not trial.finished:
    trial.train_epoch()
"""


@pytest.mark.slow
def test_killed_in_mid_epoch_and_resumed_the_losses_are_the_same(
    fresh_cache: Path, make_trial: MakeTrial
) -> None:
    """In the fourth step of the second epoch; the two processes that read for it end as well."""
    config = fresh(make_trial(lambda_1=0.0, lambda_2=0.0, decoder=False), 2)
    unbroken = losses(TrialRun(config, fresh_cache, device="cpu"))
    folder = fresh_cache / "trials" / config.id
    shutil.rmtree(folder)
    command = [sys.executable, "-c", KILLED, config.model_dump_json(), str(fresh_cache)]
    # Comes back when the processes that read are gone, too: they hold its output open.
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == -signal.SIGKILL, found.stderr
    state = torch.load(folder / CURRENT, weights_only=True)
    assert (len(state["history"]), state["progress"]["steps"]) == (1, 3)
    assert losses(TrialRun(config, fresh_cache, device="cpu")) == unbroken


def test_a_clip_that_breaks_fails_its_trial_alone(
    mini_cache: Path, tmp_path: Path, make_trial: MakeTrial
) -> None:
    config = fresh(make_trial(lambda_1=0.0, lambda_2=0.0, decoder=False), 0)
    shutil.copytree(mini_cache / "data", tmp_path / "data")
    trial = TrialRun(config, tmp_path, device="cpu")
    broken = tmp_path / "data" / trial.dataset.root.name / _first(trial.dataset, trial.split.train)
    broken.write_bytes(broken.read_bytes()[:1000])
    with pytest.raises(FileError, match="cmkd data verify mini") as raised:
        trial.train_epoch()
    assert raised.value.path == str(broken)
    failure = failure_of(raised.value, 0)
    assert str(broken) in failure.cause
    assert beyond_the_trials([failure]) is None, "the others go on"
    assert is_transient(failure.kind), "mended, the same command tries it again"


def _first(dataset: Dataset, clips: tuple[int, ...]) -> str:
    return dataset.clips[clips[0]].path


@pytest.mark.slow
def test_teacher_and_student_see_the_same_views_and_all_of_it_ends_well(
    fresh_cache: Path, make_trial: MakeTrial
) -> None:
    found = []
    for loaders in (0, 2):
        config = fresh(make_trial(epochs=1), loaders, test_clips=2)
        ensure_teacher(config, fresh_cache, device="cpu")
        trial = TrialRun(config, fresh_cache, device="cpu")
        found.append(losses(trial))
        assert 0 <= trial.finish().summary["test_acc"] <= 100
        assert (trial.folder / "inside.json").is_file()
        for name in ("trials", "teachers", "scales"):
            shutil.rmtree(fresh_cache / name)
    assert found[0] == found[1]
    assert {"loss_spatial", "loss_temporal", "gradient_spatial"} <= found[0][0].keys()
    assert sorted(path.name for path in fresh_cache.iterdir()) == ["data"]
