"""The frozen teacher's side: from disk or in the step, imported as it is, graphs that vanish."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cmkd.config.method import GraphIndex, MethodConfig
from cmkd.config.trial import Setting, TeacherTrainingConfig, TrialConfig
from cmkd.data.dataset import open_dataset
from cmkd.data.decoded_cache import open_arrays
from cmkd.errors import InputError
from cmkd.method.temporal_graph import mean_square_edges
from cmkd.training.batches import ClipReader, first_rows, measure_scales, view_rows
from cmkd.training.features import (
    CHANNEL_STATS_FILE,
    FEATURES_FOLDER,
    LARGEST,
    WEIGHTS_FILE,
    CachedFeatures,
    GraphStats,
    OnlineFeatures,
    TeacherFeatures,
    ensure_features,
    ensure_mean_edges,
    find_problem,
    teacher_folder,
)
from cmkd.training.teacher import ensure_teacher, near_chance
from cmkd.training.trial import TrialRun
from cmkd.training.weights import import_file

MakeTrial = Callable[..., TrialConfig]
CPU = torch.device("cpu")


def with_teacher(config: TrialConfig, **changes: Any) -> TrialConfig:
    teacher = config.setting.teacher.model_copy(update=changes)
    setting = config.setting.model_copy(update={"teacher": teacher})
    return config.model_copy(update={"setting": setting})


def features_of(config: TrialConfig, cache: Path) -> tuple[TeacherFeatures, ClipReader, list[int]]:
    dataset = open_dataset(config.data, cache)
    arrays = open_arrays(dataset, config.setting.reading, cache)
    train = list(dataset.split(0).train)
    reader = ClipReader(
        arrays, measure_scales(arrays, first_rows(arrays, train)), CPU, config.setting
    )
    return ensure_features(config, cache, dataset, reader), reader, train


def test_online_targets_are_the_cached_ones_but_for_fp16(
    own_cache: Path, make_trial: MakeTrial
) -> None:
    config = make_trial()
    ensure_teacher(config, own_cache, device="cpu")
    online_config = with_teacher(config, features="online")
    assert online_config.teacher_id == config.teacher_id
    assert online_config.id != config.id
    online, reader, train = features_of(online_config, own_cache)
    assert isinstance(online, OnlineFeatures)
    assert not (teacher_folder(config, own_cache) / FEATURES_FOLDER).exists()
    cached, _, _ = features_of(config, own_cache)
    assert isinstance(cached, CachedFeatures)
    rows = view_rows(reader.arrays, train, 3)[:9]
    fresh, fresh_logits = online.outputs(rows)
    stored, stored_logits = cached.outputs(rows)
    assert (fresh.dtype, stored.dtype) == (torch.float32, torch.float32)
    assert not fresh.requires_grad
    torch.testing.assert_close(fresh, stored, rtol=2**-10, atol=1e-4)
    torch.testing.assert_close(fresh_logits, stored_logits, rtol=1e-5, atol=1e-5)
    assert fresh.abs().max() <= LARGEST


def test_the_channel_statistics_are_measured_once(own_cache: Path, make_trial: MakeTrial) -> None:
    config = with_teacher(make_trial(), features="online")
    ensure_teacher(config, own_cache, device="cpu")
    first, reader, train = features_of(config, own_cache)
    file = teacher_folder(config, own_cache) / CHANNEL_STATS_FILE
    written = file.stat().st_mtime_ns
    again, _, _ = features_of(config, own_cache)
    assert file.stat().st_mtime_ns == written
    rows = first_rows(reader.arrays, train)
    h, _ = first.outputs(rows)
    assert torch.equal(again.outputs(rows)[0], h)
    alive = h.std((0, 1, 3, 4)) > 0.5
    assert alive.sum() >= 8
    torch.testing.assert_close(h.mean((0, 1, 3, 4)), torch.zeros(16), rtol=0, atol=5e-3)
    torch.testing.assert_close(
        h.std((0, 1, 3, 4))[alive], torch.ones(int(alive.sum())), rtol=0, atol=5e-3
    )


def test_a_trial_with_an_online_teacher_runs_to_its_end(
    own_cache: Path, make_trial: MakeTrial
) -> None:
    config = make_trial(epochs=1)
    ensure_teacher(config, own_cache, device="cpu")
    losses = {}
    for features in ("cached", "online"):
        trial = TrialRun(with_teacher(config, features=features), own_cache, device="cpu")
        trial.train_epoch()
        trial.finish()
        losses[features] = trial.history[0].metrics["train_loss"]
    assert losses["online"] == pytest.approx(losses["cached"], rel=2e-3)


def test_an_imported_teacher_is_taken_as_it_is(own_cache: Path, make_trial: MakeTrial) -> None:
    trained = ensure_teacher(make_trial(), own_cache, device="cpu")
    weights = import_file(
        teacher_folder(make_trial(), own_cache) / WEIGHTS_FILE, own_cache
    ).weights.id
    config = with_teacher(make_trial(), weights=weights, training=TeacherTrainingConfig(epochs=0))
    taken = ensure_teacher(config, own_cache, device="cpu")
    assert config.teacher_id != make_trial().teacher_id
    assert taken.history == ()
    assert taken.summary["selected_epoch"] == 0
    for figure in ("test_acc", "best_val_acc", "parameters"):
        assert taken.summary[figure] == trained.summary[figure]
    assert taken.summary["test_acc_last"] == taken.summary["test_acc"]
    assert (teacher_folder(config, own_cache) / "predictions.csv").is_file()
    features, reader, train = features_of(config, own_cache)
    assert features.outputs(first_rows(reader.arrays, train)[:2])[0].isfinite().all()


def test_a_teacher_for_other_classes_cannot_be_taken_as_it_is(
    own_cache: Path, make_trial: MakeTrial
) -> None:
    ensure_teacher(make_trial(), own_cache, device="cpu")
    tensors = load_file(teacher_folder(make_trial(), own_cache) / WEIGHTS_FILE)
    other = {name: value for name, value in tensors.items() if "classifier" not in name}
    other["classifier.weight"] = torch.zeros(3, 16)
    other["classifier.bias"] = torch.zeros(3)
    save_file(other, own_cache / "three.safetensors")
    weights = import_file(own_cache / "three.safetensors", own_cache).weights.id
    as_it_is = with_teacher(make_trial(), weights=weights, training=TeacherTrainingConfig(epochs=0))
    with pytest.raises(InputError, match=r"12 classes, the weights 3; train for some epochs"):
        ensure_teacher(as_it_is, own_cache, device="cpu")
    tuned = with_teacher(make_trial(), weights=weights, training=TeacherTrainingConfig(epochs=1))
    assert ensure_teacher(tuned, own_cache, device="cpu").summary["selected_epoch"] == 1


class Fixed:
    """Features of one clip per row, standardised, in the number of a full-size network."""

    batch = 2

    def outputs(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(int(rows[0]))
        h = torch.randn(len(rows), 4, 2048, 2, 2, generator=generator)
        return h, torch.zeros(len(rows), 3)


def measured(tmp_path: Path, **method: Any) -> Mapping[GraphIndex, float]:
    setting = Setting(method=MethodConfig(**method))
    config = TrialConfig(setting=setting, data="any", data_id="0" * 12, fold=0, seed=0)
    teacher_folder(config, tmp_path).mkdir(parents=True, exist_ok=True)
    return ensure_mean_edges(config, tmp_path, Fixed(), np.arange(3))


def test_readings_that_work_do_not_warn(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edges = measured(tmp_path)
        assert edges == measured(tmp_path, tg_edge="max")
        # Nothing is taught over graphs here, so nothing can vanish.
        measured(tmp_path, tg_kernel="scalar", lambda_2=0.0)
    assert 0.01 < edges[1] < edges[3]


def test_the_literal_scalar_kernel_warns_with_its_figures(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"TG_1 .* vanishes; 100\.0 % of its vertices") as seen:
        edges = measured(tmp_path, tg_kernel="scalar", tg=(1, 3))
    assert len(seen) == 1
    assert edges[1] == 0
    # The figures are kept in the file; the warning comes with every trial.
    with pytest.warns(UserWarning, match=r"TG_2 .* vanishes"):
        measured(tmp_path, tg_kernel="scalar", tg=(2,))


def test_raw_edges_warn_with_their_size(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"mean edge of TG_3 of the teacher is \d\.\d+e\+04"):
        measured(tmp_path, tg_edge="raw", tg=(3,))


def test_what_counts_as_vanishing() -> None:
    good, small = GraphStats(0.1, 10.0, 0.4), GraphStats(1e-9, 1e-9, 0.0)
    assert find_problem(2, good, MethodConfig(tg_edge="raw")) is None
    line = find_problem(2, small, MethodConfig())
    assert line is not None
    assert "TG_2 of the teacher vanishes" in line
    assert "1e-09" in line


def test_figures_are_those_of_the_graphs(tmp_path: Path) -> None:
    edges = measured(tmp_path)
    config = MethodConfig()
    by_hand = [Fixed().outputs(np.array(part))[0] for part in ([0, 1], [2])]
    for graph in (1, 2, 3):
        clips = torch.cat([mean_square_edges(h, graph, config).mean((1, 2)) for h in by_hand])
        assert edges[graph] == pytest.approx(float(clips.mean()), rel=1e-5)


def test_a_teacher_that_guessing_may_reach_is_named():
    labels = np.repeat(np.arange(10), 10)
    warning = near_chance(14.0, labels)
    assert warning is not None and "14.0 % of 100" in warning and "10.0 %" in warning
    assert near_chance(17.0, labels) is None
    # Of few clips more may be luck.
    assert near_chance(30.0, np.array([0, 0, 1, 1])) is not None
