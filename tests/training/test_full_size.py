"""The documented full-size student learns from a full-size teacher on real clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cmkd.config.data import EncodingConfig, SplitConfig, ViewsConfig
from cmkd.config.method import LOSSES
from cmkd.config.trial import preset
from cmkd.data.decoded_cache import ClipArrays, ensure_arrays
from cmkd.data.prepare import PrepareRequest, prepare
from cmkd.method.losses import total_loss
from cmkd.training.batches import ClipReader, measure_scales
from cmkd.training.build import build_student, build_teacher
from cmkd.training.features import (
    FrozenTeacher,
    OnlineFeatures,
    measure_graph_stats,
)
from cmkd.training.optim import make_optimizer
from cmkd.training.optim import prepare as set_up
from cmkd.training.runtime import to_device

STEPS = 20
CPU = torch.device("cpu")
SETTING = preset("tsm-ssv2")


@pytest.fixture
def real_clips(shared_video: Path, tmp_path: Path) -> ClipArrays:
    """Four clips at 320 x 256, cut to 224, as the preset reads them."""
    for label in ("left", "square"):
        (tmp_path / "source" / label).mkdir(parents=True)
        for path in sorted((shared_video / "egogestar" / label).glob("*.mp4"))[:2]:
            (tmp_path / "source" / label / path.name).symlink_to(path)
    request = PrepareRequest(
        root=tmp_path / "source",
        output=tmp_path / "data",
        name="four",
        encoding=EncodingConfig(),
        views=ViewsConfig(crop=224),
        split=SplitConfig(rule="folds", folds=2),
    )
    dataset = prepare(request).dataset
    reading = SETTING.reading.model_copy(
        update={"inputs": SETTING.inputs.model_copy(update={"test_clips": 1, "test_crops": 1})}
    )
    return ensure_arrays(dataset, reading, tmp_path / "cache", workers=1)


@pytest.mark.slow
def test_the_loss_of_student_d_falls_on_one_batch(real_clips: ClipArrays) -> None:
    method = SETTING.method.model_copy(update={"logits": "mse"})
    training = SETTING.training.model_copy(
        update={"optimizer": "adamw", "lr": 1e-4, "precision": "fp32"}
    )
    rows = np.array([0, 3])
    reader = ClipReader(real_clips, measure_scales(real_clips, rows), CPU, SETTING)
    torch.manual_seed(0)
    recipe = SETTING.teacher.model_copy(update={"training": training})
    teacher = FrozenTeacher(build_teacher(SETTING, 2).eval(), recipe, reader)
    features = OnlineFeatures(teacher, teacher.measure_stats(rows).to(CPU))
    graphs = measure_graph_stats(features, rows, method)
    targets = features.targets(rows, {graph: stats.mean for graph, stats in graphs.items()})
    assert targets.h.shape == (2, 16, 2048, 7, 7)

    student = to_device(build_student(SETTING, reader.picture, 2), CPU)
    set_up(student, training)
    optimizer = make_optimizer(student, training)
    batch, labels = reader.compressed(rows), reader.labels(rows)
    history: list[float] = []
    for _ in range(STEPS):
        losses = total_loss(student(*batch), labels, targets, method)
        assert set(losses.terms) == {"ce", *LOSSES}
        optimizer.zero_grad()
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), training.clip_norm)
        optimizer.step()
        history.append(float(losses.total.detach()))
    assert np.isfinite(history).all()
    assert history[-1] < 0.5 * history[0], history
