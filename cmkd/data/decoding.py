"""What it costs to get at the inputs of one clip, by several ways of decoding.

All ways serve the same T sampled positions and run on one thread. They are timed in turn, clip by
clip, so that whatever else the machine does falls on all of them alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from cmkd.config.data import InputConfig, ReaderConfig
from cmkd.data.clip import read_compressed
from cmkd.data.codec import Mpeg4Clip, decode_positions, open_mpeg4
from cmkd.data.color import planes_to_rgb
from cmkd.data.motion import Trace, follow, pool_motion
from cmkd.data.sampling import Sample, sample_clip
from cmkd.errors import DataError

ROUNDS = 5
"""Of each clip and way; the first is not counted."""
LOWRES = {"half": 1, "quarter": 2}
"""Ways that decode at a smaller size, and the binary logarithm of the factor."""


@dataclass(frozen=True)
class DecodingCost:
    """One way on all clips: means per clip where nothing else is said.

    Attributes:
        way: ``rgb``, ``half``, ``quarter``, ``compressed``, ``motion`` or ``iframes``.
        ms: milliseconds of CPU; of each clip the median of its rounds.
        ms_low, ms_high: the middle half of the clips.
        ratio: to ``rgb`` of the same clip; median over the clips.
        bytes_read: compressed, that are decoded; what two decoders read counts once.
        bytes_kept: of the arrays that come out.
        frames: that are decoded.
        error_intra, error: mean distance in grey levels, 0 to 255, between pictures decoded at a
            smaller size and whole ones averaged to that size, of the I-frames and of the sampled
            P-frames; None where pictures are whole, or none come out.
    """

    way: str
    ms: float
    ms_low: float
    ms_high: float
    ratio: float
    bytes_read: float
    bytes_kept: float
    frames: float
    error_intra: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class Decoding:
    """All ways on the same clips, which have `length` frames on average."""

    length: float
    ways: tuple[DecodingCost, ...]


@dataclass(frozen=True)
class _Lap:
    """One way on one clip."""

    ms: float
    frames: int
    bytes_read: int
    bytes_kept: int
    error_intra: float | None
    error: float | None


def measure_decoding(
    paths: Sequence[Path],
    num_frames: int,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Decoding:
    """Time every way on clips that `encode` wrote.

    Args:
        paths: at least one.
        num_frames: T.

    Raises:
        DataError: a clip cannot be used, or has fewer than T frames.
    """
    laps: dict[str, list[_Lap]] = {way: [] for way in WAYS}
    lengths = []
    for number, path in enumerate(paths, 1):
        length, measured = _measured(path, num_frames)
        lengths.append(length)
        for way, lap in measured.items():
            laps[way].append(lap)
        if on_progress:
            on_progress(number, len(paths))
    ways = tuple(_summed(way, laps[way], laps["rgb"]) for way in WAYS)
    return Decoding(statistics.fmean(lengths), ways)


def _measured(path: Path, num_frames: int) -> tuple[int, dict[str, _Lap]]:
    """Frames of one clip, and the median lap of every way on it."""
    with open_mpeg4(path) as video:
        if len(video.kinds) < num_frames or "P" not in video.kinds:
            raise DataError(
                f"{path}: {num_frames} P-frames cannot be sampled from {len(video.kinds)} frames; "
                "lower --frames or take the clip out of the data set"
            )
        # Known beforehand: the usual way does not read the picture types, which takes its time.
        length, sample = len(video.kinds), sample_clip(video.kinds, num_frames)
        weights = {way: _weight(video, sample, way) for way in WAYS}
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    kept: dict[str, int] = {}
    for _ in range(ROUNDS):
        for way, read in WAYS.items():
            started = time.process_time()
            arrays = read(path, sample)
            times[way].append(1000 * (time.process_time() - started))
            kept[way] = sum(array.nbytes for array in arrays)
    return length, {
        way: _Lap(
            statistics.median(times[way][1:]), *weights[way], kept[way], *_errors(path, sample, way)
        )
        for way in WAYS
    }


def _rgb(path: Path, sample: Sample) -> tuple[np.ndarray, ...]:
    return (decode_positions(path, sample.positions),)


def _half(path: Path, sample: Sample) -> tuple[np.ndarray, ...]:
    return (decode_positions(path, sample.positions, lowres=LOWRES["half"]),)


def _quarter(path: Path, sample: Sample) -> tuple[np.ndarray, ...]:
    return (decode_positions(path, sample.positions, lowres=LOWRES["quarter"]),)


def _compressed(path: Path, sample: Sample) -> tuple[np.ndarray, ...]:
    inputs = InputConfig(num_frames=len(sample.positions))
    clip = read_compressed(path, ReaderConfig(inputs=inputs))
    return clip.iframes, clip.motion, clip.residual


def _motion(path: Path, sample: Sample) -> tuple[np.ndarray, ...]:
    wanted, maps, trace = set(sample.positions), [], None
    with open_mpeg4(path) as video:
        for frame in video.frames((), motions=sample.positions):
            trace = _followed(frame.vectors, video.height, video.width, trace)
            if frame.index in wanted and trace is not None:
                maps.append(pool_motion(trace.displacement))
    return (np.stack(maps),)


def _followed(
    vectors: np.ndarray | None, height: int, width: int, trace: Trace | None
) -> Trace | None:
    return None if vectors is None else follow(vectors, height, width, trace)


def _iframes(path: Path, sample: Sample) -> tuple[np.ndarray, ...]:
    with open_mpeg4(path) as video:
        planes = (frame.picture for frame in video.frames(sample.intra))
        pictures = [
            planes_to_rgb(*(plane[None] for plane in one))[0] for one in planes if one is not None
        ]
    return (np.stack(pictures),)


WAYS: Mapping[str, Callable[[Path, Sample], tuple[np.ndarray, ...]]] = {
    "rgb": _rgb,
    "half": _half,
    "quarter": _quarter,
    "compressed": _compressed,
    "motion": _motion,
    "iframes": _iframes,
}


def _weight(video: Mpeg4Clip, sample: Sample, way: str) -> tuple[int, int]:
    """Frames that a way decodes, and their compressed bytes."""
    wanted: Collection[int] = {
        "iframes": sample.intra,
        "compressed": sample.positions,
        "motion": sample.positions,
    }.get(way, ())
    # The usual way goes through everything before the last frame, from whole GOPs or not.
    return video.decoded(wanted or range(max(sample.positions) + 1))


def _errors(path: Path, sample: Sample, way: str) -> tuple[float | None, float | None]:
    """`DecodingCost.error_intra` and `error` of one clip."""
    if way not in LOWRES:
        return None, None
    positions = sorted({*sample.intra, *sample.positions})
    whole = decode_positions(path, positions)
    small = decode_positions(path, positions, lowres=LOWRES[way])
    distances = np.abs(_averaged(whole, 2 ** LOWRES[way]) - small).mean(axis=(1, 2, 3))
    is_intra = np.isin(positions, sample.intra)
    return float(distances[is_intra].mean()), float(distances[~is_intra].mean())


def _averaged(pictures: UInt8[np.ndarray, "T H W 3"], factor: int) -> np.ndarray:
    """Means of squares of `factor` pixels, which divides the sides."""
    count, height, width, channels = pictures.shape
    cells = (count, height // factor, factor, width // factor, factor, channels)
    means: np.ndarray = pictures.reshape(cells).mean(axis=(2, 4), dtype=np.float32)
    return means


def _summed(way: str, laps: Sequence[_Lap], usual: Sequence[_Lap]) -> DecodingCost:
    low, high = np.percentile([lap.ms for lap in laps], [25, 75])
    intra = [lap.error_intra for lap in laps if lap.error_intra is not None]
    moved = [lap.error for lap in laps if lap.error is not None]
    return DecodingCost(
        way=way,
        ms=statistics.fmean(lap.ms for lap in laps),
        ms_low=float(low),
        ms_high=float(high),
        ratio=statistics.median(a.ms / b.ms for a, b in zip(laps, usual, strict=True)),
        bytes_read=statistics.fmean(lap.bytes_read for lap in laps),
        bytes_kept=statistics.fmean(lap.bytes_kept for lap in laps),
        frames=statistics.fmean(lap.frames for lap in laps),
        error_intra=statistics.fmean(intra) if intra else None,
        error=statistics.fmean(moved) if moved else None,
    )
