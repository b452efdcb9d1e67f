"""A file is whole or absent, and what stops it is a deliberate error."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from cmkd.errors import InfrastructureError, InputError
from cmkd.io import make_folder, write_atomic, write_text


def test_text_is_written_as_it_is_below_new_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deeper" / "text.csv"
    write_text(path, "a\r\nb\n\u00e9\n")
    write_text(path, "a\r\nb\n\u00e8\n")
    assert path.read_bytes() == b"a\r\nb\n\xc3\xa8\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["text.csv"]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_text(tmp_path / "ours", "")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1, "a shared cache must stay readable to the others"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    write_text(path, "old")

    def full_disk(draft: Path) -> None:
        draft.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InfrastructureError, match=r"figures\.json: cannot be written \(No space"):
        write_atomic(path, full_disk)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["figures.json"]


def test_a_file_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "text", tmp_path / "file" / "deeper" / "text"):
        with pytest.raises(InfrastructureError, match="cannot be written"):
            write_text(path, "")


def test_a_bug_is_no_failure_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_atomic(tmp_path / "text", lambda _: 1 // 0)


def test_a_folder_is_made_or_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "one" / "two")
    make_folder(tmp_path / "one" / "two")
    assert list((tmp_path / "one" / "two").iterdir()) == []
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="choose another one"):
            make_folder(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied"):
        make_folder(tmp_path)


def test_a_full_disk_is_no_mistake_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(**_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", full_disk)
    with pytest.raises(InfrastructureError, match="No space left"):
        make_folder(tmp_path)
