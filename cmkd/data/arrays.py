"""Decoded clips of a data set as memory-mapped arrays, built once and shared by all trials.

Axes of the arrays: R rows, one per (clip, view); T sampled P-frames; G I-frames, as many as the
clip with most GOPs uses; H x W pixels; motion on cells of 4 x 4 and residual of 2 x 2 pixels.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from jaxtyping import Float16, Int8, Int64, UInt8

from cmkd.config.base import content_id
from cmkd.config.data import InputConfig
from cmkd.data.bitstream import probe
from cmkd.data.clips import MOTION_CELL, RESIDUAL_CELL, CompressedClip, RawClip, read_clip
from cmkd.data.datasets import Dataset
from cmkd.data.files import make_folder, require_space
from cmkd.data.manifest import MANIFEST_FILE, file_sha256
from cmkd.data.pool import OnProgress, run_tasks
from cmkd.data.views import View, apply_view, label_of, make_views
from cmkd.errors import CmkdError, DataError, InfrastructureError

READER = 2
"""Raised when equal clips, views and inputs give other arrays than before."""

SECONDS_PER_CLIP = 300.0
_READY = "ready.json"
_MAPPED = ("iframes", "gop", "motion", "residual", "frames")

_Shapes = dict[str, tuple[tuple[int, ...], str]]


@dataclass(frozen=True)
class ClipArrays:
    """Read-only maps of the files; indexing one reads only what it touches."""

    iframes: UInt8[np.ndarray, "R G 3 H W"]
    """RGB I-frames; slots a clip does not use are zero and no entry of `gop` names them."""
    gop: Int8[np.ndarray, "R T"]
    """I-frame of each P-frame."""
    motion: Float16[np.ndarray, "R T 2 h w"]
    """Pixels (x, y)."""
    residual: Float16[np.ndarray, "R T 3 h2 w2"]
    """Grey levels, -255..255."""
    frames: UInt8[np.ndarray, "R T 3 H W"]
    """The teacher's RGB frames."""
    labels: Int64[np.ndarray, " R"]
    """Class of each row; that of the view, which a flip may change."""
    index: Int64[np.ndarray, "N V"]
    """Row of (clip, view), -1 where a clip has no such view."""

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
    inputs: InputConfig,
    cache: Path,
    *,
    workers: int,
    on_progress: OnProgress | None = None,
) -> ClipArrays:
    """Decode every clip and view unless the cache has them; safe from several processes.

    Clips that no fold trains on get view 0 only. The folder appears complete or not at all.

    Raises:
        DataError: a clip cannot be read or is not the one of the manifest; names the file.
        InputError: the cache cannot be written.
        InfrastructureError: not enough free space.
    """
    folder = _folder(dataset, inputs, cache)
    make_folder(folder.parent)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not (folder / _READY).exists():
            draft = folder.with_name(f".{folder.name}.tmp")
            shutil.rmtree(draft, ignore_errors=True)
            try:
                _build(dataset, inputs, draft, workers, on_progress)
                draft.rename(folder)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return open_arrays(dataset, inputs, cache)


def open_arrays(dataset: Dataset, inputs: InputConfig, cache: Path) -> ClipArrays:
    """Map the arrays that `ensure_arrays` built.

    Raises:
        DataError: they were not built.
    """
    folder = _folder(dataset, inputs, cache)
    if not (folder / _READY).exists():
        raise DataError(
            f"{folder}: the clips of {dataset.info.name} are not decoded yet; run again"
        )
    mapped = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _MAPPED}
    small = {name: np.load(folder / f"{name}.npy") for name in ("labels", "index")}
    return ClipArrays(**mapped, **small)


def _folder(dataset: Dataset, inputs: InputConfig, cache: Path) -> Path:
    return cache / "arrays" / content_id("arrays", READER, dataset.id, inputs)


@dataclass(frozen=True)
class _ReadTask:
    path: Path
    sha256: str
    remedy: str
    views: tuple[View, ...]
    row: int
    inputs: InputConfig
    draft: Path


def _build(
    dataset: Dataset, inputs: InputConfig, draft: Path, workers: int, on_progress: OnProgress | None
) -> None:
    views = _views_of(dataset)
    rows = sum(len(mine) for mine in views)
    draft.mkdir()
    _allocate(draft, _shapes(dataset, inputs, rows))
    _write_index(dataset, views, draft)
    remedy = _remedy(dataset)
    tasks, row = [], 0
    for clip, mine in zip(dataset.clips, views, strict=True):
        path = dataset.root / clip.path
        tasks.append(_ReadTask(path, clip.sha256, remedy, mine, row, inputs, draft))
        row += len(mine)
    results = run_tasks(_read_views, tasks, workers=workers, timeout=SECONDS_PER_CLIP)
    for done, (number, error) in enumerate(results, 1):
        if isinstance(error, InfrastructureError):
            raise error
        if isinstance(error, CmkdError):
            path = tasks[number].path
            reason = str(error) if str(path) in str(error) else f"{path}: {error}"
            raise DataError(reason)
        if on_progress:
            on_progress(done, len(tasks))
    (draft / _READY).write_text(json.dumps({"data": dataset.id, "rows": rows}))


def _remedy(dataset: Dataset) -> str:
    if dataset.info.kind == "embedded":
        return f"remove {dataset.root} and run it again, which draws the clips anew"
    return "prepare the data set again"


def _views_of(dataset: Dataset) -> list[tuple[View, ...]]:
    info = dataset.info
    trained = {i for fold in range(dataset.num_folds) for i in dataset.split(fold).train}
    height, width = info.encoding.height, info.encoding.width
    return [
        make_views(info.views, clip.path, height, width) if number in trained else (View(),)
        for number, clip in enumerate(dataset.clips)
    ]


def _shapes(dataset: Dataset, inputs: InputConfig, rows: int) -> _Shapes:
    encoding, frames = dataset.info.encoding, inputs.num_frames
    height, width = encoding.height, encoding.width
    gops = min(frames, max(-(-length // encoding.gop) for length in _lengths(dataset)))
    return {
        "iframes": ((rows, gops, 3, height, width), "u1"),
        "gop": ((rows, frames), "i1"),
        "motion": ((rows, frames, 2, height // MOTION_CELL, width // MOTION_CELL), "f2"),
        "residual": ((rows, frames, 3, height // RESIDUAL_CELL, width // RESIDUAL_CELL), "f2"),
        "frames": ((rows, frames, 3, height, width), "u1"),
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


def _write_index(dataset: Dataset, views: list[tuple[View, ...]], draft: Path) -> None:
    index = np.full((len(views), max(len(mine) for mine in views)), -1, np.int64)
    labels: list[int] = []
    for number, (clip, mine) in enumerate(zip(dataset.clips, views, strict=True)):
        index[number, : len(mine)] = np.arange(len(mine)) + len(labels)
        labels += [label_of(dataset.info, clip.label, view) for view in mine]
    np.save(draft / "index.npy", index)
    np.save(draft / "labels.npy", np.array(labels, np.int64))


def _read_views(task: _ReadTask) -> None:
    import torch

    torch.set_num_threads(1)  # the workers already use every CPU
    _check_content(task)
    maps = {name: np.lib.format.open_memmap(task.draft / f"{name}.npy", "r+") for name in _MAPPED}
    by_phase: dict[float, tuple[CompressedClip, RawClip]] = {}
    for row, view in enumerate(task.views, task.row):
        if view.phase not in by_phase:
            by_phase[view.phase] = read_clip(
                task.path, task.inputs.num_frames, motion=task.inputs.motion, phase=view.phase
            )
        clip, raw = apply_view(*by_phase[view.phase], view)
        _check_shape(task.path, maps, clip)
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


def _check_shape(path: Path, maps: Mapping[str, np.ndarray], clip: CompressedClip) -> None:
    slots, *shape = maps["iframes"].shape[1:]
    if list(clip.iframes.shape[1:]) != shape or len(clip.iframes) > slots:
        found = "x".join(map(str, clip.iframes.shape[:0:-1]))
        raise DataError(
            f"{path}: {len(clip.iframes)} I-frames of {found} do not fit the data set's "
            "encoding; prepare the data set again"
        )
