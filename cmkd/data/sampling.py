"""Which frames of a clip are used: decided by the codec's picture types, never by arithmetic."""

from __future__ import annotations

from collections.abc import Sequence


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
