"""What it costs to get at the inputs of one clip, by several ways of decoding.

All ways serve the same T sampled positions and run on one thread. They are timed in turn, clip by
clip, so that whatever else the machine does falls on all of them alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmkd.config.data import InputConfig, Reading
from cmkd.data.bitstream import decode_positions, open_mpeg4
from cmkd.data.clips import read_compressed
from cmkd.data.colour import planes_to_rgb
from cmkd.data.sampling import Sample, sample_clip
from cmkd.data.tracing import Trace, follow, pool_motion

ROUNDS = 5
"""Of each clip and way; the first is not counted."""


@dataclass(frozen=True)
class DecodingCost:
    """One way on all clips; means per clip, and the middle half of the clips' times.

    Attributes:
        way: ``rgb``, ``half``, ``quarter``, ``compressed``, ``motion`` or ``iframes``.
        ms: milliseconds of CPU; of each clip the median of its rounds.
        bytes_read: compressed, that are decoded; what two decoders read counts once.
        bytes_kept: of the arrays that come out.
        frames: that are decoded.
    """

    way: str
    ms: float
    ms_low: float
    ms_high: float
    bytes_read: float
    bytes_kept: float
    frames: float


@dataclass(frozen=True)
class _Weight:
    """What one way weights and keeps of one clip."""

    frames: int
    bytes_read: int
    bytes_kept: int


def measure_decoding(
    paths: Sequence[Path],
    num_frames: int,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[DecodingCost, ...]:
    """Time every way on clips that `encode` wrote.

    Args:
        paths: at least one.
        num_frames: T, of at least as many P-frames a clip.

    Raises:
        DataError: a clip cannot be used.
    """
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    weights: dict[str, list[_Weight]] = {way: [] for way in WAYS}
    for number, path in enumerate(paths, 1):
        laps: dict[str, list[float]] = {way: [] for way in WAYS}
        for lap in range(ROUNDS):
            for way, read in WAYS.items():
                started = time.process_time()
                kept = read(path, num_frames)
                laps[way].append(1000 * (time.process_time() - started))
                if not lap:
                    weights[way].append(_weighed(path, num_frames, way, kept))
        for way in WAYS:
            times[way].append(statistics.median(laps[way][1:]))
        if on_progress:
            on_progress(number, len(paths))
    return tuple(_summed(way, times[way], weights[way]) for way in WAYS)


def _rgb(path: Path, num_frames: int) -> tuple[np.ndarray, ...]:
    return (decode_positions(path, _sampled(path, num_frames).positions),)


def _half(path: Path, num_frames: int) -> tuple[np.ndarray, ...]:
    return (decode_positions(path, _sampled(path, num_frames).positions, lowres=1),)


def _quarter(path: Path, num_frames: int) -> tuple[np.ndarray, ...]:
    return (decode_positions(path, _sampled(path, num_frames).positions, lowres=2),)


def _compressed(path: Path, num_frames: int) -> tuple[np.ndarray, ...]:
    clip = read_compressed(path, Reading(inputs=InputConfig(num_frames=num_frames)))
    return clip.iframes, clip.motion, clip.residual


def _motion(path: Path, num_frames: int) -> tuple[np.ndarray, ...]:
    with open_mpeg4(path) as video:
        wanted = sample_clip(video.kinds, num_frames).positions
        maps, trace = [], None
        for frame in video.frames((), motions=wanted):
            trace = _followed(frame.vectors, video.height, video.width, trace)
            if frame.index in wanted and trace is not None:
                maps.append(pool_motion(trace.displacement))
    return (np.stack(maps),)


def _followed(
    vectors: np.ndarray | None, height: int, width: int, trace: Trace | None
) -> Trace | None:
    return None if vectors is None else follow(vectors, height, width, trace)


def _iframes(path: Path, num_frames: int) -> tuple[np.ndarray, ...]:
    with open_mpeg4(path) as video:
        wanted = sample_clip(video.kinds, num_frames).intra
        planes = (frame.picture for frame in video.frames(wanted))
        pictures = [
            planes_to_rgb(*(plane[None] for plane in one))[0] for one in planes if one is not None
        ]
    return (np.stack(pictures),)


def _sampled(path: Path, num_frames: int) -> Sample:
    with open_mpeg4(path) as video:
        return sample_clip(video.kinds, num_frames)


WAYS: Mapping[str, Callable[[Path, int], tuple[np.ndarray, ...]]] = {
    "rgb": _rgb,
    "half": _half,
    "quarter": _quarter,
    "compressed": _compressed,
    "motion": _motion,
    "iframes": _iframes,
}


def _weighed(path: Path, num_frames: int, way: str, kept: tuple[np.ndarray, ...]) -> _Weight:
    with open_mpeg4(path) as video:
        sample = sample_clip(video.kinds, num_frames)
        last = max(sample.positions)
        read = {"iframes": sample.intra, "compressed": sample.positions, "motion": sample.positions}
        # The usual way goes through everything before the last frame.
        frames = read.get(way, range(last + 1))
        return _Weight(*video.decoded(frames), sum(array.nbytes for array in kept))


def _summed(way: str, times: Sequence[float], weights: Sequence[_Weight]) -> DecodingCost:
    low, high = np.percentile(times, [25, 75])
    return DecodingCost(
        way=way,
        ms=statistics.fmean(times),
        ms_low=float(low),
        ms_high=float(high),
        bytes_read=statistics.fmean(one.bytes_read for one in weights),
        bytes_kept=statistics.fmean(one.bytes_kept for one in weights),
        frames=statistics.fmean(one.frames for one in weights),
    )
