"""Trials on real clips: determinism, exact resume, shared teacher, outcome files."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from cmkd.config.trial import TeacherConfig, TeacherTrainingConfig, TrialConfig
from cmkd.data.dataset import Dataset, open_dataset
from cmkd.data.decoded_cache import open_arrays
from cmkd.data.splits import Split
from cmkd.errors import DataError, InfrastructureError, InputError, TrialFailed
from cmkd.tracking.store import EpochRecord
from cmkd.training import features as features_module
from cmkd.training import outcome as outcome_module
from cmkd.training.batches import (
    ClipReader,
    all_rows,
    first_rows,
    measure_scales,
    shuffled,
    view_rows,
)
from cmkd.training.build import build_teacher
from cmkd.training.checkpoint import CURRENT
from cmkd.training.features import load_teacher, teacher_folder
from cmkd.training.loop import epoch_seed
from cmkd.training.outcome import Predicted, ranks_of
from cmkd.training.runtime import pick_device
from cmkd.training.student import StudentLearner
from cmkd.training.teacher import ensure_teacher
from cmkd.training.trial import TrialRun

MakeTrial = Callable[..., TrialConfig]
CLOCKS = ("seconds", "step_seconds")


def values(history: tuple[EpochRecord, ...]) -> list[dict[str, float]]:
    return [{k: v for k, v in r.metrics.items() if k not in CLOCKS} for r in history]


def run_to_end(config: TrialConfig, cache: Path) -> TrialRun:
    trial = TrialRun(config, cache, device="cpu")
    while not trial.finished:
        trial.train_epoch()
    trial.finish()
    return trial


def test_equal_trials_give_equal_figures_and_seeds_differ(
    own_cache: Path, make_trial: MakeTrial, tmp_path: Path
) -> None:
    config = make_trial(decoder=False, lambda_1=0.0, lambda_2=0.0)
    first = run_to_end(config, own_cache)
    again_cache = tmp_path / "again"
    again_cache.mkdir()
    for name in ("data", "arrays"):
        (again_cache / name).symlink_to(own_cache / name)
    again = run_to_end(config, again_cache)
    assert values(first.history) == values(again.history)
    other = run_to_end(config.model_copy(update={"seed": 1}), own_cache)
    assert values(other.history) != values(first.history)


def test_interrupted_trial_goes_on_bit_identically(
    own_cache: Path, make_trial: MakeTrial, tmp_path: Path
) -> None:
    config = make_trial(epochs=3)
    ensure_teacher(config, own_cache, device="cpu")
    whole = run_to_end(config, own_cache)

    parted_cache = tmp_path / "parted"
    parted_cache.mkdir()
    for name in ("data", "arrays", "teachers"):
        (parted_cache / name).symlink_to(own_cache / name)
    first = TrialRun(config, parted_cache, device="cpu")
    before = first.train_epoch()
    del first
    second = TrialRun(config, parted_cache, device="cpu")
    assert second.history == (before,)
    second.train_epoch()
    os.truncate(parted_cache / "trials" / config.id / CURRENT, 1000)
    third = TrialRun(config, parted_cache, device="cpu")
    assert third.history == (before,)
    while not third.finished:
        third.train_epoch()
    outcome = third.finish()
    assert values(third.history) == values(whole.history)
    whole_summary = whole.finish().summary
    for key in ("test_acc", "test_acc_last", "best_val_acc", "selected_epoch"):
        assert outcome.summary[key] == whole_summary[key]


def test_without_validation_clips_the_last_epoch_is_selected(
    own_cache: Path, make_trial: MakeTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Dataset.split

    def unvalidated(dataset: Dataset, fold: int) -> Split:
        parts = whole(dataset, fold)
        return Split(tuple(sorted(parts.train + parts.val)), (), parts.test)

    monkeypatch.setattr(Dataset, "split", unvalidated)
    config = make_trial(epochs=3)
    taught = ensure_teacher(config, own_cache, device="cpu")
    first = TrialRun(config, own_cache, device="cpu")
    first.train_epoch()
    first.learner.save_checkpoint()
    resumed = run_to_end(config, own_cache)
    found = resumed.finish()
    for result, epochs in ((taught, config.setting.teacher.training.epochs), (found, 3)):
        assert result.summary["selected_epoch"] == epochs
        assert result.summary["test_acc"] == result.summary["test_acc_last"]
        assert "best_val_acc" not in result.summary
        assert all(
            record.metrics.keys().isdisjoint({"val_acc", "val_loss"}) for record in result.history
        )
    kept = load_file(resumed.folder / "student.safetensors")
    for name, value in resumed.learner.model.state_dict().items():
        assert torch.equal(kept[name], value), name


def test_outcome_agrees_with_its_files_and_is_only_read_afterwards(
    own_cache: Path, make_trial: MakeTrial
) -> None:
    config = make_trial(decoder=False, lambda_1=0.0, lambda_2=0.0)
    trial = run_to_end(config, own_cache)
    outcome = trial.finish()
    predictions = next(file for file in outcome.files if file.name == "predictions.csv")
    with predictions.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 12
    hits = 100 * np.mean([row["selected"] == row["label"] for row in rows])
    assert outcome.summary["test_acc"] == pytest.approx(hits)
    hits = 100 * np.mean([row["last"] == row["label"] for row in rows])
    assert outcome.summary["test_acc_last"] == pytest.approx(hits)
    val = [record.metrics["val_acc"] for record in trial.history]
    assert outcome.summary["best_val_acc"] == max(val)
    assert outcome.summary["selected_epoch"] == 1 + val.index(max(val))
    with safe_open(trial.folder / "scores.safetensors", "np") as kept:
        scores, classes = kept.get_tensor("scores"), json.loads(kept.metadata()["classes"])
    hits = [
        row["label"] in [classes[k] for k in sorted(range(12), key=lambda k: -own[k])[:5]]
        for row, own in zip(rows, scores.tolist(), strict=True)
    ]
    assert outcome.summary["test_top5"] == pytest.approx(100 * np.mean(hits))
    assert [int(row["rank"]) <= 5 for row in rows] == hits and 0 < np.mean(hits) < 1
    assert [classes[k] for k in scores.argmax(1)] == [row["selected"] for row in rows]
    assert not (trial.folder / CURRENT).exists()
    assert 50 < outcome.summary["memory_peak_mib"] < 10_000

    reopened = TrialRun(config, own_cache, device="cpu")
    assert reopened.finished
    assert reopened.history == trial.history
    assert reopened.finish() == outcome

    content = bytearray((trial.folder / "scores.safetensors").read_bytes())
    content[-1] ^= 1
    (trial.folder / "scores.safetensors").write_bytes(content)
    with pytest.raises(InfrastructureError, match=r"scores\.safetensors: .* digest is wrong"):
        TrialRun(config, own_cache, device="cpu")


def test_equal_scores_rank_as_the_predicted_class_is_chosen() -> None:
    scores = np.array([[1, 2, 2, 0]] * 4 + [[np.nan] * 4], np.float32)
    assert ranks_of(np.array([0, 1, 2, 3, 0]), scores).tolist() == [3, 1, 2, 4, 1]


def test_few_classes_have_no_top5(own_cache: Path, make_trial: MakeTrial, tmp_path: Path) -> None:
    trial = TrialRun(make_trial(model="motion_svm", lambda_1=0.0, lambda_2=0.0), own_cache)
    info = trial.dataset.info
    for count in (5, 6):
        few = replace(trial.dataset, info=info.model_copy(update={"classes": info.classes[:count]}))
        clips = tuple(i for i, clip in enumerate(few.clips) if clip.label < count)[:2]
        labels = np.array([few.clips[i].label for i in clips])
        predicted = Predicted(labels, labels, np.zeros((2, count), np.float32))
        path = tmp_path / f"{count}" / "outcome.json"
        given = (trial.learner, few, clips, predicted, labels)
        outcome_module.write_result(path, "t", *given, config={}, figures={})
        has_top5 = "test_top5" in outcome_module.read_result(path, "t").summary
        header = (path.parent / "predictions.csv").read_text().splitlines()[0]
        assert has_top5 == header.endswith(",rank") == (count > 5)


def test_kd_terms_are_logged_only_where_they_exist(own_cache: Path, make_trial: MakeTrial) -> None:
    config = make_trial(logits="mse", epochs=1, gate="softmax")
    ensure_teacher(config, own_cache, device="cpu")
    metrics = run_to_end(config, own_cache).history[0].metrics
    assert {"loss_spatial", "loss_temporal", "loss_logits", "alpha_entropy"} <= set(metrics)
    terms = 0.1 * metrics["loss_spatial"] + metrics["loss_temporal"] + metrics["loss_logits"]
    assert metrics["train_loss"] == pytest.approx(metrics["loss_ce"] + terms, rel=1e-4)
    plain = run_to_end(make_trial(epochs=1, lambda_1=0.0, lambda_2=0.0), own_cache)
    assert not {"loss_spatial", "loss_temporal", "loss_logits"} & set(plain.history[0].metrics)
    assert not [name for name in plain.history[0].metrics if name.startswith("gradient_")]


def test_gradient_ratios_are_logged_and_change_nothing(
    own_cache: Path, make_trial: MakeTrial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_trial(logits="mse")
    ensure_teacher(config, own_cache, device="cpu")
    with_ratios = values(run_to_end(config, own_cache).history)
    other = tmp_path / "other"
    other.mkdir()
    for name in ("data", "arrays", "teachers"):
        (other / name).symlink_to(own_cache / name)
    asked: list[bool] = []
    # The first step of an epoch, and no other.
    monkeypatch.setattr(
        "cmkd.training.student.gradient_ratios", lambda *_: asked.append(True) or {}
    )
    without = values(run_to_end(config, other).history)
    assert len(asked) == config.setting.training.epochs
    names = {"gradient_spatial", "gradient_temporal", "gradient_logits"}
    for one, bare in zip(with_ratios, without, strict=True):
        assert one.keys() - bare.keys() == names
        assert all(one[name] > 0 for name in names)
        assert {name: value for name, value in one.items() if name not in names} == bare


def test_every_replicate_learns_from_its_own_teacher(
    own_cache: Path, make_trial: MakeTrial
) -> None:
    trials = [make_trial(seed=seed, epochs=1) for seed in (0, 1)]
    bundles = [ensure_teacher(config, own_cache, device="cpu") for config in trials]
    assert bundles[0].history != bundles[1].history
    for config in trials:
        run_to_end(config, own_cache)
        recorded = json.loads((teacher_folder(config, own_cache) / "config.json").read_text())
        assert recorded["seed"] == config.seed
    fixed = trials[1].setting.teacher.model_copy(update={"seed": 0})
    setting = trials[1].setting.model_copy(update={"teacher": fixed})
    same = trials[1].model_copy(update={"setting": setting})
    assert ensure_teacher(same, own_cache) == bundles[0]


def test_an_untrained_teacher_is_frozen_at_its_initialisation(
    own_cache: Path, make_trial: MakeTrial
) -> None:
    config = make_trial(epochs=1, lambda_2=0.0)
    teacher = TeacherConfig(width=4, untrained=True, training=TeacherTrainingConfig(epochs=0))
    setting = config.setting.model_copy(update={"teacher": teacher})
    config = config.model_copy(update={"setting": setting})
    bundle = ensure_teacher(config, own_cache, device="cpu")
    assert bundle.history == ()
    kept = load_file(teacher_folder(config, own_cache) / "teacher.safetensors")
    torch.manual_seed(epoch_seed(config.seed, -1))
    fresh = build_teacher(setting, len(kept["classifier.bias"])).state_dict()
    assert fresh.keys() == kept.keys()
    assert all(torch.equal(value, kept[name]) for name, value in fresh.items())
    metrics = run_to_end(config, own_cache).history[0].metrics
    assert 0 < metrics["loss_spatial"] < 1e3


def test_a_step_in_bf16_stays_near_fp32(own_cache: Path, make_trial: MakeTrial) -> None:
    config = make_trial(gate="softmax")
    training = config.setting.training.model_copy(update={"precision": "bf16"})
    setting = config.setting.model_copy(update={"training": training})
    ensure_teacher(config, own_cache, device="cpu")
    losses = []
    for one in (config, config.model_copy(update={"setting": setting})):
        learner = TrialRun(one, own_cache, device="cpu").learner
        assert isinstance(learner, StudentLearner)
        learner.model.train()
        torch.manual_seed(0)
        result = learner.batch_loss(learner.load(view_rows(learner.reader.arrays, range(16), 0)))
        assert result.loss.dtype == torch.float32
        losses.append({name: value.item() for name, value in result.metrics.items()})
    for name in ("loss_ce", "loss_spatial", "loss_temporal", "alpha_entropy"):
        assert losses[0][name] != losses[1][name]
        assert losses[1][name] == pytest.approx(losses[0][name], rel=0.02), name


def test_non_finite_loss_fails_and_names_epoch_and_step(
    own_cache: Path, make_trial: MakeTrial
) -> None:
    trial = TrialRun(make_trial(lambda_1=0.0, lambda_2=0.0, lr=1e9, epochs=6), own_cache)
    with pytest.raises(TrialFailed, match=r"not finite .* epoch \d+, step \d+; lower training\.lr"):
        while not trial.finished:
            trial.train_epoch()


def test_a_teacher_tells_of_its_damaged_checkpoint(own_cache: Path, make_trial: MakeTrial) -> None:
    config = make_trial()

    def stop(record: EpochRecord) -> None:
        if record.step == config.setting.teacher.training.epochs:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_teacher(config, own_cache, device="cpu", on_epoch=stop)
    os.truncate(own_cache / "teachers" / config.teacher_id / CURRENT, 100)
    notes = ensure_teacher(config, own_cache, device="cpu").notes
    assert notes[0].startswith("epoch 1: ")
    assert ensure_teacher(config, own_cache).notes == notes


def test_teacher_is_trained_once_and_its_features_match_it(
    own_cache: Path, make_trial: MakeTrial
) -> None:
    config = make_trial()
    epochs: list[int] = []
    bundle = ensure_teacher(
        config, own_cache, device="cpu", on_epoch=lambda record: epochs.append(record.step)
    )
    assert epochs == [1, 2]
    again = ensure_teacher(
        make_trial(lambda_2=0.0),
        own_cache,
        device="cpu",
        on_epoch=lambda *_: epochs.append(9),
    )
    assert epochs == [1, 2]
    assert again == bundle

    dataset = open_dataset(config.data, own_cache)
    arrays = open_arrays(dataset, config.setting.reading, own_cache)
    train = dataset.split(0).train
    reader = ClipReader(
        arrays,
        measure_scales(arrays, first_rows(arrays, train)),
        torch.device("cpu"),
        config.setting,
    )
    cached = features_module.ensure_features(config, own_cache, dataset, reader)
    assert cached.rows.tolist() == all_rows(arrays, train).tolist()
    teacher = load_teacher(config, own_cache, len(dataset.info.classes))
    rows = view_rows(arrays, train, 3)[:5]
    with torch.inference_mode():
        h, logits = teacher(reader.frames(rows))
    stored, stored_logits = cached.outputs(rows)
    torch.testing.assert_close(stored_logits, logits, rtol=1e-4, atol=1e-4)
    # Standardising is affine per channel: undo it by a fit and compare.
    for channel in (0, 7):
        a = stored[:, :, channel].flatten().double()
        b = h[:, :, channel].flatten().double()
        if b.std() < 1e-6:
            continue
        slope = ((a - a.mean()) * (b - b.mean())).sum() / (b - b.mean()).square().sum()
        fitted = a.mean() + slope * (b - b.mean())
        assert (fitted - a).abs().max() < 0.01


def test_features_are_standardised_on_unchanged_training_clips(
    own_cache: Path, make_trial: MakeTrial
) -> None:
    config = make_trial()
    ensure_teacher(config, own_cache, device="cpu")
    dataset = open_dataset(config.data, own_cache)
    arrays = open_arrays(dataset, config.setting.reading, own_cache)
    plain = first_rows(arrays, dataset.split(0).train)
    reader = ClipReader(arrays, measure_scales(arrays, plain), torch.device("cpu"), config.setting)
    cached = features_module.ensure_features(config, own_cache, dataset, reader)
    h = cached.h[np.searchsorted(cached.rows, plain)].astype(np.float64)
    alive = h.std(axis=(0, 1, 3, 4)) > 0.5
    assert alive.sum() >= 8
    np.testing.assert_allclose(h.mean(axis=(0, 1, 3, 4)), 0, atol=5e-3)
    np.testing.assert_allclose(h.std(axis=(0, 1, 3, 4))[alive], 1, atol=5e-3)


def test_views_cycle_through_all_and_every_clip_appears_once(
    mini_cache: Path, make_trial: MakeTrial
) -> None:
    config = make_trial()
    dataset = open_dataset(config.data, mini_cache)
    arrays = open_arrays(dataset, config.setting.reading, mini_cache)
    train = dataset.split(0).train
    seen = np.stack([view_rows(arrays, train, epoch) for epoch in range(4)])
    assert sorted(seen.flatten()) == all_rows(arrays, train).tolist()
    batches = list(shuffled(seen[0], 12, seed=5))
    assert sorted(np.concatenate(batches)) == sorted(seen[0])
    assert {len(batch) for batch in batches} == {12}
    assert not np.array_equal(batches[0], next(shuffled(seen[0], 12, seed=6)))


def test_no_epoch_lacks_a_class(mini_cache: Path, make_trial: MakeTrial) -> None:
    # Clips come in label order and flips swap left and right: views that only counted up made
    # every other epoch miss one of them.
    config = make_trial()
    dataset = open_dataset(config.data, mini_cache)
    arrays = open_arrays(dataset, config.setting.reading, mini_cache)
    for epoch in range(8):
        labels = arrays.labels[view_rows(arrays, dataset.split(0).train, epoch)]
        assert set(labels) == set(range(len(dataset.info.classes)))


def test_changed_data_set_is_refused(own_cache: Path, make_trial: MakeTrial) -> None:
    config = make_trial().model_copy(update={"data_id": "0" * 12})
    with pytest.raises(DataError, match="was changed after the sweep was planned"):
        TrialRun(config, own_cache)
    with pytest.raises(DataError, match="was changed after the sweep was planned"):
        ensure_teacher(config, own_cache, device="cpu")


def test_kill_before_the_outcome_is_written_loses_nothing(
    own_cache: Path, make_trial: MakeTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_trial(epochs=1, lambda_1=0.0, lambda_2=0.0)
    trial = TrialRun(config, own_cache)
    record = trial.train_epoch()
    monkeypatch.setattr(outcome_module, "write_finished", _full_disk)
    with pytest.raises(InfrastructureError):
        trial.finish()
    monkeypatch.undo()
    again = TrialRun(config, own_cache)
    assert again.history == (record,)
    assert again.finish().summary["selected_epoch"] == 1


def _full_disk(path: Path, *_: object) -> None:
    raise InfrastructureError(f"{path}: no space left")


def test_motion_svm_is_a_trial_like_any_other(own_cache: Path, make_trial: MakeTrial) -> None:
    config = make_trial(model="motion_svm", lambda_1=0.0, lambda_2=0.0)
    trial = run_to_end(config, own_cache)
    assert [record.step for record in trial.history] == [1]
    summary = trial.finish().summary
    assert summary["test_acc"] == summary["test_acc_last"]
    rows = all_rows(trial.reader.arrays, trial.split.train)
    fitted = trial.learner.predict(rows[:, None]).selected
    # Motion tells the four profiles apart but no colour: well above 1 / 12 and far from perfect.
    assert 25 < 100 * np.mean(fitted == trial.reader.arrays.labels[rows]) < 90
    # Several views of a clip count alike, whichever stands first.
    views = np.stack([rows, np.roll(rows, 1)], axis=1)
    forward = trial.learner.predict(views)
    backward = trial.learner.predict(views[:, ::-1])
    assert np.array_equal(forward.selected, backward.selected)
    assert not np.array_equal(forward.selected, fitted)
    # Its votes tie at times, and then its class is not that of the highest score.
    assert np.mean(forward.scores.argmax(1) == forward.selected) > 0.9


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_absent_cuda_is_named() -> None:
    with pytest.raises(InputError, match="no CUDA device"):
        pick_device("cuda")
