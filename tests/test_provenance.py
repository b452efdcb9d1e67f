"""Provenance: which edits make other code, and who trained in a folder."""

from __future__ import annotations

import subprocess
from dataclasses import replace
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
