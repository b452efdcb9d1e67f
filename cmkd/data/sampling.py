"""Sampling of a clip's frames by the codec's picture types, never by arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple


class Sample(NamedTuple):
    """Frames that are read of a clip, as indices in decoding order."""

    positions: list[int]
    """T P-frames, ascending."""
    intra: list[int]
    """G I-frames, ascending."""
    slot: list[int]
    """Index into `intra` of the I-frame that opens each P-frame's GOP."""


def sample_clip(
    kinds: Sequence[str], num_frames: int, num_gops: int | None = None, phase: float = 0.0
) -> Sample:
    """The P-frames of `sample_positions`, or those of `sample_gops` where `num_gops` is given."""
    if num_gops is not None:
        return sample_gops(kinds, num_gops, num_frames // num_gops, phase)
    positions, opening = sample_positions(kinds, num_frames, phase), intra_of(kinds)
    intra = sorted({opening[at] for at in positions})
    return Sample(positions, intra, [intra.index(opening[at]) for at in positions])


def intra_of(kinds: Sequence[str]) -> list[int]:
    """For each frame the index of the I-frame that opens its GOP.

    Args:
        kinds: picture types in decoding order; the first is ``"I"``.
    """
    assert kinds[0] == "I", kinds[0]
    latest, starts = 0, []
    for index, kind in enumerate(kinds):
        latest = index if kind == "I" else latest
        starts.append(latest)
    return starts


def sample_positions(kinds: Sequence[str], num_frames: int, phase: float = 0.0) -> list[int]:
    """One P-frame in or beside each of `num_frames` equal segments, ascending.

    Phase 0 takes the last frame of a segment, where motion and residual have accumulated most;
    larger phases go earlier. An I-frame is replaced by the next P-frame of its GOP, or by the last
    P-frame before it where its GOP has none. 16 frames, 8 segments, phase 0: 1, 3, ..., 15.
    Where that takes a P-frame twice, the later segments move on to the next ones, so that no
    position repeats in a clip with at least `num_frames` P-frames.

    Args:
        kinds: picture types ``"I"`` and ``"P"``, at least `num_frames`, at least one ``"P"``.
        phase: in [0, 1).
    """
    assert len(kinds) >= num_frames and "P" in kinds and 0 <= phase < 1
    positions = []
    for segment in range(num_frames):
        start = segment * len(kinds) // num_frames
        end = (segment + 1) * len(kinds) // num_frames
        positions.append(_nearest_p(kinds, end - 1 - int(phase * (end - start))))
    return _distinct(kinds, positions)


def sample_gops(
    kinds: Sequence[str], num_gops: int, frames_per_gop: int, phase: float = 0.0
) -> Sample:
    """P-frames spread evenly inside each of `num_gops` GOPs, which are spread over the clip.

    GOPs and the P-frames of a GOP are chosen by one rule: of equal segments the last at phase 0,
    earlier ones for larger phases. GOPs with fewer than `frames_per_gop` P-frames are passed over
    where enough others are left; those with none always are. Where a clip has too few GOPs, one
    fills several slots that share its P-frames out among them in order; where a GOP has too few
    P-frames, they repeat, as frames of short videos do in TSN.

    Args:
        kinds: picture types ``"I"`` and ``"P"``, the first ``"I"``, at least one ``"P"``.
        phase: in [0, 1).
    """
    assert "P" in kinds and 0 <= phase < 1
    gops = _p_frames_of(kinds)
    long_enough = [opening for opening, frames in gops.items() if len(frames) >= frames_per_gop]
    usable = long_enough if len(long_enough) >= num_gops else list(gops)
    chosen = _one_per_segment(usable, num_gops, phase)
    positions: list[int] = []
    for opening, slots in groupby(chosen, key=lambda choice: choice[0]):
        rests = [rest for _, rest in slots]
        frames = _one_per_segment(gops[opening], len(rests) * frames_per_gop, rests[0])
        positions += [position for position, _ in frames]
    slot = [number // frames_per_gop for number in range(len(positions))]
    return Sample(positions, [opening for opening, _ in chosen], slot)


def _one_per_segment(items: Sequence[int], count: int, phase: float) -> list[tuple[int, float]]:
    """An item of each of `count` equal segments, and the phase that is left inside of it."""
    chosen = []
    for number in range(count):
        start = number * len(items) // count
        # A segment without an item of its own takes the next one's.
        size = max((number + 1) * len(items) // count - start, 1)
        back = min(int(phase * size), size - 1)
        chosen.append((items[start + size - 1 - back], phase * size - back))
    return chosen


def clip_windows(kinds: Sequence[str], positions: Sequence[int], segment: int) -> list[list[int]]:
    """For each position the `segment` frames around it; at its ends the clip's last one repeats.

    Args:
        segment: odd.
    """
    frames = range(len(kinds))
    return [_window(frames, position, segment) for position in positions]


def gop_windows(kinds: Sequence[str], positions: Sequence[int], segment: int) -> list[list[int]]:
    """`clip_windows` among the P-frames of each position's GOP.

    Args:
        positions: P-frames.
        segment: odd.
    """
    opening, gops = intra_of(kinds), _p_frames_of(kinds)
    mine = [gops[opening[position]] for position in positions]
    return [_window(gop, gop.index(at), segment) for gop, at in zip(mine, positions, strict=True)]


def _p_frames_of(kinds: Sequence[str]) -> dict[int, list[int]]:
    """The P-frames of each GOP that has any, by its I-frame."""
    gops: dict[int, list[int]] = {}
    for index, opening in enumerate(intra_of(kinds)):
        if kinds[index] == "P":
            gops.setdefault(opening, []).append(index)
    return gops


def _window(frames: Sequence[int], middle: int, segment: int) -> list[int]:
    reach = range(middle - segment // 2, middle + segment // 2 + 1)
    return [frames[min(max(rank, 0), len(frames) - 1)] for rank in reach]


def _distinct(kinds: Sequence[str], positions: list[int]) -> list[int]:
    """The positions moved apart along the P-frames, where there are enough of them."""
    p_frames = [index for index, kind in enumerate(kinds) if kind == "P"]
    spare = len(p_frames) - len(positions)
    if spare < 0:
        return positions
    ranks: list[int] = []
    for number, position in enumerate(positions):
        lowest = ranks[-1] + 1 if ranks else 0
        # The frames after it must suffice for the segments after it.
        ranks.append(min(max(p_frames.index(position), lowest), spare + number))
    return [p_frames[rank] for rank in ranks]


def _nearest_p(kinds: Sequence[str], position: int) -> int:
    if kinds[position] == "P":
        return position
    if position + 1 < len(kinds) and kinds[position + 1] == "P":
        return position + 1
    before = (index for index in range(position - 1, -1, -1) if kinds[index] == "P")
    after = (index for index in range(position + 1, len(kinds)) if kinds[index] == "P")
    return next(before, next(after, position))
