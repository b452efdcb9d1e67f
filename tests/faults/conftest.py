"""A finished sweep to be damaged, and disks that are full or cannot be written."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def finished(new_workspace: Callable[..., Any]) -> Any:
    """A workspace whose sweep is done; not to be changed."""
    space = new_workspace(2)
    code, output = space.run("sweep", "tiny.yaml", timeout=600)
    assert code == 0, output
    return space


@pytest.fixture
def copy_of_finished(finished: Any, tmp_path: Path) -> Any:
    """A copy of it that may be changed, with the same data."""
    folder = Path(shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True))
    return replace(finished, folder=folder, cache=folder / "cache")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a disk of its own at a folder; skips where that needs more rights."""
    places: list[Path] = []

    def mount(name: str, *options: str) -> Path:
        place = tmp_path / name
        place.mkdir(exist_ok=True)
        command = ["mount", *options, str(place)]
        if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a disk needs root")
        places.append(place)
        return place

    yield mount
    for place in reversed(places):
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def disk(mounted: Callable[..., Path]) -> Callable[[str, int], Path]:
    """Mounts a disk of so many megabytes."""
    return lambda name, size: mounted(name, "-t", "tmpfs", "-o", f"size={size}m", "tmpfs")


@pytest.fixture
def read_only(mounted: Callable[..., Path], tmp_path: Path) -> Callable[[str], Path]:
    """Mounts an empty disk that not even root can write to."""
    return lambda name: mounted(name, "-t", "tmpfs", "-o", "size=1m,ro", "tmpfs")


@pytest.fixture(scope="session")
def fill() -> Callable[[Path], Path]:
    """Fills the disk of a folder; gives the file to remove again."""

    def to_the_brim(folder: Path) -> Path:
        ballast = folder / "ballast"
        block = 2**20
        with ballast.open("wb", buffering=0) as file:
            while block:
                try:
                    file.write(b"0" * block)
                except OSError as error:
                    assert error.errno == errno.ENOSPC
                    block //= 2
        return ballast

    return to_the_brim
