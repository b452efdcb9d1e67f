"""This machine: CPUs and memory that this process may use, processes and folders by owner tags."""

from __future__ import annotations

import math
import os
import shutil
import socket
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

ROOT = Path("/")
OWNER_FILE = "cmkd-owner"
"""In a temporary folder: owner tag of the process that uses it."""


def usable_cpus(root: Path = ROOT) -> int:
    """CPUs that this process may use: its affinity, and the CPU quota of its control groups.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    known = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quotas = [quota for folder, _ in _groups(root, "cpu") if (quota := _quota(folder))]
    return max(1, min([known or 1, *(math.ceil(quota) for quota in quotas)]))


def free_memory(root: Path = ROOT) -> int | None:
    """Bytes that this process and its children may still take; None where it is not Linux.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    left = [_left(folder, version) for folder, version in _groups(root, "memory")]
    known = [value for value in (_available(root), *left) if value is not None]
    return min(known, default=None)


def _groups(root: Path, controller: str) -> list[tuple[Path, int]]:
    """(folder, cgroup version) of this process's own control group and of those above it."""
    found: list[tuple[Path, int]] = []
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, own = line.split(":", 2)
        if number == "0" and not controllers:
            mounts, version = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"], 2
        elif controller in controllers.split(","):
            names = (controllers, controller)
            mounts, version = [root / "sys/fs/cgroup" / name for name in names], 1
        else:
            continue
        mount = next((path for path in mounts if path.is_dir()), None)
        if mount is None:
            continue
        # In a container the group may be named as the host sees it, and lie at the mount itself.
        inside = mount / own.strip().lstrip("/")
        folder = inside if inside.is_dir() and ".." not in inside.parts else mount
        found += [(path, version) for path in (folder, *folder.parents) if _is_below(path, mount)]
    return found


def _is_below(path: Path, mount: Path) -> bool:
    return path == mount or mount in path.parents


def _quota(folder: Path) -> float | None:
    parts = [part for line in _lines(folder / "cpu.max") for part in line.split()]
    if not parts:
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        parts = [line for name in names for line in _lines(folder / name)]
    if len(parts) != 2 or not parts[0].isdecimal():
        return None
    return int(parts[0]) / int(parts[1])


def _left(folder: Path, version: int) -> int | None:
    """Bytes that a group's limit leaves; file pages can be given back, so they do not count."""
    names = (
        ("memory.max", "memory.current", "inactive_file")
        if version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    )
    limit, used = (next(iter(_lines(folder / name)), "") for name in names[:2])
    if not limit.isdecimal() or not used.isdecimal() or int(limit) >= 2**60:
        return None
    pages = dict(line.split() for line in _lines(folder / "memory.stat"))
    return max(0, int(limit) - int(used) + int(pages.get(names[2], "0")))


def _available(root: Path) -> int | None:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []


@lru_cache(maxsize=1)
def _place() -> tuple[str, str, str, str]:
    """Host name, machine id, boot id and PID namespace, within which process ids are unique."""
    machine = next(iter(_lines(ROOT / "etc/machine-id")), "")[:12]
    boot = next(iter(_lines(ROOT / "proc/sys/kernel/random/boot_id")), "").replace("-", "")[:12]
    try:
        namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        namespace = ""
    return socket.gethostname(), machine, boot, namespace


def owner() -> str:
    """Owner tag of this process: ``host/machine/boot/namespace:pid-start``; fixed for its life."""
    return _owner(os.getpid())


@lru_cache(maxsize=4)
def _owner(pid: int) -> str:
    return f"{'/'.join(_place())}:{pid}{_start(pid)}"


def _start(pid: int) -> str:
    """``-TICKS`` from boot to the start of a process, as process ids are used again."""
    line = next(iter(_lines(ROOT / f"proc/{pid}/stat")), "")
    if not line:
        return ""
    fields = line.rpartition(")")[2].split()
    # A killed process whose parent has not waited for it is still listed.
    return "-ended" if fields[0] in "ZX" else f"-{fields[19]}"


def waiting_for(lock: Path) -> str:
    """Line for the user about a lock file that another process holds, named if it is here."""
    # As "1: FLOCK ADVISORY WRITE 1234 fd:01:5678 0 EOF".
    entries = [line.split() for line in _lines(ROOT / "proc/locks")]
    number = str(lock.stat().st_ino)
    pids = [entry[4] for entry in entries if entry[5].rpartition(":")[2] == number]
    return f"waits for {f'process {pids[0]}' if pids else 'another process'}, which holds {lock}"


def claim(folder: Path) -> None:
    """Mark a temporary folder as this process's; those beside it of dead processes are removed."""
    (folder / OWNER_FILE).write_text(owner())
    for mark in folder.parent.glob(f"*/{OWNER_FILE}"):
        with suppress(OSError):  # Another user's, or removed meanwhile.
            tag = mark.read_text()
            if tag != owner() and owner_is_gone(tag):
                shutil.rmtree(mark.parent)


def is_here(tag: str) -> bool:
    """True if the process of an owner tag is, or was, one of this boot and PID namespace."""
    return tuple(tag.rpartition(":")[0].split("/")) == _place()


def named(tag: str) -> str:
    """``process 12 on host here``."""
    place, _, process = tag.rpartition(":")
    return f"process {process.partition('-')[0]} on host {place.partition('/')[0]}"


def owner_is_gone(tag: str) -> bool:
    """True if `tag` names a process that certainly runs no more.

    A process of another machine or PID namespace is unknown, which counts as alive. To be asked
    before this process opens runs: its own tag is then that of a dead one.
    """
    place, _, process = tag.rpartition(":")
    pid, _, start = process.partition("-")
    if not pid.isdecimal():
        return False
    if not is_here(tag):
        theirs, own = place.split("/"), _place()
        rebooted = len(theirs) == len(own) and theirs[2] != own[2] and all((*theirs[:3], *own[:3]))
        return rebooted and theirs[:2] == [*own[:2]]
    if int(pid) == os.getpid():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return bool(start) and _start(int(pid)) not in ("", f"-{start}")
