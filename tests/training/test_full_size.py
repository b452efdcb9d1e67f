"""The full-size student of Table 1 learns from a full-size teacher on HMDB-51's clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cmkd.config.data import EncodingConfig, SplitConfig, ViewsConfig
from cmkd.config.method import LOSSES
from cmkd.config.trial import TrialConfig, preset
from cmkd.data.dataset import Dataset
from cmkd.data.prepare import PrepareRequest, prepare
from cmkd.data.splits import Split
from cmkd.method.losses import TeacherTargets, gradient_ratios, total_loss
from cmkd.training.build import build_student, build_teacher
from cmkd.training.features import FrozenTeacher, OnlineFeatures, measure_graph_stats
from cmkd.training.optim import make_optimizer
from cmkd.training.optim import prepare as set_up
from cmkd.training.runtime import to_device
from cmkd.training.streaming import open_reader

STEPS = 20
CPU = torch.device("cpu")


@pytest.fixture
def real_clips(shared_video: Path, tmp_path: Path) -> Dataset:
    """Four clips of JHMDB at 320 x 256, cut to 224."""
    for label in ("catch", "clap"):
        (tmp_path / "source" / label).mkdir(parents=True)
        for path in sorted((shared_video / "jhmdb" / label).glob("*.avi"))[:2]:
            (tmp_path / "source" / label / path.name).symlink_to(path)
    request = PrepareRequest(
        root=tmp_path / "source",
        output=tmp_path / "data",
        name="four",
        encoding=EncodingConfig(),
        views=ViewsConfig(crop=224, flip="horizontal", phase=True),
        split=SplitConfig(rule="folds", folds=2),
    )
    return prepare(request).dataset


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_loss_falls_on_views_that_are_never_written(
    real_clips: Dataset, tmp_path: Path
) -> None:
    setting = preset("tsm-ucf-hmdb")
    inputs = setting.inputs.model_copy(update={"views": "fresh", "loaders": 0})
    # Without the weights that the preset starts from, nothing can be kept of normalisation, and the
    # rate of fine-tuning is too low to see anything in a few steps.
    changes = {"optimizer": "adamw", "lr": 1e-4, "precision": "fp32", "partial_bn": False}
    training = setting.training.model_copy(update={**changes, "dropout": 0.0})
    setting = setting.model_copy(update={"inputs": inputs, "training": training})
    method = setting.method.model_copy(update={"logits": "mse"})
    config = TrialConfig(setting=setting, data="four", data_id=real_clips.id, fold=0, seed=0)
    split = Split((0, 3), (1,), (2,))
    reader = open_reader(config, real_clips, tmp_path / "cache", split, CPU, seed=0)

    torch.manual_seed(0)
    recipe = setting.teacher.model_copy(update={"training": training})
    teacher = FrozenTeacher(build_teacher(setting, 2).eval(), recipe, reader)
    plain = reader.measured_rows(split.train)
    features = OnlineFeatures(teacher, teacher.measure_stats(plain).to(CPU))
    graphs = measure_graph_stats(features, plain, method)
    edges = {graph: stats.mean for graph, stats in graphs.items()}
    student = to_device(build_student(setting, reader.picture, 2), CPU)
    set_up(student, training)
    optimizer = make_optimizer(student, training)
    history: list[float] = []
    for step in range(STEPS):
        rows = reader.epoch_rows(split.train, step)
        for part in reader.ahead([rows], compressed=True, frames=True):
            targets = TeacherTargets(*features.outputs(part), edges)
            batch, labels = reader.compressed(part), reader.labels(part)
        output = student(*batch)
        losses = total_loss(output, labels, targets, method)
        if step == 0:
            assert targets.h.shape == (2, 16, 2048, 7, 7)
            assert set(losses.terms) == {"ce", *LOSSES}
            ratios = gradient_ratios(losses, output.h_hat, method)
            assert 0.3 < float(ratios["spatial"]) < 10, ratios
        optimizer.zero_grad()
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), training.clip_norm)
        optimizer.step()
        history.append(float(losses.total.detach()))
    assert np.isfinite(history).all()
    assert np.mean(history[-3:]) < 0.7 * history[0], history
    assert not any((tmp_path / "cache").glob("arrays/*"))
