"""Arrays hold exactly what reading a clip and applying its view gives, once per data set."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cmkd.config.data import EncodingConfig, InputConfig, ReaderConfig, SplitConfig, ViewsConfig
from cmkd.data.clip import read_clip
from cmkd.data.dataset import Dataset, ensure_synthetic, read_folder
from cmkd.data.decoded_cache import ClipArrays, ensure_arrays, open_arrays
from cmkd.data.synthetic import SyntheticRecipe
from cmkd.data.views import apply_view, label_of, make_views, view_index
from cmkd.data.workers import run_tasks
from cmkd.errors import DataError, InfrastructureError, InputError
from cmkd.io import file_sha256

READING = ReaderConfig()
FOUR_GOPS = EncodingConfig(width=64, height=64, gop=4, qscale=6, num_frames=16)
MINI = SyntheticRecipe(name="mini", train=12, val=12, test=12, encoding=FOUR_GOPS)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def dataset(cache: Path) -> Dataset:
    return read_folder(ensure_synthetic(MINI, cache, workers=1))


@pytest.fixture(scope="module")
def arrays(dataset: Dataset, cache: Path) -> ClipArrays:
    return ensure_arrays(dataset, READING, cache, workers=2)


def test_shapes_and_types(arrays: ClipArrays) -> None:
    rows = 12 * 4 + 12 + 12
    shapes = {name: getattr(arrays, name).shape for name in arrays.__dataclass_fields__}
    assert shapes == {
        "iframes": (rows, 4, 3, 64, 64),
        "gop": (rows, 8),
        "motion": (rows, 8, 2, 16, 16),
        "residual": (rows, 8, 3, 32, 32),
        "frames": (rows, 8, 3, 64, 64),
        "labels": (rows,),
        "index": (36, 4),
        "test_index": (36, 1),
    }
    kinds = {name: getattr(arrays, name).dtype.str[1:] for name in shapes}
    assert kinds["iframes"] == kinds["frames"] == "u1" and kinds["gop"] == "i1"
    assert kinds["motion"] == kinds["residual"] == "f2" and kinds["labels"] == "i8"


def test_rows_equal_the_clips_read_one_by_one(dataset: Dataset, arrays: ClipArrays) -> None:
    split = dataset.split(0)
    for number in (*split.train[:3], split.val[0], split.test[-1]):
        entry = dataset.clips[number]
        read = read_clip(dataset.root / entry.path, READING)
        views = make_views(dataset.info.views, entry.path, 64, 64)
        for at, view in enumerate(views if number in split.train else views[:1]):
            clip = apply_view(read, view)
            row = arrays.row(number, at)
            np.testing.assert_array_equal(arrays.iframes[row], clip.iframes)
            np.testing.assert_array_equal(arrays.gop[row], clip.gop)
            np.testing.assert_array_equal(arrays.motion[row], clip.motion)
            np.testing.assert_array_equal(arrays.residual[row], clip.residual)
            np.testing.assert_array_equal(arrays.frames[row], clip.frames)
            assert arrays.labels[row] == label_of(dataset.info, entry.label, view)


def test_mirrored_rows_have_mirrored_labels(dataset: Dataset, arrays: ClipArrays) -> None:
    names = dataset.info.classes
    number = next(n for n in dataset.split(0).train if names[dataset.clips[n].label] == "red_left")
    shown = [names[arrays.labels[arrays.row(number, view)]] for view in range(4)]
    assert shown == ["red_left", "red_right", "red_left", "red_right"]


def test_only_training_clips_have_views(dataset: Dataset, arrays: ClipArrays) -> None:
    split = dataset.split(0)
    assert (arrays.index[list(split.train)] >= 0).all()
    assert (arrays.index[list(split.test), 1:] == -1).all()
    used = arrays.index[arrays.index >= 0]
    assert sorted(used.tolist()) == list(range(len(arrays.labels)))
    with pytest.raises(DataError, match="has no view 2"):
        arrays.row(split.test[0], 2)


def test_one_view_at_test_is_view_0(dataset: Dataset, arrays: ClipArrays) -> None:
    split = dataset.split(0)
    tested = list(split.test)
    np.testing.assert_array_equal(arrays.test_index[tested], arrays.index[tested, :1])
    assert (arrays.test_index[list(split.train + split.val)] == -1).all()


FULL = ReaderConfig(
    inputs=InputConfig(num_frames=4, num_gops=2, test_clips=2, test_crops=3),
    raw_segment=5,
    compressed_segment=5,
)


def test_crops_segments_and_views_at_test(dataset: Dataset, cache: Path) -> None:
    views = ViewsConfig(count=3, flip="horizontal", phase=True, crop=48)
    info = dataset.info.model_copy(update={"views": views})
    cropped = replace(dataset, info=info)
    arrays = ensure_arrays(cropped, FULL, cache, workers=1)
    rows = 12 * 3 + 12 + 12 * 6
    assert arrays.iframes.shape == (rows, 2, 3, 48, 48)
    assert arrays.motion.shape == (rows, 4, 10, 12, 12)
    assert arrays.residual.shape == (rows, 4, 15, 24, 24)
    assert arrays.frames.shape == (rows, 4, 15, 48, 48)
    assert arrays.gop.tolist() == [[0, 0, 1, 1]] * rows

    split = cropped.split(0)
    assert arrays.test_index.shape == (36, 6)
    assert (arrays.test_index[list(split.train + split.val)] == -1).all()
    number = split.test[3]
    tested = arrays.test_index[number]
    assert tested[1] == arrays.row(number, 0) and len(set(tested)) == 6
    assert (arrays.labels[tested] == cropped.clips[number].label).all()
    path = cropped.root / cropped.clips[number].path
    for at, row in enumerate(tested):
        clip = read_clip(path, FULL, phase=(0.0, 0.5)[at // 3])
        left = (0, 8, 16)[at % 3]
        inside = (..., slice(8, 56), slice(left, left + 48))
        np.testing.assert_array_equal(arrays.frames[row], clip.frames[inside])
        np.testing.assert_array_equal(arrays.iframes[row], clip.iframes[inside])
        cells = (..., slice(2, 14), slice(left // 4, left // 4 + 12))
        np.testing.assert_array_equal(arrays.motion[row], clip.motion[cells])

    number = split.train[2]
    path = cropped.root / cropped.clips[number].path
    for at, view in enumerate(make_views(views, cropped.clips[number].path, 64, 64)):
        clip = apply_view(read_clip(path, FULL, phase=view.phase), view)
        row = arrays.row(number, at)
        np.testing.assert_array_equal(arrays.frames[row], clip.frames)
        np.testing.assert_array_equal(arrays.residual[row], clip.residual)


def test_a_clip_that_trains_in_one_fold_and_tests_in_another_has_both(dataset: Dataset) -> None:
    entries = tuple(replace(clip, group=str(n // 12)) for n, clip in enumerate(dataset.clips))
    rule = SplitConfig(rule="leave_one_group_out")
    info = dataset.info.model_copy(update={"split": rule})
    plan = view_index(replace(dataset, info=info, clips=entries), InputConfig(test_clips=3))
    assert plan.index.shape == (36, 4) and plan.test_index.shape == (36, 3)
    assert (plan.index >= 0).all() and (plan.test_index >= 0).all()
    np.testing.assert_array_equal(plan.index[:, 0], plan.test_index[:, 0])
    assert len(plan.labels) == 36 * (4 + 2)


def test_crops_that_the_data_set_cannot_have_are_refused_before_decoding(
    dataset: Dataset, tmp_path: Path
) -> None:
    reading = ReaderConfig(inputs=InputConfig(test_crops=3))
    with pytest.raises(DataError, match="whole pictures of 64x64"):
        ensure_arrays(dataset, reading, tmp_path, workers=1)
    assert [path for path in (tmp_path / "arrays").iterdir() if path.is_dir()] == []


def test_a_clip_of_another_size_is_not_cropped_into_shape(dataset: Dataset, tmp_path: Path) -> None:
    wider = dataset.info.encoding.model_copy(update={"width": 80})
    changes = {"encoding": wider, "views": ViewsConfig(crop=48)}
    info = dataset.info.model_copy(update=changes)
    with pytest.raises(DataError, match="4 I-frames of 64x64 do not fit"):
        ensure_arrays(replace(dataset, info=info), READING, tmp_path, workers=1)


def test_they_are_built_once(dataset: Dataset, arrays: ClipArrays, cache: Path) -> None:
    moved = Dataset(Path("gone"), dataset.info, dataset.clips)
    again = ensure_arrays(moved, READING, cache, workers=1)
    np.testing.assert_array_equal(again.labels, arrays.labels)
    assert isinstance(again.frames, np.memmap) and not again.frames.flags.writeable


def test_opening_them_marks_them_as_used(dataset: Dataset, arrays: ClipArrays, cache: Path) -> None:
    folders = [path for path in (cache / "arrays").iterdir() if path.is_dir()]
    for folder in folders:
        os.utime(folder, (0, 0))
    open_arrays(dataset, READING, cache)
    assert sum(folder.stat().st_mtime > 0 for folder in folders) == 1


@pytest.mark.parametrize(
    "reading",
    [
        ReaderConfig(inputs=InputConfig(motion="per_frame")),
        ReaderConfig(inputs=InputConfig(test_clips=2)),
        ReaderConfig(raw_segment=5),
        ReaderConfig(compressed_segment=5),
    ],
)
def test_other_readings_are_other_arrays(
    dataset: Dataset, cache: Path, reading: ReaderConfig
) -> None:
    with pytest.raises(DataError, match="not decoded yet"):
        open_arrays(dataset, reading, cache)


def damaged(dataset: Dataset, root: Path, damage: Callable[[bytes], bytes]) -> Dataset:
    """The data set with its second clip's bytes changed, the others linked."""
    for number, clip in enumerate(dataset.clips):
        target = root / clip.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if number == 1:
            target.write_bytes(damage((dataset.root / clip.path).read_bytes()))
        else:
            target.symlink_to(dataset.root / clip.path)
    return Dataset(root, dataset.info, dataset.clips)


def test_an_unreadable_clip_is_named_and_nothing_is_left(dataset: Dataset, tmp_path: Path) -> None:
    cut = damaged(dataset, tmp_path / "set", lambda content: content[: len(content) // 2])
    path = cut.root / cut.clips[1].path
    listed = replace(cut.clips[1], sha256=file_sha256(path))
    with pytest.raises(DataError, match="decoded") as caught:
        ensure_arrays(
            replace(cut, clips=(cut.clips[0], listed, *cut.clips[2:])), READING, tmp_path, workers=1
        )
    assert str(path) in str(caught.value)
    assert [path for path in (tmp_path / "arrays").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [("embedded", "remove {root} and"), ("folder", "prepare the data set again")],
)
def test_a_clip_that_is_not_the_manifests_is_refused(
    dataset: Dataset, tmp_path: Path, kind: str, remedy: str
) -> None:
    """Another clip's intact bytes, which decode without an error."""
    other = (dataset.root / dataset.clips[2].path).read_bytes()
    swapped = damaged(dataset, tmp_path / "set", lambda _: other)
    info = dataset.info.model_copy(update={"kind": kind})
    with pytest.raises(DataError) as caught:
        ensure_arrays(replace(swapped, info=info), READING, tmp_path, workers=1)
    expected = f"{swapped.root / swapped.clips[1].path}: differs from manifest.csv; {remedy}"
    assert expected.format(root=swapped.root) in str(caught.value)
    assert [path for path in (tmp_path / "arrays").iterdir() if path.is_dir()] == []


def test_a_lost_clip_is_named(dataset: Dataset, tmp_path: Path) -> None:
    lost = damaged(dataset, tmp_path / "set", lambda content: content)
    path = lost.root / lost.clips[1].path
    path.unlink()
    with pytest.raises(DataError, match="cannot be read") as caught:
        ensure_arrays(lost, READING, tmp_path, workers=1)
    assert str(path) in str(caught.value)


def test_a_cache_that_is_a_file_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match="choose another"):
        ensure_arrays(dataset, READING, tmp_path / "cache", workers=1)


def test_a_full_disk_is_noticed_before(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    with pytest.raises(InfrastructureError, match="CMKD_CACHE"):
        ensure_arrays(dataset, READING, tmp_path, workers=1)


def arrays_of(cache: Path) -> Path:
    (folder,) = (path for path in (cache / "arrays").iterdir() if path.is_dir())
    return folder


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips are decoded by this process, which saves the start of another."""

    def run(function, tasks, *, on_progress, **_):  # type: ignore[no-untyped-def]
        return run_tasks(function, tasks, workers=1, on_progress=on_progress)

    monkeypatch.setattr("cmkd.data.decoded_cache.run_tasks", run)


@pytest.fixture(scope="module")
def built(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("built")
    ensure_arrays(dataset, READING, cache, workers=2)
    return cache


def zero(path: Path) -> None:
    head = 128 if path.suffix == ".npy" else 0
    content = path.read_bytes()
    path.write_bytes(content[:head] + bytes(len(content) - head))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) - len(content) // 3] ^= 16
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose(path: Path) -> None:
    path.unlink()


def from_another_set(path: Path) -> None:
    """A file of the same name, shape and type with other content, intact in itself."""
    if path.suffix == ".json":
        marker = json.loads(path.read_text())
        path.write_text(json.dumps(marker | {"id": "0123456789ab"}))
    else:
        array = np.load(path)
        np.save(path, array + array.dtype.type(1))


FILES = ("iframes", "gop", "motion", "residual", "frames", "labels", "index", "digests")


@pytest.mark.parametrize("damage", [zero, flip, truncate, lose, from_another_set])
@pytest.mark.usefixtures("in_process")
def test_damaged_files_are_named_and_mended_by_the_next_call(
    dataset: Dataset, built: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    for name in (*(f"{name}.npy" for name in FILES), "ready.json"):
        cache = tmp_path / name
        shutil.copytree(built, cache)
        folder = arrays_of(cache)
        whole = {path.name: path.read_bytes() for path in folder.iterdir()}
        damage(folder / name)
        if name == "ready.json" and damage is not from_another_set:
            with pytest.raises(DataError, match="not decoded yet"):
                open_arrays(dataset, READING, cache)
        else:
            with pytest.raises(InfrastructureError, match=f"{name}.*damaged|damaged.*{name}"):
                open_arrays(dataset, READING, cache)
        ensure_arrays(dataset, READING, cache, workers=1)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("between", [True, False])
def test_folders_of_two_data_sets_that_were_swapped_are_named_and_made_again(
    dataset: Dataset, built: Path, tmp_path: Path, between: bool
) -> None:
    """Of one shape, each whole and intact; a trial may open them between, or a sweep first."""
    other = read_folder(ensure_synthetic(MINI.model_copy(update={"seed": 1}), tmp_path, workers=1))
    ensure_arrays(other, READING, tmp_path, workers=1)
    (theirs,) = (path for path in (tmp_path / "arrays").iterdir() if path.is_dir())
    own = tmp_path / "arrays" / arrays_of(built).name
    shutil.copytree(arrays_of(built), tmp_path / "mine")
    whole = {path: path.read_bytes() for path in arrays_of(built).iterdir()}
    whole |= {path: path.read_bytes() for path in theirs.iterdir()}
    theirs.rename(own)
    (tmp_path / "mine").rename(theirs)
    for one in (dataset, other):
        if between:
            with pytest.raises(InfrastructureError, match=r"ready\.json.*belongs to"):
                open_arrays(one, READING, tmp_path)
        ensure_arrays(one, READING, tmp_path, workers=1)
    for path, content in whole.items():
        assert (tmp_path / "arrays" / path.parent.name / path.name).read_bytes() == content, path


@pytest.mark.usefixtures("in_process")
def test_damage_is_found_before_a_sweep_too(
    dataset: Dataset, built: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(built, tmp_path / "cache")
    flip(arrays_of(tmp_path / "cache") / "frames.npy")
    arrays = ensure_arrays(dataset, READING, tmp_path / "cache", workers=1)
    np.testing.assert_array_equal(arrays.frames, np.load(arrays_of(built) / "frames.npy"))
    assert "frames.npy: is damaged" in caplog.text


@pytest.mark.usefixtures("in_process")
def test_only_damaged_clips_are_decoded_again(
    dataset: Dataset, built: Path, tmp_path: Path
) -> None:
    shutil.copytree(built, tmp_path / "cache")
    flip(arrays_of(tmp_path / "cache") / "motion.npy")
    seen: list[tuple[int, int]] = []
    ensure_arrays(
        dataset,
        READING,
        tmp_path / "cache",
        workers=1,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 1)]


@pytest.mark.usefixtures("in_process")
def test_a_decode_that_is_broken_off_goes_on(dataset: Dataset, built: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_arrays(dataset, READING, tmp_path, workers=1, on_progress=stop)
    seen: list[int] = []
    ensure_arrays(
        dataset, READING, tmp_path, workers=1, on_progress=lambda done, total: seen.append(done)
    )
    assert seen == list(range(1, 17))
    for path in arrays_of(built).iterdir():
        assert (arrays_of(tmp_path) / path.name).read_bytes() == path.read_bytes()
