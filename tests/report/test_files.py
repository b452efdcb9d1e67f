from __future__ import annotations

import os
from pathlib import Path

import pytest

from cmkd.errors import InfrastructureError, InputError
from cmkd.report.build import write_files


def test_files_are_written_and_nothing_else_stays(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    paths = write_files(folder, {"x.md": b"one", "x.png": b"two"})
    assert paths == (folder / "x.md", folder / "x.png")
    assert [path.read_bytes() for path in paths] == [b"one", b"two"]
    assert sorted(os.listdir(folder)) == ["x.md", "x.png"]
    write_files(folder, {"x.md": b"new"})
    assert paths[0].read_bytes() == b"new"


def test_a_full_disk_leaves_the_old_report(tmp_path: Path) -> None:
    write_files(tmp_path, {"x.md": b"old"})
    # A name longer than file systems allow fails after x.md was prepared, as a full disk would.
    with pytest.raises(InfrastructureError, match="free some space"):
        write_files(tmp_path, {"x.md": b"new", "y" * 300: b"more"})
    assert (tmp_path / "x.md").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.md"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another one"):
        write_files(tmp_path / "file" / "sub", {"x.md": b""})
