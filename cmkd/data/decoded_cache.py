"""Decoded clips of a data set as memory-mapped arrays, built once and shared by all trials.

Axes of the arrays: R rows, one per (clip, view); T sampled P-frames; G I-frames, `num_gops` or as
many as the clip with most GOPs uses; S frames per sampled one, folded into the channels frame by
frame; H x W pixels; motion on cells of 4 x 4 and residual of 2 x 2 pixels.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from jaxtyping import Float16, Int8, Int64, UInt8

from cmkd.config.base import content_id
from cmkd.config.data import EncodingConfig, InputConfig, ReaderConfig
from cmkd.data.clip import MOTION_CELL, RESIDUAL_CELL, CompressedClip, read_clip
from cmkd.data.codec.video import probe
from cmkd.data.dataset import Dataset
from cmkd.data.manifest import MANIFEST_FILE
from cmkd.data.views import View, apply_view, label_of, make_views, plain_view, views_at_test
from cmkd.data.workers import OnProgress, run_tasks
from cmkd.errors import CmkdError, DataError, InfrastructureError
from cmkd.io import file_sha256, load_array, make_folder, require_space


@dataclass(frozen=True)
class Rows:
    """Rows in the order of the clips.

    Attributes:
        views: of each clip; its rows follow one another in this order.
        labels: class that each row shows.
        index: row of (clip, view), -1 where a clip has no such view.
        test_index: row of (clip, view at test), -1 for clips that no fold tests.
    """

    views: tuple[tuple[View, ...], ...]
    labels: Int64[np.ndarray, " R"]
    index: Int64[np.ndarray, "N V"]
    test_index: Int64[np.ndarray, "N M"]


def plan_rows(dataset: Dataset, inputs: InputConfig) -> Rows:
    """All views of clips that some fold trains on, those at test of clips that some fold tests.

    Other clips have view 0 only, which is also one of those at test.

    Raises:
        DataError: `inputs` asks for crops that the data set cannot have.
    """
    info = dataset.info
    height, width = info.encoding.height, info.encoding.width
    splits = [dataset.split(fold) for fold in range(dataset.num_folds)]
    trained = {clip for split in splits for clip in split.train}
    tested = {clip for split in splits for clip in split.test}
    at_test = views_at_test(info.views, inputs, height, width)
    plain = plain_view(info.views, height, width)
    views: list[tuple[View, ...]] = []
    labels: list[int] = []
    index: list[list[int]] = []
    test_index: list[list[int]] = []
    for number, clip in enumerate(dataset.clips):
        train = number in trained
        seen = make_views(info.views, clip.path, height, width) if train else (plain,)
        asked = at_test if number in tested else ()
        mine = (*seen, *(view for view in asked if view != plain))
        index.append([len(labels) + at for at in range(len(seen))])
        test_index.append([len(labels) + mine.index(view) for view in asked])
        views.append(mine)
        labels += [label_of(info, clip.label, view) for view in mine]
    return Rows(
        tuple(views),
        np.array(labels, np.int64),
        _table(index, max(map(len, index))),
        _table(test_index, len(at_test)),
    )


def _table(rows: Sequence[Sequence[int]], width: int) -> Int64[np.ndarray, "N width"]:
    return np.array([[*row, *[-1] * (width - len(row))] for row in rows], np.int64)


READER = 2
"""Raised when equal clips, views and inputs give other arrays than before."""

SECONDS_PER_CLIP = 300.0
_READY = "ready.json"
_MAPPED = ("iframes", "gop", "motion", "residual", "frames")
_SMALL = ("labels", "index", "test_index")

_Shapes = dict[str, tuple[tuple[int, ...], str]]


@dataclass(frozen=True)
class ClipArrays:
    """Read-only maps of the files; indexing one reads only what it touches."""

    iframes: UInt8[np.ndarray, "R G 3 H W"]
    """RGB I-frames; slots a clip does not use are zero and no entry of `gop` names them."""
    gop: Int8[np.ndarray, "R T"]
    """I-frame of each P-frame."""
    motion: Float16[np.ndarray, "R T 2*S h w"]
    """Pixels (x, y)."""
    residual: Float16[np.ndarray, "R T 3*S h2 w2"]
    """Grey levels, -255..255."""
    frames: UInt8[np.ndarray, "R T 3*S H W"]
    """The teacher's RGB frames; its S may be another than that of motion and residual."""
    labels: Int64[np.ndarray, " R"]
    """Class of each row; that of the view, which a flip may change."""
    index: Int64[np.ndarray, "N V"]
    """Row of (clip, view), -1 where a clip has no such view."""
    test_index: Int64[np.ndarray, "N M"]
    """Row of (clip, view at test), -1 for clips that no fold tests; a clip's scores at test are
    the mean of theirs. M = test_clips * test_crops; with M = 1 it is the row of view 0."""

    def row(self, clip: int, view: int) -> int:
        """Row of a view of a clip.

        Raises:
            DataError: the clip has no such view; only clips that some fold trains on have more
                than view 0.
        """
        row = int(self.index[clip, view])
        if row < 0:
            raise DataError(f"clip {clip} has no view {view}: no fold trains on it")
        return row


def ensure_arrays(
    dataset: Dataset,
    reading: ReaderConfig,
    cache: Path,
    *,
    workers: int,
    on_progress: OnProgress | None = None,
) -> ClipArrays:
    """Decode every clip and view unless the cache has them; safe from several processes.

    See `plan_rows` for the views. The folder appears complete or not at all.

    Raises:
        DataError: a clip cannot be read or is not the one of the manifest (names the file), or
            `reading` asks for crops that the data set cannot have.
        InputError: the cache cannot be written.
        InfrastructureError: not enough free space.
    """
    folder = _folder(dataset, reading, cache)
    make_folder(folder.parent)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not (folder / _READY).exists():
            draft = folder.with_name(f".{folder.name}.tmp")
            shutil.rmtree(draft, ignore_errors=True)
            try:
                _build(dataset, reading, draft, workers, on_progress)
                draft.rename(folder)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return open_arrays(dataset, reading, cache)


def open_arrays(dataset: Dataset, reading: ReaderConfig, cache: Path) -> ClipArrays:
    """Map the arrays that `ensure_arrays` built.

    Raises:
        DataError: they were not built.
        InfrastructureError: a file of them is damaged.
    """
    folder = _folder(dataset, reading, cache)
    if not (folder / _READY).exists():
        raise DataError(
            f"{folder}: the clips of {dataset.info.name} are not decoded yet; run again"
        )
    mapped = {name: load_array(folder / f"{name}.npy", mapped=True) for name in _MAPPED}
    small = {name: load_array(folder / f"{name}.npy") for name in _SMALL}
    return ClipArrays(**mapped, **small)


def _folder(dataset: Dataset, reading: ReaderConfig, cache: Path) -> Path:
    return cache / "arrays" / content_id("arrays", READER, dataset.id, reading)


@dataclass(frozen=True)
class _ReadTask:
    path: Path
    sha256: str
    remedy: str
    encoding: EncodingConfig
    views: tuple[View, ...]
    row: int
    reading: ReaderConfig
    draft: Path


def _build(
    dataset: Dataset,
    reading: ReaderConfig,
    draft: Path,
    workers: int,
    on_progress: OnProgress | None,
) -> None:
    plan = plan_rows(dataset, reading.inputs)
    draft.mkdir()
    _allocate(draft, _shapes(dataset, reading, len(plan.labels)))
    for name in _SMALL:
        np.save(draft / f"{name}.npy", getattr(plan, name))
    remedy, encoding = _remedy(dataset), dataset.info.encoding
    tasks, row = [], 0
    for clip, views in zip(dataset.clips, plan.views, strict=True):
        path = dataset.root / clip.path
        tasks.append(_ReadTask(path, clip.sha256, remedy, encoding, views, row, reading, draft))
        row += len(views)
    results = run_tasks(
        _read_views, tasks, workers=workers, timeout=SECONDS_PER_CLIP, name=lambda task: task.path
    )
    for done, (number, error) in enumerate(results, 1):
        if isinstance(error, InfrastructureError):
            raise error
        if isinstance(error, CmkdError):
            path = tasks[number].path
            reason = str(error) if str(path) in str(error) else f"{path}: {error}"
            raise DataError(reason)
        if on_progress:
            on_progress(done, len(tasks))
    (draft / _READY).write_text(json.dumps({"data": dataset.id, "rows": row}))


def _remedy(dataset: Dataset) -> str:
    if dataset.info.kind == "embedded":
        return f"remove {dataset.root} and run it again, which draws the clips anew"
    return "prepare the data set again"


def _shapes(dataset: Dataset, reading: ReaderConfig, rows: int) -> _Shapes:
    encoding, inputs = dataset.info.encoding, reading.inputs
    crop, frames = dataset.info.views.crop, inputs.num_frames
    height, width = crop or encoding.height, crop or encoding.width
    gops = inputs.num_gops or min(
        frames, max(-(-length // encoding.gop) for length in _lengths(dataset))
    )

    def maps(channels: int, cell: int) -> tuple[int, ...]:
        return rows, frames, channels, height // cell, width // cell

    return {
        "iframes": ((rows, gops, 3, height, width), "u1"),
        "gop": ((rows, frames), "i1"),
        "motion": (maps(2 * reading.compressed_segment, MOTION_CELL), "f2"),
        "residual": (maps(3 * reading.compressed_segment, RESIDUAL_CELL), "f2"),
        "frames": (maps(3 * reading.raw_segment, 1), "u1"),
    }


def _lengths(dataset: Dataset) -> Iterator[int]:
    if dataset.info.encoding.num_frames is not None:
        yield dataset.info.encoding.num_frames
        return
    for clip in dataset.clips:
        yield probe(dataset.root / clip.path).frames_declared


def _allocate(draft: Path, shapes: _Shapes) -> None:
    sizes = (int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in shapes.values())
    require_space(draft, sum(sizes), "the decoded clips")
    for name, (shape, kind) in shapes.items():
        np.lib.format.open_memmap(draft / f"{name}.npy", "w+", np.dtype(kind), shape)


def _read_views(task: _ReadTask) -> None:
    import torch

    torch.set_num_threads(1)  # the workers already use every CPU
    _check_content(task)
    maps = {name: np.lib.format.open_memmap(task.draft / f"{name}.npy", "r+") for name in _MAPPED}
    for phase in dict.fromkeys(view.phase for view in task.views):
        read = read_clip(task.path, task.reading, phase=phase)
        _check_fit(task, read[0], slots=maps["iframes"].shape[1])
        for row, view in enumerate(task.views, task.row):
            if view.phase != phase:
                continue
            clip, raw = apply_view(*read, view)
            maps["iframes"][row, : len(clip.iframes)] = clip.iframes
            maps["gop"][row] = clip.gop
            maps["motion"][row] = clip.motion
            maps["residual"][row] = clip.residual
            maps["frames"][row] = raw.frames


def _check_content(task: _ReadTask) -> None:
    try:
        found = file_sha256(task.path)
    except OSError as error:
        raise DataError(f"{task.path}: cannot be read ({error.strerror}); {task.remedy}") from None
    if found != task.sha256:
        raise DataError(f"{task.path}: differs from {MANIFEST_FILE}; {task.remedy}")


def _check_fit(task: _ReadTask, clip: CompressedClip, slots: int) -> None:
    height, width = clip.iframes.shape[-2:]
    fits = (height, width) == (task.encoding.height, task.encoding.width)
    if not fits or len(clip.iframes) > slots:
        raise DataError(
            f"{task.path}: {len(clip.iframes)} I-frames of {width}x{height} do not fit the data "
            "set's encoding; prepare the data set again"
        )
