"""`cmkd data inspect`: what the student sees adds up to the frame, and its colours mean it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cmkd.cli.data import app
from cmkd.config.data import DatasetInfo, EncodingConfig, SplitConfig, ViewsConfig
from cmkd.data.dataset import write_dataset
from cmkd.data.inspect import colours, inspect_clip, wheel
from cmkd.data.splits import ClipEntry
from cmkd.data.video import decode_rgb, encode
from cmkd.errors import DataError
from cmkd.io import file_sha256


def test_a_pan_is_rebuilt_from_motion(tmp_path: Path, texture) -> None:
    path = tmp_path / "pan.mp4"
    pan = [texture[20 : 20 + 96, 2 * t : 2 * t + 96] for t in range(24)]
    encode(pan, path, EncodingConfig(width=96, height=96, gop=12, qscale=2))
    sights, _ = inspect_clip(path, 4)
    frames = list(decode_rgb(path))
    assert [sight.intra for sight in sights] == [0, 0, 12, 12]
    for sight in sights:
        assert sight.number % 12 and sight.number // 12 * 12 == sight.intra
        assert np.abs(sight.frame.astype(int) - frames[sight.number]).max() <= 4
        assert np.abs(sight.iframe.astype(int) - frames[sight.intra]).max() <= 4
        unmoved = np.abs(sight.frame.astype(float) - sight.iframe).mean()
        assert sight.motion_error < 0.5 * unmoved, "motion explains most of a pan"
        assert sight.error < 0.5 * sight.motion_error, "and the residual the rest of it"
        # What comes in lies to the right, so the way back to the I-frame does too: red.
        assert sight.motion[32:64, 32:64].mean(axis=(0, 1)).argmax() == 0
        pictures = (sight.frame, sight.iframe, sight.motion, sight.residual, sight.rebuilt)
        assert {picture.shape for picture in pictures} == {(96, 96, 3)}


def test_a_still_clip_has_neither_motion_nor_residual(tmp_path: Path, texture) -> None:
    path = tmp_path / "still.mp4"
    still = [texture[:64, :64]] * 14
    encode(still, path, EncodingConfig(width=64, height=64, gop=12, qscale=2))
    sights, full = inspect_clip(path, 2)
    assert full == 1.0
    for sight in sights:
        assert not sight.motion.any()
        assert np.abs(sight.residual.astype(int) - 128).mean() < 2
        assert sight.error < 1.5


def test_colours_are_directions() -> None:
    right, down, left, up = colours(np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)[None])[
        0
    ]
    assert right.tolist() == [255, 0, 0]
    assert left.tolist() == [0, 255, 255]
    assert down[1] == 255 and down[2] == 0 and up[2] == 255 and up[1] == 0
    dim = colours(np.array([[[0.5, 0.0]]], np.float32))[0, 0]
    assert dim.tolist() == [128, 0, 0]
    disc = wheel(41)
    assert disc[0, 0].tolist() == [255] * 3 and disc[20, 20].tolist() == [0] * 3
    assert disc[20, 39, 0] > 230 and disc[20, 39, 1:].max() < 20


def test_the_command_writes_a_picture(
    tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(good, tmp_path / "clip.mp4")
    result = CliRunner().invoke(app, ["inspect", "clip.mp4", "--frames", "3"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("clip.png: 3 frames, rebuilt to ")
    with Image.open(tmp_path / "clip.png") as picture:
        assert picture.format == "PNG" and picture.width > 1000 and picture.height > 600
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 1000
    missing = CliRunner().invoke(app, ["inspect", "none.mp4"])
    assert isinstance(missing.exception, DataError) and "no such file" in str(missing.exception)


def test_a_clip_of_a_data_set(tmp_path: Path, good: Path) -> None:
    root = tmp_path / "cache" / "data" / "mine"
    (root / "a").mkdir(parents=True)
    shutil.copy(good, root / "a" / "clip.mp4")
    clips = [ClipEntry("a/clip.mp4", 0, "", "", file_sha256(good))]
    encoding = EncodingConfig(width=64, height=64)
    info = DatasetInfo(
        name="mine",
        kind="folder",
        classes=("a", "b"),
        encoding=encoding,
        views=ViewsConfig(),
        split=SplitConfig(),
        digest="",
    )
    write_dataset(root, info, clips)

    wrong = CliRunner().invoke(app, ["inspect", "mine:clip.mp4"])
    assert isinstance(wrong.exception, DataError)
    assert "has no clip 'clip.mp4'; give a path of its manifest, as a/clip.mp4" in str(
        wrong.exception
    )
    target = tmp_path / "deep" / "a.png"
    options = ("--output", str(target), "--frames", "2")
    result = CliRunner().invoke(app, ["inspect", "mine:a/clip.mp4", *options])
    assert result.exit_code == 0, result.output
    assert target.read_bytes().startswith(b"\x89PNG")
