"""Provenance: which edits make other code, and who trained in a folder."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import cmkd
from cmkd import provenance
from cmkd.errors import InfrastructureError
from cmkd.provenance import FILE, code_digest, makers, sign, this_code

PACKAGE = Path(cmkd.__file__).parent


def test_an_edit_of_a_loss_is_other_code_and_one_of_a_report_is_not(tmp_path: Path) -> None:
    for name in ("method/losses.py", "report/build.py", "cli/sweep.py", "io.py", "__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a = 1\n")
    before = code_digest(tmp_path)
    for name in ("report/build.py", "cli/sweep.py", "__init__.py"):
        (tmp_path / name).write_text("a = 2\n")
    assert code_digest(tmp_path) == before
    (tmp_path / "method/losses.py").write_text("a = -1\n")
    assert code_digest(tmp_path) != before


def test_this_code_names_commit_versions_and_processor() -> None:
    made = this_code()
    assert made.code == code_digest(PACKAGE)
    if (PACKAGE.parent / ".git").exists():
        head = ["git", "-C", str(PACKAGE.parent), "rev-parse", "HEAD"]
        commit = subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()
        assert made.commit.removesuffix("-dirty") == commit
    assert set(made.versions) == {"cmkd", "torch", "numpy", "av"}
    assert made.versions["cmkd"] == cmkd.__version__
    assert made.processor
    assert {"code", "git_commit", "made_with", "processor"} == set(made.tags())


def test_a_sweep_file_of_ones_own_does_not_make_a_commit_dirty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    package = tmp_path / "cmkd"
    (package / "method").mkdir(parents=True)
    for name in ("cmkd/provenance.py", "cmkd/method/losses.py", "Makefile"):
        (tmp_path / name).write_text("a = 1\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "all")
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    clean = git("rev-parse", "HEAD")

    def commit() -> str:
        return this_code.__wrapped__().commit

    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "mine.yaml").write_text("name: mine\n")
    (tmp_path / "student.onnx").touch()
    assert commit() == clean
    added = package / "method" / "other.py"
    added.touch()
    assert commit() == f"{clean}-dirty"
    added.unlink()
    for name in ("Makefile", "cmkd/method/losses.py"):
        (tmp_path / name).write_text("a = 2\n")
        assert commit() == f"{clean}-dirty"
        git("checkout", "-q", name)
        assert commit() == clean


def test_all_makers_of_a_folder_are_kept_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert makers(tmp_path) == ()
    sign(tmp_path)
    sign(tmp_path)
    first = this_code()
    assert makers(tmp_path) == (first,)
    second = replace(first, code="0" * 12)
    monkeypatch.setattr(provenance, "this_code", lambda: second)
    sign(tmp_path)
    assert makers(tmp_path) == (first, second)


@pytest.mark.parametrize("data", [b"[{", b"", bytes(80), b"[\xff]", b"[7]", b'[{"code": "a"}]'])
def test_a_damaged_list_of_makers_is_named_and_removed(tmp_path: Path, data: bytes) -> None:
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(InfrastructureError, match=FILE):
        makers(tmp_path)
    assert makers(tmp_path) == (), "the next call trains anew, as unknown code has made it"


def test_makers_of_another_folder_or_with_a_flipped_bit_are_named_and_removed(
    tmp_path: Path,
) -> None:
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
        sign(tmp_path / name)
    path = tmp_path / "mine" / FILE
    whole = path.read_bytes()
    place = whole.index(this_code().commit.encode())
    flipped = bytes([*whole[:place], whole[place] ^ 1, *whole[place + 1 :]])
    for content in ((tmp_path / "theirs" / FILE).read_bytes(), flipped):
        path.write_bytes(content)
        with pytest.raises(InfrastructureError, match=f"{path}.*trains anew"):
            makers(path.parent)
        assert makers(path.parent) == ()


def test_makers_written_without_a_digest_are_known(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps([asdict(this_code())]))
    assert makers(tmp_path) == (this_code(),)
    newer = replace(this_code(), code="0" * 12)
    (tmp_path / FILE).write_text(json.dumps([asdict(newer)]))
    sign(tmp_path)
    assert makers(tmp_path) == (newer, this_code())
