"""`cmkd data prepare`: bad files are reported, good ones go on, a kill costs nothing."""

from __future__ import annotations

import csv
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cmkd.cli.data import app
from cmkd.config.data import EncodingConfig, ReaderConfig, SplitConfig, ViewsConfig
from cmkd.data.clip import read_clip
from cmkd.data.dataset import open_dataset
from cmkd.data.decoded_cache import ensure_arrays
from cmkd.data.prepare import PrepareRequest, prepare
from cmkd.data.reencode import uniform_indices
from cmkd.data.video import encode, scan
from cmkd.errors import CmkdError, DataError, InfrastructureError, InputError

SMALL = EncodingConfig(width=80, height=64, gop=12, qscale=5)
SOURCE = EncodingConfig(width=96, height=96, gop=24, qscale=4)


def video(path: Path, frames: int = 20, seed: int = 0) -> None:
    """A panning noise picture of `frames` frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tile = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    picture = tile.repeat(16, axis=0).repeat(16, axis=1)
    encode((picture[t : t + 96, t : t + 96] for t in range(frames)), path, SOURCE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of four clips, one per group, and a manifest."""
    root = tmp_path / "source"
    rows = ["path,group"]
    for seed, (label, group) in enumerate((c, g) for c in "ab" for g in ("s1", "s2", "s3", "s4")):
        video(root / label / f"{group}.mp4", seed=seed)
        rows.append(f"{label}/{group}.mp4,{group}")
    (root / "manifest.csv").write_text("\n".join(rows) + "\n")
    return root


def request(root: Path, **changes: object) -> PrepareRequest:
    values: dict[str, object] = {
        "root": root,
        "output": root.parent / "out",
        "name": "mine",
        "encoding": SMALL,
        "views": ViewsConfig(),
        "split": SplitConfig(folds=2),
        **changes,
    }
    return PrepareRequest(**values)  # type: ignore[arg-type]


def run(monkeypatch: pytest.MonkeyPatch, cache: Path, *arguments: str) -> Result:
    monkeypatch.setenv("CMKD_CACHE", str(cache))
    return CliRunner().invoke(app, list(arguments))


def refused(output: Path) -> dict[str, tuple[str, str]]:
    with (output / "refused.csv").open(newline="") as stream:
        return {row["path"]: (row["reason"], row["remedy"]) for row in csv.DictReader(stream)}


def test_real_videos_with_bad_ones_among_them(
    shared_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cache = tmp_path / "real", tmp_path / "cache"
    with (shared_video / "egogestar" / "manifest.csv").open(newline="") as stream:
        every = [row for row in csv.DictReader(stream) if row["label"] in ("left", "up")]
    b_frames = [
        row
        for label in ("left", "up")
        for row in [row for row in every if row["label"] == label and int(row["B"]) > 0][:3]
    ]
    others = [row for row in every if row["codec"] == "mpeg4"][:1]
    for row in (*b_frames, *others):
        target = root / row["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(shared_video / "egogestar" / row["path"])
    assert len(b_frames) == 6 and len(others) == 1
    broken = shared_video / "clips" / "edge_cases" / "decord_corrupted.mp4"
    shutil.copy(broken, root / "left" / "corrupt.mp4")
    whole = (shared_video / "egogestar" / b_frames[0]["path"]).read_bytes()
    (root / "left" / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (root / "left" / "text.mp4").write_text("this is a text file\n")
    (root / "up" / "empty.mp4").write_bytes(b"")
    (root / "up" / "notes.txt").write_text("not a video")

    result = run(
        monkeypatch, cache, "prepare", str(root), "--name", "real", "--width", "80", "--height",
        "64", "--gop", "12", "--frames", "24", "--qscale", "5", "--folds", "2", "--workers", "2",
    )  # fmt: skip

    assert result.exit_code == 0, result.output
    output = cache / "data" / "real"
    bad = refused(output)
    assert set(bad) == {
        "left/corrupt.mp4", "left/cut.mp4", "left/text.mp4", "up/empty.mp4", "up/notes.txt",
    }  # fmt: skip
    assert all(reason and remedy and str(root) not in reason for reason, remedy in bad.values())
    assert f"7 prepared (0 of them before), 5 refused -> {output / 'refused.csv'}" in result.output
    dataset = open_dataset("real", cache)
    assert len(dataset.clips) == 7 and dataset.num_folds == 2
    for clip in dataset.clips:
        info = scan(dataset.root / clip.path)
        found = (info.codec, info.width, info.height, info.frames_declared)
        assert found == ("mpeg4", 80, 64, 24)
        read = read_clip(dataset.root / clip.path, ReaderConfig())
        assert read.frames.shape == (8, 3, 64, 80) and len(read.iframes) == 2


def test_what_is_prepared_can_be_read_into_arrays(folder: Path) -> None:
    views = ViewsConfig(count=2, shift=0.1)
    done = prepare(request(folder, views=views))
    arrays = ensure_arrays(done.dataset, ReaderConfig(), folder.parent / "cache", workers=1)
    trained = {n for fold in (0, 1) for n in done.dataset.split(fold).train}
    assert 0 < len(trained) < 8
    assert arrays.frames.shape == (8 + len(trained), 8, 3, 64, 80)
    assert arrays.iframes.shape[1] == 2, "20 frames are two GOPs of 12"


def test_a_crop_is_a_view_and_encodes_nothing_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepared(*options: str) -> Result:
        common = ("--name", "mine", "--width", "80", "--height", "64", "--folds", "2")
        cache = folder.parent / "cache"
        result = run(monkeypatch, cache, "prepare", str(folder), *common, *options)
        assert result.exit_code == 0, result.output
        return result

    prepared()
    again = prepared("--crop", "48", "--flip", "--views", "2")
    assert "8 prepared (8 of them before)" in again.output
    dataset = open_dataset("mine", folder.parent / "cache")
    assert dataset.info.views == ViewsConfig(count=2, flip="horizontal", crop=48)


def test_a_manifest_may_give_the_folds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = {"s1": "train test", "s2": "train train", "s3": "val train", "s4": "test -"}
    rows = [f"{c}/{group}.mp4,{group},{split}" for c in "ab" for group, split in words.items()]
    (folder / "manifest.csv").write_text("\n".join(["path,group,split", *rows]) + "\n")
    options = ("prepare", str(folder), "--name", "mine", "--width", "80", "--height", "64")
    cache = folder.parent / "cache"
    by_folds = run(monkeypatch, cache, *options, "--folds", "2")
    assert by_folds.exit_code == 0, by_folds.output
    assert {clip.split for clip in open_dataset("mine", cache).clips} == {""}
    result = run(monkeypatch, cache, *options, "--given")
    assert result.exit_code == 0, result.output
    *lines, warning = result.stdout.splitlines()
    assert lines[-3:] == [
        "8 clips, 2 classes of 4 clips each, 4 groups, 2 folds",
        "fold 0: 4 train, 2 validate, 2 test; per class 2, 1, 1",
        "fold 1: 2 train, 2 validate, 2 test; per class 1, 1, 1",
    ]
    assert "(8 of them before)" in result.stdout
    dataset = open_dataset("mine", cache)
    assert warning == dataset.split_warning and "of 2 of 2 folds are a single group" in warning
    (folder / "manifest.csv").unlink()
    missing = run(monkeypatch, cache, *options, "--given")
    assert isinstance(missing.exception, DataError) and "column 'split'" in str(missing.exception)


def test_what_a_killed_run_left_half_written_goes(folder: Path) -> None:
    done = prepare(request(folder))
    left = done.dataset.root / "a" / ".s1.mp4.4711.partial"
    left.write_bytes(b"half a file")
    prepare(request(folder))
    assert not left.exists() and (done.dataset.root / "a" / "s1.mp4").exists()


def test_a_second_run_encodes_nothing(folder: Path) -> None:
    first = prepare(request(folder))
    times = {path: path.stat().st_mtime_ns for path in first.dataset.root.rglob("*.mp4")}
    second = prepare(request(folder, split=SplitConfig(rule="leave_one_group_out")))

    assert (first.reused, second.reused) == (0, 8)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert second.dataset.id != first.dataset.id
    assert second.dataset.clips == first.dataset.clips and second.dataset.num_folds == 4


def test_changed_sources_and_lost_outputs_are_encoded_again(folder: Path) -> None:
    first = prepare(request(folder))
    video(folder / "a" / "s1.mp4", seed=99)
    (first.dataset.root / "b" / "s2.mp4").unlink()
    (first.dataset.root / "b" / "s3.mp4").write_bytes(b"damaged")

    second = prepare(request(folder))

    assert second.reused == 5
    changed = {
        old.path for old, new in zip(first.dataset.clips, second.dataset.clips, strict=True)
        if old.sha256 != new.sha256
    }  # fmt: skip
    assert changed == {"a/s1.mp4"}, "equal sources give equal bytes"


def test_another_encoding_needs_another_name(folder: Path) -> None:
    prepare(request(folder))
    other = EncodingConfig(width=64, height=64)
    with pytest.raises(InputError, match="80x64, GOP 12, qscale 5, frames all"):
        prepare(request(folder, encoding=other))


def test_short_clips_are_refused(folder: Path) -> None:
    video(folder / "a" / "s1.mp4", frames=8)
    video(folder / "a" / "s2.mp4", frames=9)
    for frames in (None, 16):
        encoding = SMALL.model_copy(update={"num_frames": frames})
        report = prepare(request(folder, encoding=encoding, output=folder.parent / f"{frames}"))
        assert [r.path for r in report.refused] == ["a/s1.mp4"]
        assert report.refused[0].reason == "has 8 frames, 9 are needed"
        assert len(report.dataset.clips) == 7
        assert not list(report.dataset.root.rglob("*.partial"))


def test_a_class_without_usable_clips_stops_but_loses_nothing(folder: Path) -> None:
    kept = {path: path.read_bytes() for path in (folder / "b").iterdir()}
    for path in kept:
        path.write_text("no video")
    with pytest.raises(DataError, match="without a usable clip: b;"):
        prepare(request(folder))
    assert len(refused(folder.parent / "out")) == 4

    for path, content in kept.items():
        path.write_bytes(content)
    assert prepare(request(folder)).reused == 4


def test_one_name_in_two_containers_is_two_clips(folder: Path) -> None:
    shutil.copy(folder / "a" / "s1.mp4", folder / "a" / "s1.mov")
    with (folder / "manifest.csv").open("a") as stream:
        stream.write("a/s1.mov,s1\n")
    paths = {clip.path for clip in prepare(request(folder)).dataset.clips}
    assert {"a/s1.mp4", "a/s1.mov.mp4"} <= paths


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": SplitConfig(folds=5)}, "5 folds cannot be made of 4 groups"),
        ({"split": SplitConfig(folds=2, train_only=("s9",))}, "s9: no clip has that group"),
        ({"name": "synthetic"}, "is an embedded data set"),
        ({"encoding": EncodingConfig(num_frames=8)}, "at least 9"),
        ({"views": ViewsConfig(crop=80)}, "--crop 80: is more than a side of 80x64"),
    ],
)
def test_mistakes_are_found_before_encoding(
    folder: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        prepare(request(folder, **changes))
    assert not (folder.parent / "out").exists()


def test_the_source_is_never_written_to(folder: Path) -> None:
    for output in (folder, folder / "out", folder.parent):
        with pytest.raises(InputError, match="overlaps the source"):
            prepare(request(folder, output=output))


@pytest.mark.parametrize(
    "clashing", [("a/x.avi", "a/x.avi.mp4"), ("a/x.mp4", "a/./x.mp4"), ("a/x.MP4", "a/x.MP4.mp4")]
)
def test_two_files_of_one_name_in_the_data_set_are_refused(
    folder: Path, clashing: tuple[str, str]
) -> None:
    for seed, path in enumerate(clashing):
        video(folder / "a" / f"{seed}.mp4", seed=seed)
        (folder / "a" / f"{seed}.mp4").rename(folder / path)
        with (folder / "manifest.csv").open("a") as stream:
            stream.write(f"{path},s1\n")
    with pytest.raises(DataError, match="have the same name in the data set") as caught:
        prepare(request(folder))
    assert all(path in str(caught.value) for path in clashing)
    assert not (folder.parent / "out").exists()


@pytest.mark.parametrize("below", [".", "deeper", "n" * 300])
def test_an_output_that_is_no_folder_is_the_users_mistake(folder: Path, below: str) -> None:
    output = folder.parent / "a_file"
    output.write_text("not a folder")
    with pytest.raises(InputError, match="choose another"):
        prepare(request(folder, output=output / below))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder nobody can write to")
def test_an_output_that_cannot_be_written_is_the_users_mistake(folder: Path) -> None:
    with pytest.raises(InputError, match="/proc/out.*choose another"):
        prepare(request(folder, output=Path("/proc/out")))


def test_the_current_folder_can_be_the_output(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.parent / "here").mkdir()
    monkeypatch.chdir(folder.parent / "here")
    assert len(prepare(request(folder, output=Path())).dataset.clips) == 8


@pytest.mark.parametrize("blocked", ["a", ".records", "refused.csv"])
def test_something_in_the_way_in_the_output_is_named(folder: Path, blocked: str) -> None:
    output = folder.parent / "out"
    output.mkdir()
    if blocked == "refused.csv":
        (output / blocked / "a_folder").mkdir(parents=True)
    else:
        (output / blocked).write_text("a file where a folder belongs")
    with pytest.raises(InfrastructureError, match=rf"{blocked}.*cannot be written"):
        prepare(request(folder))
    assert not list(output.rglob("*.partial"))


def test_a_full_disk_is_no_fault_of_the_videos(folder: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
        with pytest.raises(InfrastructureError, match="cannot be written"):
            prepare(request(folder))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (folder.parent / "out" / "dataset.json").exists()
    assert prepare(request(folder)).refused == ()


def test_a_listed_name_no_file_can_have_is_refused(folder: Path) -> None:
    with (folder / "manifest.csv").open("a") as stream:
        stream.write(f"a/{'n' * 300}.mp4,s1\n")
    with pytest.raises(DataError, match="cannot be read|no such file"):
        prepare(request(folder))


def test_indices_are_even_and_whole() -> None:
    assert uniform_indices(5, 5) == [0, 1, 2, 3, 4]
    assert uniform_indices(9, 3) == [0, 4, 8]
    assert uniform_indices(3, 6) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--folds", "2", "--leave-one-group-out"), "give one of them"),
        (("--workers", "4096"), "CPUs"),
        (("--width", "81"), "multiple of 16"),
        (("--shift", "0.9"), "shift"),
        (("--crop", "64", "--scale", "0.1"), "crop: 64 cuts views by a rule of its own"),
        (("--name", "../evil"), "letters, digits"),
    ],
)
def test_wrong_options_exit_with_a_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str
) -> None:
    arguments = ("prepare", str(folder), "--name", "mine", *options)
    result = run(monkeypatch, folder.parent / "cache", *arguments)
    assert isinstance(result.exception, CmkdError) and result.exception.exit_code == 2
    assert message in str(result.exception) and "\n" not in str(result.exception)


def test_list_shows_embedded_prepared_and_damaged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = folder.parent / "cache"
    prepare(request(folder, output=cache / "data" / "mine"))
    (cache / "data" / "bad").mkdir()
    (cache / "data" / "bad" / "dataset.json").write_text("{")
    result = run(monkeypatch, cache, "list")
    lines = {line.split()[0]: line.split() for line in result.output.splitlines()}
    assert result.exit_code == 0
    assert lines["synthetic"][1:5] == ["embedded", "2000", "12", "1"]
    assert lines["mine"][1:5] == ["folder", "8", "2", "2"]
    assert lines["bad"][1] == "damaged"


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache, total = tmp_path / "source", tmp_path / "cache", 24
    for seed in range(total):
        video(root / "ab"[seed % 2] / f"{seed}.mp4", frames=60, seed=seed)
    arguments = ["prepare", str(root), "--name", "mine", "--width", "320", "--folds", "2"]
    command = [sys.executable, "-c", "from cmkd.cli.data import app; app()", *arguments]
    records = cache / "data" / "mine" / ".records"
    process = subprocess.Popen(
        [*command, "--workers", "1"],
        env={**os.environ, "CMKD_CACHE": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while len(list(records.rglob("*.json"))) < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = times(records)
    while (now := times(records)) != before or list(cache.rglob("*.partial")):
        before = now
        time.sleep(0.5)
    assert 5 <= len(before) < total, "it was killed halfway"
    assert not (cache / "data" / "mine" / "dataset.json").exists()

    result = run(monkeypatch, cache, *arguments, "--workers", "1")

    assert f"{total} prepared ({len(before)} of them before), 0 refused" in result.output
    after = times(records)
    assert len(after) == total and before.items() <= after.items(), "nothing was done twice"
    dataset = open_dataset("mine", cache)
    assert len(dataset.clips) == total
    assert not list(cache.rglob("*.partial"))


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")}


def test_without_validation_clips_all_others_train(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("prepare", str(folder), "--name", "mine", "--width", "80", "--height", "64")
    cache = folder.parent / "cache"
    result = run(monkeypatch, cache, *options, "--folds", "2", "--no-validation")
    assert result.exit_code == 0, result.output
    dataset = open_dataset("mine", cache)
    parts = dataset.split(0)
    assert f"{len(parts.train)} train, 0 validate, {len(parts.test)} test" in result.stdout
    assert len(parts.train) + len(parts.test) == len(dataset.clips)
    assert not dataset.has_validation and dataset.split_warning is None


def test_a_set_without_groups_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "manifest.csv").unlink()
    options = ("prepare", str(folder), "--name", "mine", "--width", "80", "--height", "64")
    cache = folder.parent / "cache"
    result = run(monkeypatch, cache, *options, "--folds", "2")
    assert result.exit_code == 0, result.output
    dataset = open_dataset("mine", cache)
    assert dataset.num_groups == 0 and dataset.split_warning is not None
    assert dataset.split_warning in result.stdout and "'group'" in dataset.split_warning
    assert dataset.split_warning in run(monkeypatch, cache, "show", "mine").stdout
