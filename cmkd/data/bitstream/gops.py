"""Which packets of an MPEG-4 Part 2 file are decoded, by the picture types in their headers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

_PICTURE = b"\x00\x00\x01\xb6"
"""Start code of a picture; the two bits after it are its type."""


class Unusable(Exception):
    """A file that cannot be used, without its name."""


@dataclass(frozen=True)
class Plan:
    """What is decoded of a file: the frames wanted, and those they are made of.

    Attributes:
        opening: I-frame of each frame's GOP.
        runs: the frames of each GOP that is needed.
        last_residual, last_motion: by the I-frame of a GOP.
    """

    pictures: frozenset[int]
    residuals: frozenset[int]
    opening: Sequence[int]
    runs: Sequence[range]
    last_residual: Mapping[int, int]
    last_motion: Mapping[int, int]

    @classmethod
    def of(
        cls,
        kinds: Sequence[str],
        pictures: Collection[int],
        residuals: Collection[int] = (),
        motions: Collection[int] = (),
    ) -> Plan:
        """For planes of `pictures`, `residuals` of P-frames and vectors of `motions`."""
        opening: list[int] = []
        for index, kind in enumerate(kinds):
            opening.append(index if kind == "I" else opening[-1])

        def last(*wanted: int) -> Mapping[int, int]:
            return {opening[at]: at for at in sorted(wanted)}

        return cls(
            pictures=frozenset(pictures),
            residuals=frozenset(residuals),
            opening=opening,
            runs=[
                range(start, end + 1)
                for start, end in last(*pictures, *residuals, *motions).items()
            ],
            last_residual=last(*residuals),
            last_motion=last(*residuals, *motions),
        )

    def moves(self, index: int) -> bool:
        """Whether the frame's vectors are wanted."""
        return index <= self.last_motion.get(self.opening[index], -1)


def picture_kinds(packet: bytes) -> str:
    """Types of the pictures in a packet: one, in a file that can be used."""
    return "".join("IPBS"[part[0] >> 6] for part in packet.split(_PICTURE)[1:] if part)


def require_usable(kinds: Sequence[str], packets: int, declared: int) -> None:
    """Refuse what is not one I- or P-frame a packet, or not as many as declared."""
    for number, kind in enumerate(kinds):
        if kind not in "IP":
            raise Unusable(f"frame {number} is a {kind}-frame, only I- and P-frames can be used")
        if number == 0 and kind != "I":
            raise Unusable(f"the first frame is a {kind}-frame, not an I-frame")
    if not len(kinds) == packets == declared:
        raise Unusable(f"declares {declared} frames, {len(kinds)} can be decoded")
