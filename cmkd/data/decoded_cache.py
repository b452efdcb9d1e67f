"""Decoded clips of a data set as memory-mapped arrays, built once and shared by all trials.

Axes of the arrays: R rows, one per (clip, view); T sampled P-frames; G I-frames, `num_gops` or as
many as the clip with most GOPs uses; S frames per sampled one, folded into the channels frame by
frame; H x W pixels; motion on cells of 4 x 4 and residual of 2 x 2 pixels.

Files of a folder: one ``.npy`` per array, ``digests.npy`` with a digest per clip and array, and
``ready.json``, which is written last. A broken-off or damaged folder keeps the clips whose digests
are right; the others are decoded again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16, Int8, Int64, UInt8

from cmkd.config.base import content_id
from cmkd.config.data import DatasetInfo, EncodingConfig, ReaderConfig
from cmkd.data.clip import MOTION_CELL, RESIDUAL_CELL, Clip, read_clip
from cmkd.data.dataset import MANIFEST_FILE, Dataset
from cmkd.data.splits import ClipEntry
from cmkd.data.video import probe
from cmkd.data.views import View, apply_view, view_index
from cmkd.data.workers import SECONDS_PER_CLIP, OnProgress, run_tasks
from cmkd.errors import CmkdError, DataError, FileError, InfrastructureError
from cmkd.io import (
    file_sha256,
    load_array,
    locked,
    make_folder,
    mark_used,
    publish_folder,
    require_space,
    write_text,
)

READER = 2
"""Raised when equal clips, views and inputs give other arrays than before."""

CHECKED_BYTES = 1 << 30
"""Clips that `ensure_arrays` compares with their digests; a random sample of larger sets."""
SAMPLED_BYTES = 64 << 20
"""Clips that `open_arrays` compares, once per process: about 0.1 s."""

_AGAIN = "prepare the data set again"
_READY = "ready.json"
_DIGESTS = "digests.npy"
_DIGEST_BYTES = 16
_MAPPED = ("iframes", "gop", "motion", "residual", "frames")
_SMALL = ("labels", "index", "test_index")

_Maps = Mapping[str, np.ndarray]
_Shapes = dict[str, tuple[tuple[int, ...], str]]
_verified: set[tuple[Path, int]] = set()
"""Folders checked by this process, with the time of their marker."""


@dataclass(frozen=True)
class ClipArrays:
    """Read-only maps of the files; indexing one reads only the rows it touches."""

    iframes: UInt8[np.ndarray, "R G 3 H W"]
    """RGB I-frames; unused slots are zero and no entry of `gop` names them."""
    gop: Int8[np.ndarray, "R T"]
    """I-frame of each P-frame."""
    motion: Float16[np.ndarray, "R T 2*S h w"]
    """Pixels (x, y)."""
    residual: Float16[np.ndarray, "R T 3*S h2 w2"]
    """Grey levels, -255..255."""
    frames: UInt8[np.ndarray, "R T 3*S H W"]
    """RGB frames of the teacher; its S may differ from that of motion and residual."""
    labels: Int64[np.ndarray, " R"]
    """Class that each row shows; a flip may change it."""
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
    config: ReaderConfig,
    cache: Path,
    *,
    workers: int,
    on_progress: OnProgress | None = None,
) -> ClipArrays:
    """Decode every clip and view unless the cache has them intact; safe from several processes.

    See `view_index` for the views. The folder appears complete or not at all; clips that are done
    are kept when the process is killed.

    Raises:
        DataError: a clip cannot be read or differs from the manifest (names the file), or
            `config` asks for crops that the data set cannot have.
        InputError: the cache cannot be written.
        InfrastructureError: not enough free space, or a worker process was killed.
    """
    folder = _folder(dataset, config, cache)
    make_folder(folder.parent)
    with locked(folder.with_name(f".{folder.name}.lock")):
        draft = folder.with_name(f".{folder.name}.tmp")
        if folder.is_dir():
            try:
                return _load(folder, dataset.info.name, CHECKED_BYTES)
            except CmkdError as error:
                logging.getLogger(__name__).warning(f"{error} (now)")
            shutil.rmtree(draft, ignore_errors=True)
            folder.rename(draft)
        try:
            _build(dataset, config, folder.name, draft, workers, on_progress)
        except DataError:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        publish_folder(draft, folder)
        return _load(folder, dataset.info.name, 0)


def open_arrays(dataset: Dataset, config: ReaderConfig, cache: Path) -> ClipArrays:
    """Map the arrays that `ensure_arrays` built.

    Raises:
        DataError: they were not built.
        InfrastructureError: a file is damaged or belongs to other arrays.
    """
    folder = _folder(dataset, config, cache)
    mark_used(folder)
    return _load(folder, dataset.info.name, SAMPLED_BYTES)


def _folder(dataset: Dataset, config: ReaderConfig, cache: Path) -> Path:
    return cache / "arrays" / content_id("arrays", READER, dataset.id, config)


def _load(folder: Path, name: str, checked_bytes: int) -> ClipArrays:
    """Map a folder and compare up to `checked_bytes` of its clips with their digests."""
    try:
        marker = json.loads((folder / _READY).read_bytes())
        owner, files, kinds = marker["id"], marker["files"], marker["maps"]
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(
            f"{folder}: the clips of {name} are not decoded yet", "run it again"
        ) from None
    try:
        if owner != folder.name:
            # Of another folder, whose clips agree with their digests.
            (folder / _DIGESTS).unlink(missing_ok=True)
            raise _damaged(folder / _READY, f"belongs to {owner}")
        for file, sha256 in files.items():
            if file_sha256(folder / file) != sha256:
                raise _damaged(folder / file, "its SHA-256 has changed")
        maps = {key: load_array(folder / f"{key}.npy", mapped=True) for key in _MAPPED}
        for key, array in maps.items():
            if _kind(array) != kinds[key]:
                raise _damaged(folder / f"{key}.npy", f"holds {_kind(array)}")
        small = {key: load_array(folder / f"{key}.npy") for key in _SMALL}
        stamp = (folder, (folder / _READY).stat().st_mtime_ns)
        if checked_bytes and stamp not in _verified:
            digests = load_array(folder / _DIGESTS)
            rows = _row_ranges(small["index"], len(small["labels"]))
            for number in _sample(rows, maps, checked_bytes):
                if wrong := _wrong_map(maps, rows[number], digests[number]):
                    raise _damaged(folder / f"{wrong}.npy", f"rows of clip {number} have changed")
            _verified.add(stamp)
        return ClipArrays(**maps, **small)
    except (InfrastructureError, OSError, KeyError) as error:
        # Without its marker, the next `ensure_arrays` looks through every clip.
        with suppress(OSError):
            (folder / _READY).unlink()
        if isinstance(error, InfrastructureError):
            raise
        raise _damaged(folder, f"{error} is missing") from error


def _damaged(path: Path, reason: str) -> InfrastructureError:
    return InfrastructureError(
        f"{path}: is damaged ({reason})", "run it again, which decodes the damaged clips anew"
    )


def _kind(array: np.ndarray) -> list[Any]:
    return [list(array.shape), array.dtype.str]


def _row_ranges(index: Int64[np.ndarray, "N V"], rows: int) -> list[slice]:
    """Rows of each clip."""
    starts = index[:, 0].tolist()
    return [slice(*ends) for ends in zip(starts, [*starts[1:], rows], strict=True)]


def _sample(rows: Sequence[slice], maps: _Maps, size: int) -> list[int]:
    """Clips of about `size` bytes in all, both ends among them; every clip where that suffices."""
    per_clip = sum(array.nbytes for array in maps.values()) / len(rows)
    count = max(2, int(size / per_clip))
    if count >= len(rows):
        return list(range(len(rows)))
    drawn = np.random.default_rng().choice(len(rows), count, replace=False)
    return sorted({0, len(rows) - 1, *drawn.tolist()})


def _wrong_map(maps: _Maps, rows: slice, digests: UInt8[np.ndarray, "5 16"]) -> str | None:
    pairs = zip(maps.items(), digests, strict=True)
    return next(
        (name for (name, array), kept in pairs if _digest(array[rows]) != bytes(kept)), None
    )


def _digest(rows: np.ndarray) -> bytes:
    return hashlib.blake2b(rows.data, digest_size=_DIGEST_BYTES).digest()


def _build(
    dataset: Dataset,
    config: ReaderConfig,
    identity: str,
    draft: Path,
    workers: int,
    on_progress: OnProgress | None,
) -> None:
    """Fill `draft`, going on from the clips that it has."""
    plan = view_index(dataset, config.inputs)
    shapes = _shapes(dataset, config, len(plan.labels))
    digests = _open_draft(draft, shapes)
    rows = _row_ranges(plan.index, len(plan.labels))
    maps = {name: np.load(draft / f"{name}.npy", mmap_mode="r") for name in _MAPPED}
    todo = [
        number
        for number in range(len(rows))
        if not digests[number].any() or _wrong_map(maps, rows[number], digests[number])
    ]
    results = run_tasks(
        partial(_read_views, dataset.root, dataset.info, config, draft),
        [(dataset.clips[number], plan.views[number], rows[number]) for number in todo],
        workers=workers,
        timeout=SECONDS_PER_CLIP,
        name=lambda task: dataset.root / task[0].path,
        on_progress=on_progress,
    )
    for number, result in results:
        if isinstance(result, FileError):
            raise result
        digests[todo[number]] = np.frombuffer(result, np.uint8).reshape(len(_MAPPED), -1)
    digests.flush()
    for name in _SMALL:
        np.save(draft / f"{name}.npy", getattr(plan, name))
    marker = {
        "id": identity,
        "files": {
            file: file_sha256(draft / file)
            for file in (*(f"{name}.npy" for name in _SMALL), _DIGESTS)
        },
        "maps": {name: _kind(array) for name, array in maps.items()},
    }
    write_text(draft / _READY, json.dumps(marker, indent=1))


def _open_draft(draft: Path, shapes: _Shapes) -> np.memmap[Any, Any]:
    """Digests of a draft folder, which is begun anew unless its files have the right shapes."""
    with suppress(OSError, ValueError, EOFError):
        found = {name: np.load(draft / f"{name}.npy", mmap_mode="r+") for name in shapes}
        if all((map.shape, map.dtype.str[1:]) == shapes[name] for name, map in found.items()):
            kept: np.memmap[Any, Any] = found["digests"]
            return kept
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    sizes = (int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in shapes.values())
    require_space(draft, sum(sizes), "the decoded clips")
    for name, (shape, kind) in shapes.items():
        np.lib.format.open_memmap(draft / f"{name}.npy", "w+", np.dtype(kind), shape)
    return np.lib.format.open_memmap(draft / _DIGESTS, "r+")


def _shapes(dataset: Dataset, config: ReaderConfig, rows: int) -> _Shapes:
    encoding, inputs = dataset.info.encoding, config.inputs
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
        "motion": (maps(2 * config.compressed_segment, MOTION_CELL), "f2"),
        "residual": (maps(3 * config.compressed_segment, RESIDUAL_CELL), "f2"),
        "frames": (maps(3 * config.raw_segment, 1), "u1"),
        "digests": ((len(dataset.clips), len(_MAPPED), _DIGEST_BYTES), "u1"),
    }


def _lengths(dataset: Dataset) -> Iterator[int]:
    if dataset.info.encoding.num_frames is not None:
        yield dataset.info.encoding.num_frames
        return
    for clip in dataset.clips:
        yield probe(dataset.root / clip.path).frames_declared


def _read_views(
    root: Path,
    info: DatasetInfo,
    config: ReaderConfig,
    draft: Path,
    task: tuple[ClipEntry, tuple[View, ...], slice],
) -> bytes:
    """Write the rows of one clip; returns the digests of its arrays."""
    import torch

    torch.set_num_threads(1)  # the workers already use every CPU
    entry, views, rows = task
    path = root / entry.path
    check_content(path, entry.sha256, root, info)
    maps = {name: np.lib.format.open_memmap(draft / f"{name}.npy", "r+") for name in _MAPPED}
    for phase in dict.fromkeys(view.phase for view in views):
        read = read_clip(path, config, phase=phase)
        check_fit(path, read, info.encoding, slots=maps["iframes"].shape[1])
        for row, view in enumerate(views, rows.start):
            if view.phase != phase:
                continue
            clip = apply_view(read, view)
            maps["iframes"][row, : len(clip.iframes)] = clip.iframes
            maps["iframes"][row, len(clip.iframes) :] = 0
            for name in ("gop", "motion", "residual", "frames"):
                maps[name][row] = getattr(clip, name)
    return b"".join(_digest(array[rows]) for array in maps.values())


def check_content(path: Path, sha256: str, root: Path, info: DatasetInfo) -> None:
    """Raise FileError unless a clip is the one of the manifest."""
    remedy = _AGAIN
    if info.kind == "embedded":
        remedy = f"remove {root} and run it again, which draws the clips anew"
    try:
        found = file_sha256(path)
    except OSError as error:
        raise FileError(path, f"cannot be read ({error.strerror})", remedy) from None
    if found != sha256:
        raise FileError(path, f"differs from {MANIFEST_FILE}", remedy)


def check_fit(path: Path, clip: Clip, encoding: EncodingConfig, slots: int | None = None) -> None:
    """Raise FileError unless a clip has the encoding's size and at most `slots` I-frames."""
    height, width = clip.iframes.shape[-2:]
    fits = slots is None or len(clip.iframes) <= slots
    if (height, width) != (encoding.height, encoding.width) or not fits:
        found = f"{len(clip.iframes)} I-frames of {width}x{height}"
        raise FileError(path, f"{found} do not fit the data set's encoding", _AGAIN)
