"""How many trials find room in the memory of this machine, or of its GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

BESIDES = 600 * 2**20
"""Bytes of a worker beside what it trains: Python, torch, batches, pages of its arrays."""
SPARED = 0.9
"""Share of the free memory that a sweep takes at most."""


@dataclass(frozen=True)
class Room:
    """What trials need and what there is, in bytes.

    Attributes:
        need: of the largest trial, or teacher, with its process; 0 where nothing was measured.
        free: of each GPU, or of the machine where there is none; empty where it cannot be told.
    """

    need: int = 0
    free: tuple[int, ...] = ()

    def workers(self, wanted: int) -> int:
        """How many of `wanted` fit, at least one."""
        if not self.need or not self.free:
            return wanted
        return max(1, min(wanted, sum(int(SPARED * one / self.need) for one in self.free)))

    def describe(self, wanted: int) -> str:
        """A line for the user where fewer than `wanted` fit, or not even one; else empty."""
        if not self.need or not self.free:
            return ""
        sizes = (
            f"a trial was measured to need about {self.need / 2**30:.1f} GiB, "
            f"{max(self.free) / 2**30:.1f} GiB are free"
        )
        if self.need > max(self.free):
            return f"{sizes}; raise training.accumulate, or set training.checkpointing"
        fit = self.workers(wanted)
        return f"{fit} instead of {wanted} workers: {sizes}" if fit < wanted else ""


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process and its children may still take; None where it is not Linux.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    known = [_available(root / "proc/meminfo"), _left_to_group(root / "sys/fs/cgroup")]
    return min((one for one in known if one is not None), default=None)


def _available(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _left_to_group(group: Path) -> int | None:
    """What a container's limit leaves; file pages can be given back, so they do not count."""
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        stat = (group / "memory.stat").read_text(encoding="ascii").split()
    except OSError:
        return None
    if limit == "max":
        return None
    pages = dict(zip(stat[::2], stat[1::2], strict=False))
    return max(0, int(limit) - used + int(pages.get("inactive_file", "0")))
