"""How many workers find room."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cmkd.sweep.preflight import Room, free_memory

GIB = 2**30


@pytest.mark.parametrize(
    ("need", "free", "fit"),
    [
        (0, (8 * GIB,), 4),
        (GIB, (), 4),
        (GIB, (8 * GIB,), 4),
        (3 * GIB, (8 * GIB,), 2),
        (4 * GIB, (8 * GIB,), 1),
        (9 * GIB, (8 * GIB,), 1),
        (4 * GIB, (5 * GIB, 5 * GIB, 3 * GIB), 2),
    ],
)
def test_workers_that_fit(need: int, free: tuple[int, ...], fit: int) -> None:
    assert Room(need, free).workers(4) == fit


def test_the_user_is_told_when_fewer_fit_and_what_to_do_when_none_does() -> None:
    assert Room(GIB, (8 * GIB,)).describe(4) == ""
    assert Room(3 * GIB, (8 * GIB,)).describe(4) == (
        "2 instead of 4 workers: a trial was measured to need about 3.0 GiB, 8.0 GiB are free"
    )
    assert "raise training.accumulate" in Room(9 * GIB, (8 * GIB,)).describe(1)


def a_machine(root: Path, limit: str | None = None) -> Path:
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    5000 kB\n")
    if limit is not None:
        group = root / "sys/fs/cgroup"
        group.mkdir(parents=True)
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text("3000000\n")
        (group / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    return root


def test_free_memory_is_that_of_the_machine_or_of_its_container(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    assert free_memory(a_machine(tmp_path / "plain")) == 5000 * 1024
    (tmp_path / "limited").mkdir()
    assert free_memory(a_machine(tmp_path / "limited", "4000000")) == 1500000
    (tmp_path / "unlimited").mkdir()
    assert free_memory(a_machine(tmp_path / "unlimited", "max")) == 5000 * 1024
    assert free_memory(tmp_path / "elsewhere") is None


@pytest.mark.skipif(sys.platform != "linux", reason="read from Linux's /proc")
def test_this_machine_has_some() -> None:
    free = free_memory()
    assert free is not None
    assert 2**20 < free < 2**50
