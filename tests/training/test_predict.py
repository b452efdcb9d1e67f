"""Videos predicted by the student that a trial left."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import cmkd
from cmkd import predict
from cmkd.cli.main import app
from cmkd.config.data import EncodingConfig
from cmkd.config.trial import TrialConfig
from cmkd.data.dataset import open_dataset
from cmkd.data.video import decode_rgb, encode
from cmkd.errors import CmkdError, DataError, InfrastructureError, InputError
from cmkd.training.trial import TrialRun

PAGE = Path(__file__).resolve().parents[2] / "docs" / "predict.md"
MakeTrial = Callable[..., TrialConfig]


@pytest.fixture
def trial(own_cache: Path, make_trial: MakeTrial, monkeypatch: pytest.MonkeyPatch) -> TrialRun:
    """A finished trial in the cache of this process."""
    monkeypatch.setenv("CMKD_CACHE", str(own_cache))
    run = TrialRun(make_trial(epochs=1, lambda_1=0.0, lambda_2=0.0), own_cache, device="cpu")
    run.train_epoch()
    run.finish()
    return run


def clips_of(trial: TrialRun) -> list[tuple[Path, str]]:
    """Files of the test clips, and their recorded predictions."""
    root = open_dataset(trial.config.data, trial.cache).root
    with (trial.folder / "predictions.csv").open(encoding="utf-8") as stream:
        return [(root / row["clip"], row["selected"]) for row in csv.DictReader(stream)]


def test_a_clip_gets_the_class_that_its_trial_recorded(trial: TrialRun) -> None:
    names = {path.name for path in trial.finish().files}
    assert {"student.json", "student.safetensors"} <= names
    student = cmkd.load_student(trial.folder, device="cpu")
    for clip, recorded in clips_of(trial)[::8]:
        found = student.predict(clip)
        assert found.label == recorded
        assert found.label == max(found.probabilities, key=lambda name: found.probabilities[name])
        assert list(found.probabilities) == list(trial.dataset.info.classes)
        assert sum(found.probabilities.values()) == pytest.approx(1.0, abs=1e-5)
        assert found.frames == len(list(decode_rgb(clip)))


def test_other_encodings_are_brought_to_that_of_the_data_set(
    trial: TrialRun, tmp_path: Path
) -> None:
    student = cmkd.load_student(trial.config.id, device="cpu")
    (clip, recorded), *_ = clips_of(trial)
    large = EncodingConfig(width=128, height=128, gop=4)
    frames = [np.kron(frame, np.ones((2, 2, 1), np.uint8)) for frame in decode_rgb(clip)]
    encode(frames, tmp_path / "large.mp4", large, 25.0)
    found = student.predict(tmp_path / "large.mp4")
    assert found.frames == len(frames)
    assert abs(found.probabilities[recorded] - student.predict(clip).probabilities[recorded]) < 0.2


def test_files_that_are_no_usable_video_are_named(trial: TrialRun, tmp_path: Path) -> None:
    student = cmkd.load_student(trial.folder, device="cpu")
    clip, _ = clips_of(trial)[0]
    frames = list(decode_rgb(clip))
    short = EncodingConfig(width=64, height=64)
    encode(frames[:4], tmp_path / "short.mp4", short, 25.0)
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:2000])
    (tmp_path / "text.mp4").write_text("no video")
    for name in ("short.mp4", "cut.mp4", "text.mp4", "none.mp4"):
        with pytest.raises(DataError, match=re.escape(str(tmp_path / name))):
            student.predict(tmp_path / name)


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        ([SimpleNamespace(run_id="r", status="RUNNING", trial_id="t")], "run r: is RUNNING"),
        ([SimpleNamespace(run_id="r", status="FAILED", trial_id="t")], "run r: is FAILED"),
        ([SimpleNamespace(run_id="r", status="FINISHED", trial_id="t")], "has no student in"),
        ([], "no run of the store"),
    ],
)
def test_runs_without_a_student_here_are_refused(
    runs: Sequence[object], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMKD_CACHE", str(tmp_path))
    reader = SimpleNamespace(find=lambda _: runs)
    monkeypatch.setattr(predict, "store_exists", lambda _: True)
    monkeypatch.setattr(predict, "open_reader", lambda _: reader)
    with pytest.raises(CmkdError, match=reason) as error:
        cmkd.load_student("r")
    assert error.value.remedy


def test_a_run_leads_to_the_student_of_its_trial(
    trial: TrialRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SimpleNamespace(run_id="r", status="FINISHED", trial_id=trial.config.id)
    monkeypatch.setattr(predict, "store_exists", lambda _: True)
    monkeypatch.setattr(predict, "open_reader", lambda _: SimpleNamespace(find=lambda _: [run]))
    assert cmkd.load_student("r").classes == trial.dataset.info.classes


def test_the_start_of_an_id_leads_to_a_student_unless_several_begin_so(
    trial: TrialRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, other = trial.config.id[:6], "db6e845" + 25 * "0"
    runs = [
        SimpleNamespace(run_id=run_id, status=status, trial_id=trial.config.id)
        for run_id, status in (("db6e8458" + 24 * "0", "FINISHED"), (other, "FAILED"))
    ]
    monkeypatch.setattr(predict, "store_exists", lambda _: True)
    monkeypatch.setattr(predict, "open_reader", lambda _: SimpleNamespace(find=lambda _: runs))
    for known in ("db6e8458", start):
        assert cmkd.load_student(known).folder == trial.folder
    with pytest.raises(InputError, match=f"db6e84: .*{runs[0].run_id}, {other}"):
        cmkd.load_student("db6e84")
    for unknown in ("db6e8", "db6e8459"):
        with pytest.raises(InputError, match="cmkd report trace"):
            cmkd.load_student(unknown)
    monkeypatch.setattr(predict, "store_exists", lambda _: False)
    assert cmkd.load_student(start).folder == trial.folder


def test_unfinished_and_damaged_students_are_refused(trial: TrialRun, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: has no student\.json"):
        cmkd.load_student(tmp_path / "empty")
    shutil.copytree(trial.folder, tmp_path / "copy")
    weights = tmp_path / "copy" / "student.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InfrastructureError, match=r"student\.safetensors: is damaged"):
        cmkd.load_student(tmp_path / "copy")
    (tmp_path / "copy" / "student.json").write_text("{}")
    with pytest.raises(InputError, match=r"student\.json: is no description"):
        cmkd.load_student(tmp_path / "copy")


def test_a_device_that_torch_does_not_know_is_named(trial: TrialRun) -> None:
    with pytest.raises(InputError, match="device 'gpu': is none of torch; use cpu, cuda or auto"):
        cmkd.load_student(trial.folder, device="gpu")


def test_the_command_prints_the_most_probable_classes(trial: TrialRun) -> None:
    (first, recorded), (second, _), *_ = clips_of(trial)
    done = CliRunner().invoke(
        app, ["predict", str(trial.folder), str(first), str(second), "--top", "2"]
    )
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].startswith(f"{first}: {recorded} ")
    assert [line.count(" %") for line in lines] == [2, 2]


def test_the_page_of_the_documentation_runs(
    trial: TrialRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clip, recorded), *_ = clips_of(trial)
    (tmp_path / "student").symlink_to(trial.folder)
    (tmp_path / "clip.mp4").symlink_to(clip)
    monkeypatch.chdir(tmp_path)
    block, _, of_scores = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.S)
    names: dict[str, object] = {}
    exec(block, names)
    found = names["found"]
    assert isinstance(found, predict.Prediction)
    assert found.label == recorded
    exec(of_scores, names)
    assert isinstance(names["likeliest"], list)
    assert [row[0] for row in names["likeliest"]] == [said for _, said in clips_of(trial)]
