"""CPUs, memory and owners of this machine, of containers and of other machines."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cmkd import machine
from cmkd.machine import (
    OWNER_FILE,
    claim,
    free_memory,
    named,
    owner,
    owner_is_gone,
    usable_cpus,
)


def a_machine(root: Path, cgroup: str = "", files: dict[str, str] | None = None) -> Path:
    """The ``proc`` and ``sys`` of a machine with 5000 kB free and these files of control groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in (files or {}).items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


V2 = {"memory.max": "4000000", "memory.current": "3000000", "memory.stat": "inactive_file 500000"}
V1 = {
    "memory.limit_in_bytes": "4000000",
    "memory.usage_in_bytes": "3000000",
    "memory.stat": "inactive_file 1\ntotal_inactive_file 500000",
}


def below(folder: str, files: dict[str, str]) -> dict[str, str]:
    return {f"{folder}/{name}": text for name, text in files.items()}


@pytest.mark.parametrize(
    ("cgroup", "files", "free"),
    [
        ("", {}, 5000 * 1024),
        ("0::/\n", V2, 1_500_000),
        ("0::/\n", V2 | {"memory.max": "max"}, 5000 * 1024),
        # A job of Slurm or a unit of systemd: the group of this process, not the root's.
        ("0::/slurm/job_1\n", below("slurm/job_1", V2), 1_500_000),
        # The limit stands at a group above.
        ("0::/a/b\n", below("a", V2) | {"a/b/memory.max": "max"}, 1_500_000),
        ("9:memory:/docker/1\n1:name=systemd:/x\n", below("memory/docker/1", V1), 1_500_000),
        # In a container the path is that of the host.
        ("9:memory:/docker/1\n", below("memory", V1), 1_500_000),
        (
            "9:memory:/\n",
            below("memory", V1 | {"memory.limit_in_bytes": "9223372036854771712"}),
            5000 * 1024,
        ),
    ],
)
def test_free_memory_is_that_of_the_own_group(
    tmp_path: Path, cgroup: str, files: dict[str, str], free: int
) -> None:
    assert free_memory(a_machine(tmp_path, cgroup, files)) == free


def test_free_memory_is_not_known_elsewhere(tmp_path: Path) -> None:
    assert free_memory(tmp_path) is None


@pytest.mark.parametrize(
    ("cgroup", "files", "cpus"),
    [
        ("", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/\n", {"cpu.max": "100000 100000"}, 1),
        ("0::/job\n", {"job/cpu.max": "250000 100000"}, 3),
        ("0::/a/b\n", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000"}, 1),
        (
            "4:cpu,cpuacct:/job\n",
            below("cpu,cpuacct/job", {"cpu.cfs_quota_us": "200000", "cpu.cfs_period_us": "100000"}),
            2,
        ),
        (
            "4:cpu,cpuacct:/\n",
            below("cpu,cpuacct", {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}),
            8,
        ),
    ],
)
def test_cpus_are_limited_by_the_quota(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cgroup: str,
    files: dict[str, str],
    cpus: int,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert usable_cpus(a_machine(tmp_path, cgroup, files)) == cpus


def test_this_machine_has_cpus_and_memory() -> None:
    assert 1 <= usable_cpus() <= (os.cpu_count() or 1)
    assert 2**20 < (free_memory() or 2**30) < 2**50


def tag(host: str, machine_id: str, boot: str, namespace: str, process: object) -> str:
    return f"{host}/{machine_id}/{boot}/{namespace}:{process}"


def test_owners_are_alive_dead_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_place", lambda: ("here", "m", "b", "1"))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert owner_is_gone(tag("here", "m", "b", "1", ended.pid))
    assert not owner_is_gone(tag("here", "m", "b", "1", os.getppid()))
    assert owner_is_gone(tag("here", "m", "b", "1", f"{os.getppid()}-1")), "its number is another's"
    # Unknown, so never taken for dead: another host, another PID namespace, an older version.
    assert not owner_is_gone(tag("elsewhere", "m2", "b2", "1", ended.pid))
    assert not owner_is_gone(tag("here", "m", "b", "2", ended.pid))
    assert not owner_is_gone(f"here:{ended.pid}")
    assert not owner_is_gone("")
    # The machine was started again since; another machine of the same name was not.
    assert owner_is_gone(tag("here", "m", "b0", "1", os.getppid()))
    assert not owner_is_gone(tag("here", "", "b0", "1", os.getppid()))
    assert not owner_is_gone(tag("here", "m2", "b0", "1", os.getppid()))


def test_temporary_folders_of_dead_processes_go_at_the_next_start(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "from cmkd.machine import owner; print(owner(), end='')"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    elsewhere = "host/machine/boot/namespace:7-1"
    folders = [tmp_path / name for name in ("ended", "elsewhere", "unmarked", "mine", "other")]
    for folder, tag in zip(folders, (ended, elsewhere, None, owner(), None), strict=True):
        folder.mkdir()
        (folder / "file").touch()
        if tag is not None:
            (folder / OWNER_FILE).write_text(tag)
    claim(folders[-1])
    assert sorted(tmp_path.iterdir()) == sorted(folders[1:])


def test_the_own_tag_stays_the_same_when_the_host_is_renamed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = owner()
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed")
    assert owner() == before
    assert named(before).startswith(f"process {os.getpid()} on host ")
    assert owner_is_gone(before), "asked before this process owns anything"
