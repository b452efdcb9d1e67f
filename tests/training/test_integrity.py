"""Damaged and swapped files of trials and teachers: named, unused, made again by the next call."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cmkd.config.trial import TeacherTrainingConfig, TrialConfig
from cmkd.errors import InfrastructureError
from cmkd.training import loop
from cmkd.training.checkpoint import CURRENT
from cmkd.training.features import CHANNEL_STATS_FILE, GRAPH_STATS_FILE, teacher_folder
from cmkd.training.outcome import read_record, write_record
from cmkd.training.teacher import ensure_teacher
from cmkd.training.trial import TrialRun

MakeTrial = Callable[..., TrialConfig]
CLOCKS = (
    "seconds",
    "step_seconds",
    "seconds_train",
    "seconds_step",
    "seconds_open",
    "memory_peak_mib",
)


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES = (zero, cut, flip)


def run(config: TrialConfig, cache: Path) -> dict[str, float]:
    """Train the trial to its end; its figures without clocks."""
    trial = TrialRun(config, cache, device="cpu")
    while not trial.finished:
        trial.train_epoch()
    return {k: v for k, v in trial.finish().summary.items() if k not in CLOCKS}


def expect_healed(config: TrialConfig, cache: Path, name: str, expected: dict[str, float]) -> None:
    """The next call names the file, the one after that works as if nothing had happened."""
    with pytest.raises(InfrastructureError, match=name) as error:
        ensure_teacher(config, cache, device="cpu")
        run(config, cache)
    assert "damaged" in str(error.value)
    ensure_teacher(config, cache, device="cpu")
    assert run(config, cache) == expected


def _short(config: TrialConfig) -> TrialConfig:
    """The trial with a teacher of one epoch."""
    training = TeacherTrainingConfig(epochs=1)
    teacher = config.setting.teacher.model_copy(update={"training": training})
    setting = config.setting.model_copy(update={"teacher": teacher})
    return config.model_copy(update={"setting": setting})


WAYS = {"in turn": DAMAGES, "zeros": (zero,), "torn": (cut,), "flipped": (flip,), "swapped": ()}


@pytest.mark.parametrize(
    "way", [way if way == "in turn" else pytest.param(way, marks=pytest.mark.slow) for way in WAYS]
)
def test_every_damaged_file_is_named_and_made_again(
    own_cache: Path, make_trial: MakeTrial, way: str
) -> None:
    """Every file of a trial, its teacher and its scales; swapped ones are those of a neighbour."""
    config, neighbour = (_short(make_trial(epochs=1, seed=seed)) for seed in (0, 1))
    for one in (neighbour, config) if way == "swapped" else (config,):
        ensure_teacher(one, own_cache, device="cpu")
        expected = run(one, own_cache)
    trial, teacher = own_cache / "trials" / config.id, teacher_folder(config, own_cache)
    other = teacher_folder(neighbour, own_cache)
    theirs = {
        trial: own_cache / "trials" / neighbour.id,
        teacher: other,
        teacher / "features": other / "features",
    }
    scales = own_cache / "scales"
    checked = 0
    for folder in (trial, teacher, teacher / "features", scales):
        for number, path in enumerate(sorted(folder.iterdir())):
            if path.is_dir() or path.suffix == ".lock" or path.name in ("lock", "made_by.json"):
                continue
            swapped = theirs[folder] / path.name if folder in theirs else path
            if way == "swapped" and swapped.read_bytes() == path.read_bytes():
                continue
            if folder != trial:
                # A finished trial opens nothing of its teacher.
                shutil.rmtree(trial)
            if way == "swapped":
                shutil.copy(swapped, path)
            else:
                WAYS[way][number % len(WAYS[way])](path)
            expect_healed(config, own_cache, path.name, expected)
            checked += 1
    assert checked >= (10 if way == "swapped" else 14)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_weights_of_a_teacher_teach_nobody(
    own_cache: Path, make_trial: MakeTrial, damage: Callable[[Path], None]
) -> None:
    config = make_trial(epochs=1)
    ensure_teacher(config, own_cache, device="cpu")
    folder = teacher_folder(config, own_cache)
    damage(folder / "teacher.safetensors")
    with pytest.raises(InfrastructureError, match=r"teacher\.safetensors"):
        TrialRun(config, own_cache, device="cpu")
    assert not (folder / "features" / "features.json").exists()


def test_files_of_another_owner_are_not_accepted(own_cache: Path, make_trial: MakeTrial) -> None:
    first, second = (make_trial(seed=seed, lambda_1=0.0, lambda_2=0.0) for seed in (0, 1))
    expected = [run(config, own_cache) for config in (first, second)]
    folders = [own_cache / "trials" / config.id for config in (first, second)]
    shutil.rmtree(folders[1])
    shutil.copytree(*folders)
    with pytest.raises(InfrastructureError, match=rf"outcome\.json.*{first.id}"):
        TrialRun(second, own_cache)
    assert run(second, own_cache) == expected[1]

    # A checkpoint of another trial is left aside with a note.
    for folder in folders:
        shutil.rmtree(folder)
    started = TrialRun(first, own_cache)
    started.train_epoch()
    folders[1].mkdir()
    shutil.copy(folders[0] / CURRENT, folders[1] / CURRENT)
    other = TrialRun(second, own_cache)
    assert other.history == ()
    (note,) = other.notes
    assert first.id in note
    while not other.finished:
        other.train_epoch()
    figures = other.finish().summary
    assert {k: v for k, v in figures.items() if k not in CLOCKS} == expected[1]


def test_what_was_measured_of_one_teacher_serves_no_other(tmp_path: Path) -> None:
    for name in (CHANNEL_STATS_FILE, GRAPH_STATS_FILE):
        write_record(tmp_path / name, "a", {"mean": [1.0]})
        assert read_record(tmp_path / name, "a") == {"mean": [1.0]}
        with pytest.raises(InfrastructureError, match=name):
            read_record(tmp_path / name, "b")
        assert not (tmp_path / name).exists()


def test_a_checkpoint_is_written_when_it_is_due_and_after_the_last_epoch(
    own_cache: Path, make_trial: MakeTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_trial(epochs=3, lambda_1=0.0, lambda_2=0.0)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 3600.0)
    trial = TrialRun(config, own_cache)
    first = trial.train_epoch()
    assert not (trial.folder / CURRENT).exists()
    # Killed here: the epoch is repeated, to the same values.
    again = TrialRun(config, own_cache)
    repeated = again.train_epoch()
    assert repeated.step == first.step
    for key in first.metrics.keys() - CLOCKS:
        assert repeated.metrics[key] == first.metrics[key], key
    again.train_epoch()
    again.train_epoch()
    assert (again.folder / CURRENT).is_file()
