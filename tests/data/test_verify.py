"""`cmkd data verify`: all that is wrong with every clip, and nothing else."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cmkd.cli.data import app
from cmkd.config.data import DatasetInfo, EncodingConfig, SplitConfig, ViewsConfig
from cmkd.data.dataset import Dataset, read_folder, write_dataset
from cmkd.data.inspect import verify
from cmkd.data.splits import ClipEntry
from cmkd.data.video import encode, scan
from cmkd.errors import DataError
from cmkd.io import file_sha256

ENCODING = EncodingConfig(width=64, height=64, gop=12, qscale=2)


def dataset_of(root: Path, encoding: EncodingConfig = ENCODING) -> Dataset:
    """A data set of the clips in a folder as they are now."""
    clips = [
        ClipEntry(path.name, number % 2, "", "", file_sha256(path))
        for number, path in enumerate(sorted(root.glob("*.mp4")))
    ]
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
    return read_folder(root)


def flipped(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 0xFF
    path.write_bytes(content)


@pytest.fixture
def folder(tmp_path: Path, good: Path) -> Path:
    """Two good clips of 24 frames."""
    root = tmp_path / "cache" / "data" / "mine"
    root.mkdir(parents=True)
    for name in ("one", "two"):
        shutil.copy(good, root / f"{name}.mp4")
    return root


def test_a_good_data_set(folder: Path) -> None:
    seen = []
    dataset = dataset_of(folder)
    assert verify(dataset, workers=2, on_progress=lambda *done: seen.append(done)) == {}
    assert seen == [(1, 2), (2, 2)]


def test_everything_that_can_be_wrong(folder: Path, panning, write_with_av) -> None:
    write_with_av(folder / "b_frames.mp4", b_frames=2)
    write_with_av(folder / "extra_intra.mp4", intra=(5,))
    write_with_av(folder / "h264.mp4", codec="libx264", options={"bf": "0"})
    encode(panning[:20], folder / "short.mp4", ENCODING)
    encode([frame[:48, :48] for frame in panning], folder / "small.mp4",
           EncodingConfig(width=48, height=48, gop=12, qscale=2))  # fmt: skip
    (folder / "text.mp4").write_text("no video")
    shutil.copy(folder / "one.mp4", folder / "cut.mp4")
    shutil.copy(folder / "one.mp4", folder / "flipped.mp4")
    (folder / "gone.mp4").touch()
    dataset = dataset_of(folder, ENCODING.model_copy(update={"num_frames": 24}))
    (folder / "gone.mp4").unlink()
    flipped(folder / "flipped.mp4", 900)
    whole = (folder / "cut.mp4").read_bytes()
    # From its front half only: the index at the end goes, as in a copy that broke off.
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])

    found = verify(dataset, workers=1)

    assert list(found) == sorted(found)
    assert set(found) == {
        "b_frames.mp4", "cut.mp4", "extra_intra.mp4", "flipped.mp4", "gone.mp4", "h264.mp4",
        "short.mp4", "small.mp4", "text.mp4",
    }  # fmt: skip
    changed = "SHA-256 is not that of manifest.csv"
    assert found["gone.mp4"] == ["cannot be read (No such file or directory)"]
    assert found["extra_intra.mp4"] == [
        "I-frames are not those of GOP 12: see frame 5, 12, 17",
    ]  # the encoder counts its GOP from there
    assert found["short.mp4"] == ["has 20 frames, not 24"]
    assert found["small.mp4"] == ["is mpeg4 48x48 yuv420p, not mpeg4 64x64 yuv420p"]
    assert found["h264.mp4"][0] == "is h264 64x64 yuv420p, not mpeg4 64x64 yuv420p"
    assert found["b_frames.mp4"][0].startswith("frames that are neither I nor P: 1, 2, 4")
    assert found["text.mp4"][0].startswith("cannot be decoded")
    assert found["cut.mp4"][0] == found["flipped.mp4"][0] == changed
    assert len(found["cut.mp4"]) == 2


def test_damage_inside_of_the_stream_is_seen(folder: Path) -> None:
    dataset = dataset_of(folder)
    content = bytearray((folder / "one.mp4").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    (folder / "one.mp4").write_bytes(content)
    ((path, problems),) = verify(dataset, workers=1).items()
    assert path == "one.mp4" and len(problems) >= 2
    assert any("corrupt frames" in problem for problem in problems)


def test_a_clip_that_takes_too_long(folder: Path) -> None:
    found = verify(dataset_of(folder), workers=1, timeout=0.0)
    assert list(found.values()) == [["its process did not finish within 0 s"]] * 2


def test_the_command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMKD_CACHE", str(folder.parents[1]))
    dataset_of(folder)
    by_name, by_path = (
        CliRunner().invoke(app, ["verify", which, "--workers", "1"])
        for which in ("mine", str(folder))
    )
    assert by_name.exit_code == by_path.exit_code == 0
    assert by_name.stdout == by_path.stdout == "mine: 2 of 2 clips are intact\n"
    flipped(folder / "two.mp4", 900)
    bad = CliRunner().invoke(app, ["verify", "mine", "--workers", "1"])
    assert bad.stdout.splitlines()[0].startswith("two.mp4: SHA-256 is not that of manifest.csv")
    assert bad.stdout.splitlines()[-1] == "mine: 1 of 2 clips are intact"
    assert isinstance(bad.exception, DataError) and "1 clips are damaged" in str(bad.exception)
    assert isinstance(CliRunner().invoke(app, ["verify", "other"]).exception, DataError)


def test_real_clips_before_they_are_prepared(shared_video: Path) -> None:
    """`scan` agrees with the figures that another tool wrote down for these files."""
    with (shared_video / "clips" / "manifest.csv").open(newline="") as stream:
        rows = {row["file"]: row["stream"] for row in csv.DictReader(stream)}
    for name in ("mmaction2_test.avi", "mmaction2_part_0.mp4", "v_SoccerJuggling_g23_c01.avi"):
        found = scan(shared_video / "clips" / name)
        kinds = "/".join(f"{kind}{found.kinds.count(kind)}" for kind in "IPB")
        assert f"{found.width}x{found.height}" in rows[name] and kinds in rows[name]
        assert f"{len(found.kinds)}f" in rows[name]
        assert not found.corrupt and found.error is None
    corrupt = scan(shared_video / "clips" / "edge_cases" / "decord_corrupted.mp4")
    assert corrupt.error or corrupt.corrupt
