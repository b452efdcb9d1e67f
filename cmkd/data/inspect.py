"""Checks of prepared clips, and pictures of a student's inputs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from cmkd.config.data import EncodingConfig, InputConfig, ReaderConfig
from cmkd.data.clip import MOTION_CELL, RESIDUAL_CELL, CompressedClip, RawClip, read_clip
from cmkd.data.color import to_bytes
from cmkd.data.dataset import MANIFEST_FILE, Dataset
from cmkd.data.sampling import sample_clip
from cmkd.data.splits import ClipEntry
from cmkd.data.video import scan
from cmkd.data.workers import OnProgress, run_tasks
from cmkd.errors import FileError
from cmkd.io import file_sha256

SECONDS_PER_CLIP = 300.0


def verify(
    dataset: Dataset,
    *,
    workers: int,
    timeout: float = SECONDS_PER_CLIP,
    on_progress: OnProgress | None = None,
) -> dict[str, list[str]]:
    """Decode every clip in worker processes; problems of the damaged ones in manifest order.

    Checked: the file and its SHA-256, codec, size, pixel format, corrupt frames, decoded against
    declared and configured frames, B-frames, and I-frames at the head of every GOP and only there.

    Args:
        timeout: seconds after which a clip counts as undecodable.

    Raises:
        InfrastructureError: a worker process cannot start or was killed.
    """
    results = run_tasks(
        partial(_problems, dataset.root, dataset.info.encoding),
        dataset.clips,
        workers=workers,
        timeout=timeout,
        name=lambda clip: dataset.root / clip.path,
        on_progress=on_progress,
    )
    found = {
        number: [result.reason] if isinstance(result, FileError) else result
        for number, result in results
    }
    return {clip.path: found[number] for number, clip in enumerate(dataset.clips) if found[number]}


def _problems(root: Path, encoding: EncodingConfig, clip: ClipEntry) -> list[str]:
    path = root / clip.path
    try:
        found = file_sha256(path)
    except OSError as error:
        return [f"cannot be read ({error.strerror})"]
    problems = [] if found == clip.sha256 else [f"SHA-256 is not that of {MANIFEST_FILE}"]
    try:
        return [*problems, *_faults(path, encoding)]
    except FileError as error:
        return [*problems, error.reason]


def _faults(path: Path, encoding: EncodingConfig) -> Iterator[str]:
    """Differences from a file that `cmkd.data.video` writes."""
    found = scan(path)
    wanted = ("mpeg4", encoding.width, encoding.height, "yuv420p")
    if (found.codec, found.width, found.height, found.pixel_format) != wanted:
        yield (
            f"is {found.codec} {found.width}x{found.height} {found.pixel_format}, not "
            f"{wanted[0]} {wanted[1]}x{wanted[2]} {wanted[3]}"
        )
    if found.error:
        yield f"decoding broke off after {len(found.kinds)} frames ({found.error})"
    if found.corrupt:
        yield f"corrupt frames: {_first(found.corrupt)}"
    if len(found.kinds) != found.frames_declared:
        yield f"declares {found.frames_declared} frames, {len(found.kinds)} can be decoded"
    if encoding.num_frames not in (None, len(found.kinds)):
        yield f"has {len(found.kinds)} frames, not {encoding.num_frames}"
    others = [number for number, kind in enumerate(found.kinds) if kind not in "IP"]
    if others:
        yield f"frames that are neither I nor P: {_first(others)}"
    misplaced = [
        number
        for number, kind in enumerate(found.kinds)
        if (kind == "I") != (number % encoding.gop == 0)
    ]
    if misplaced:
        yield f"I-frames are not those of GOP {encoding.gop}: see frame {_first(misplaced)}"


def _first(numbers: tuple[int, ...] | list[int]) -> str:
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return ", ".join(map(str, numbers[:5])) + more


_Rgb = UInt8[np.ndarray, "H W 3"]


class Sight(NamedTuple):
    """One sampled P-frame as the student sees it."""

    number: int
    """Index of the frame in the clip."""
    intra: int
    """Index of the I-frame that it builds on."""
    frame: _Rgb
    """Decoded."""
    iframe: _Rgb
    motion: _Rgb
    """Accumulated displacement on cells of 4 x 4; hue is direction, brightness length."""
    residual: _Rgb
    """Grey 128 is none, a level of grey is a level of difference."""
    rebuilt: _Rgb
    """The I-frame moved by the cells of motion, plus the residual."""
    motion_error: float
    """Mean absolute difference of `frame` and the moved I-frame, in grey levels."""
    error: float
    """The same of `rebuilt`: the loss between the decoder and the student."""


def inspect_clip(path: Path, num_frames: int) -> tuple[list[Sight], float]:
    """Read a clip as a trial with that many frames does, with accumulated motion.

    Returns:
        The sampled frames; the length in pixels from which motion has full brightness.

    Raises:
        DataError: not a usable MPEG-4 Part 2 file, or fewer frames than that.
    """
    clip, raw = read_clip(path, ReaderConfig(inputs=InputConfig(num_frames=num_frames)))
    # `read_clip` has vetted the file, so its picture types are all I or P.
    sample = sample_clip(list(scan(path).kinds), num_frames, None, 0.0)
    lengths = np.hypot(*clip.motion.astype(np.float32).swapaxes(0, 1))
    # A few vectors are far longer than the rest and would leave it in the dark.
    full = max(1.0, float(np.percentile(lengths, 98)))
    sights = [
        _sight(clip, raw, at, number, sample.intra[sample.slot[at]], full)
        for at, number in enumerate(sample.positions)
    ]
    return sights, full


def _sight(
    clip: CompressedClip, raw: RawClip, at: int, number: int, intra: int, full: float
) -> Sight:
    frame = raw.frames[at].transpose(1, 2, 0)
    iframe = clip.iframes[clip.gop[at]].transpose(1, 2, 0)
    motion = clip.motion[at].transpose(1, 2, 0).astype(np.float32)
    residual = _enlarged(clip.residual[at].transpose(1, 2, 0).astype(np.float32), RESIDUAL_CELL)
    moved = _moved(iframe, _enlarged(motion, MOTION_CELL))
    rebuilt = to_bytes(moved + residual)
    return Sight(
        number=number,
        intra=intra,
        frame=frame,
        iframe=iframe,
        motion=_enlarged(colours(motion / full), MOTION_CELL),
        residual=to_bytes(128 + residual),
        rebuilt=rebuilt,
        motion_error=_difference(frame, moved),
        error=_difference(frame, rebuilt),
    )


def _enlarged(maps: np.ndarray, cell: int) -> np.ndarray:
    return maps.repeat(cell, axis=0).repeat(cell, axis=1)


def _moved(
    iframe: UInt8[np.ndarray, "H W 3"], motion: Float[np.ndarray, "H W 2"]
) -> UInt8[np.ndarray, "H W 3"]:
    """Each pixel from where its displacement points, to the nearest whole pixel inside."""
    height, width = iframe.shape[:2]
    y, x = np.mgrid[:height, :width]
    columns = np.clip(x + np.rint(motion[..., 0]).astype(int), 0, width - 1)
    rows = np.clip(y + np.rint(motion[..., 1]).astype(int), 0, height - 1)
    moved: UInt8[np.ndarray, "H W 3"] = iframe[rows, columns]
    return moved


def colours(motion: Float[np.ndarray, "h w 2"]) -> UInt8[np.ndarray, "h w 3"]:
    """Vectors of length up to 1 as colours: hue is the angle (red to the right, then clockwise on
    the picture through yellow), brightness the length."""
    angle = np.arctan2(motion[..., 1], motion[..., 0]) / (2 * np.pi) % 1
    length = np.clip(np.hypot(motion[..., 0], motion[..., 1]), 0, 1)
    turns = (angle[..., None] * 6 + np.array([0, 4, 2])) % 6
    return to_bytes(255 * length[..., None] * np.clip(np.abs(turns - 3) - 1, 0, 1))


def wheel(side: int) -> UInt8[np.ndarray, "side side 3"]:
    """The legend of `colours`: a disc whose points show the vectors from its centre to them."""
    axis = (np.arange(side) - (side - 1) / 2) / (side / 2)
    vectors = np.stack(np.meshgrid(axis, axis), axis=-1)
    inside = np.hypot(vectors[..., 0], vectors[..., 1]) <= 1
    disc: UInt8[np.ndarray, "side side 3"] = np.where(
        inside[..., None], colours(vectors), np.uint8(255)
    )
    return disc


def _difference(picture: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(picture.astype(np.float32) - other.astype(np.float32)).mean())
