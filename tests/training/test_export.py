"""Students exported to files and registered in MLflow, fed with real clips."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

import cmkd
from cmkd import export
from cmkd.cli.main import app, main
from cmkd.config.data import EncodingConfig, ViewsConfig
from cmkd.config.trial import Setting
from cmkd.data.video import encode
from cmkd.errors import InputError
from cmkd.io import file_sha256, write_json
from cmkd.predict import Student
from cmkd.tracking.mlflow_store import open_store
from cmkd.tracking.store import EpochRecord, RunEnding, RunIdentity
from cmkd.training.build import build_student
from cmkd.training.outcome import StudentDescription
from cmkd.training.weights import write_tensors

PAGE = Path(__file__).resolve().parents[2] / "docs" / "predict.md"
Arrays = dict[str, np.ndarray]
CLASSES = ("wave", "clap", "point")
ENCODING = EncodingConfig(width=64, height=64)
PLAIN: dict[str, Any] = {"student": {"width": 4}, "method": {"hidden": 4, "lambda_1": 0.0}}
RICH: dict[str, Any] = {
    "inputs": {"num_gops": 2, "test_clips": 2},
    "student": {"backbone": "tiny_tdn", "width": 4, "residual_size": 24},
    "method": {
        "lambda_1": 0.0,
        "attention": "block",
        "content": "value",
        "heads": 2,
        "hidden": 4,
        "width": 8,
        "gate": "softmax",
        "gate_learns": "pooling",
    },
}


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    """Two videos of a drifting texture, in `ENCODING`."""
    paths = [tmp_path / "first.mp4", tmp_path / "second.mp4"]
    for seed, path in enumerate(paths):
        texture = np.random.default_rng(seed).integers(0, 256, (16, 16, 3)).astype(np.uint8)
        large = np.kron(texture, np.ones((4, 4, 1), np.uint8))
        frames = [np.roll(large, (seed + 1) * step, axis=1) for step in range(36)]
        encode(frames, path, ENCODING, 25.0)
    return paths


@pytest.fixture
def make_student(tmp_path: Path) -> Callable[..., Student]:
    """Students of any setting, with random weights and statistics, as a trial leaves them."""

    def make(setting: dict[str, Any] = PLAIN) -> Student:
        folder, whole = tmp_path / "student", Setting.model_validate(setting)
        torch.manual_seed(0)
        weights = build_student(whole, (64, 64), len(CLASSES)).state_dict()
        for name, value in weights.items():
            if "running" in name:
                value.uniform_(0.5, 1.5)
        folder.mkdir()
        write_tensors(folder / "student.safetensors", weights, {"id": "t"})
        description = StudentDescription(
            trial_id="t",
            setting=whole,
            classes=CLASSES,
            encoding=ENCODING,
            views=ViewsConfig(),
            motion_scale=2.0,
            residual_scale=9.0,
            weights_sha256=file_sha256(folder / "student.safetensors"),
        )
        write_json(folder / "student.json", description.as_json())
        return cmkd.load_student(folder, device="cpu")

    return make


def exported(student: Student, kind: str, out: Path) -> dict[str, Any]:
    """Contents of the JSON file that the command writes beside `out`."""
    done = CliRunner().invoke(app, ["export", str(student.folder), "--to", kind, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == [str(out), f"{out}.json"]
    found: dict[str, Any] = json.loads(Path(f"{out}.json").read_text("utf-8"))
    return found


def run_pt2(path: Path) -> Callable[[Arrays], np.ndarray]:
    network = torch.export.load(path).module()
    return lambda arrays: (
        network(**{k: torch.from_numpy(v) for k, v in arrays.items()}).detach().numpy()
    )


def run_onnx(path: Path) -> Callable[[Arrays], np.ndarray]:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path)
    axes = {axis for given in session.get_inputs() for axis in given.shape if isinstance(axis, str)}
    assert axes <= {"views", "gops"}
    return lambda arrays: np.asarray(session.run(None, arrays)[0])


@pytest.mark.slow
@pytest.mark.parametrize("setting", [PLAIN, RICH], ids=["plain", "rich"])
@pytest.mark.parametrize(("kind", "load"), [("pt2", run_pt2), ("onnx", run_onnx)])
def test_an_export_gives_the_scores_of_the_network_for_any_number_of_views(
    kind: str,
    load: Callable[[Path], Callable[[Arrays], np.ndarray]],
    setting: dict[str, Any],
    make_student: Callable[..., Student],
    clips: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    student = make_student(setting)
    out = tmp_path / f"net.{kind}"
    exported(student, kind, out)
    run = load(out)
    read = [student.inputs(clip) for clip in clips]
    both = {name: np.concatenate([arrays[name] for arrays in read]) for name in read[0]}
    for arrays in (*read, both, {name: value[:1] for name, value in both.items()}):
        with torch.inference_mode():
            eager = student.network(**{k: torch.from_numpy(v) for k, v in arrays.items()}).numpy()
        found = run(arrays)
        assert found.shape == (len(arrays["gop"]), len(student.classes))
        assert np.abs(found - eager).max() < 1e-5
    found = torch.softmax(torch.from_numpy(run(read[0])).mean(0), 0).tolist()
    predicted = student.predict(clips[0])
    assert found == pytest.approx(list(predicted.probabilities.values()), abs=1e-5)
    if kind == "onnx":
        (tmp_path / "clip.mp4").symlink_to(clips[0])
        out.rename(tmp_path / "student.onnx")
        monkeypatch.chdir(tmp_path)
        _, block, _ = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.S)
        names: dict[str, object] = {}
        exec(block, names)
        assert names["label"] == predicted.label


@pytest.mark.parametrize("setting", [PLAIN, RICH], ids=["plain", "rich"])
def test_the_file_beside_describes_what_a_video_gives(
    setting: dict[str, Any], make_student: Callable[..., Student], clips: list[Path], tmp_path: Path
) -> None:
    student = make_student(setting)
    found = exported(student, "safetensors", tmp_path / "new" / "net.safetensors")
    arrays = student.inputs(clips[0])
    sizes = {
        "views": setting.get("inputs", {}).get("test_clips", 1),
        "gops": len(arrays["iframes"][0]),
    }
    assert [given["name"] for given in found["inputs"]] == list(arrays)
    for given in found["inputs"]:
        array = arrays[given["name"]]
        assert array.dtype.name == given["dtype"]
        assert array.shape == tuple(sizes.get(size, size) for size in given["shape"])
    assert found["output"]["shape"] == ["views", len(student.classes)]
    assert found["student"] == student.description.as_json()
    assert found["normalisation"]["motion"] == {"divisor": 2.0}
    own = student.network.student.state_dict()
    kept = load_file(tmp_path / "new" / "net.safetensors")
    assert kept.keys() == own.keys() and all(torch.equal(kept[name], own[name]) for name in own)


def test_onnx_without_its_packages_names_the_extra(
    make_student: Callable[..., Student], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(
        InputError, match=r"lacks the package onnxscript; pip install 'cmkd\[export\]'"
    ):
        export.export_student(make_student(), "onnx", tmp_path / "net.onnx")
    assert not list(tmp_path.glob("net*"))


@pytest.mark.slow
def test_a_network_that_torch_cannot_trace_is_named(
    make_student: Callable[..., Student], tmp_path: Path
) -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return own(x if x.sum() > 0 else -x)

    student = make_student()
    own = student.network.student.i_frame
    student.network.student.i_frame = Branching()
    with pytest.raises(InputError, match="backbone tiny_tsm: torch cannot export it") as error:
        export.export_student(student, "pt2", tmp_path / "net.pt2")
    assert "--to safetensors" in error.value.remedy


@pytest.mark.slow
def test_a_registered_model_takes_paths_of_videos(
    make_student: Callable[..., Student],
    clips: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    uri, student = f"sqlite:///{tmp_path}/mlflow.db", make_student()
    command = ["export", str(student.folder), "--to", "mlflow", "--out", "signs"]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, InputError), refused.exception
    assert not list(tmp_path.glob("mlflow.db*"))
    store = open_store(uri)
    for trial, status in (("t", "FINISHED"), ("failed", "FAILED")):
        run = store.open(RunIdentity(trial, "mine/clips", trial, {"trial_id": trial}, {}), {})
        store.log(run, [EpochRecord(1, 1, {"val_acc": 50.0})])
        store.close(run, RunEnding(status, summary={"test_acc": 60.0}))  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "argv", ["cmkd", "export", run, "--to", "onnx"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"run {run}: is FAILED" in line and "--retry-failed" in line

    before = [(entry.run_id, entry.status, entry.metrics) for entry in store.find({})]
    for version in (1, 2):
        done = CliRunner().invoke(app, command)
        assert (done.exit_code, done.output) == (0, f"models:/signs/{version}\n"), done.exception
    assert [(entry.run_id, entry.status, entry.metrics) for entry in store.find({})] == before

    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    model = mlflow.pyfunc.load_model("models:/signs/2")
    found = model.predict([str(clip) for clip in clips])
    for clip, answer in zip(clips, found, strict=True):
        assert answer == pytest.approx(dict(student.predict(clip).probabilities))
    files = [path.suffix for path in (tmp_path / "mlartifacts").rglob("*") if path.is_file()]
    assert ".safetensors" in files and not {".pkl", ".pickle", ".pt"} & set(files)
