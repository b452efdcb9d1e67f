"""Where the cache and the shipped files are, and names that stay inside a folder."""

import os
from pathlib import Path

import pytest

import cmkd
from cmkd.config.paths import cache_root, packaged, slug, usable_cache
from cmkd.errors import InputError


def test_the_cache_of_a_test_is_its_own(tmp_path: Path) -> None:
    assert cache_root().is_relative_to(tmp_path)


def test_the_cache_follows_its_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value, expected in [
        (str(tmp_path / "there"), tmp_path / "there"),
        ("here", tmp_path / "here"),
        ("~/mine", tmp_path / "home" / "mine"),
    ]:
        monkeypatch.setenv("CMKD_CACHE", value)
        assert cache_root() == expected
        assert cache_root().is_absolute()


@pytest.mark.parametrize("own", [None, ""])
def test_without_it_the_cache_follows_xdg(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: str | None
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if own is None:
        monkeypatch.delenv("CMKD_CACHE")
    else:
        monkeypatch.setenv("CMKD_CACHE", own)
    assert cache_root() == tmp_path / "xdg" / "cmkd"


def test_a_usable_cache_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMKD_CACHE", str(tmp_path / "a" / "b"))
    assert usable_cache() == tmp_path / "a" / "b"
    assert usable_cache().is_dir()


def test_a_cache_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for place, reason in {"file": "File exists", "file/below": "Not a directory"}.items():
        monkeypatch.setenv("CMKD_CACHE", str(tmp_path / place))
        with pytest.raises(InputError, match=f"cache {tmp_path / place}: .*{reason}.*CMKD_CACHE"):
            usable_cache()
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    tmp_path.chmod(0o500)
    for path in (tmp_path, tmp_path / "new"):
        monkeypatch.setenv("CMKD_CACHE", str(path))
        with pytest.raises(InputError, match=f"cache {path}: "):
            usable_cache()


def test_shipped_files_of_a_checkout() -> None:
    root = Path(cmkd.__file__).parent.parent
    assert packaged("sweeps", "ablation.yaml") == root / "sweeps" / "ablation.yaml"
    assert packaged("sweeps", "ablation.yaml").is_file()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("plain_Name-1.2", "plain_Name-1.2"),
        ("a b/c", "a-b-c"),
        ("../evil", "evil"),
        ("..", None),
        ("/", None),
        ("", None),
        ("éà", None),
        ("<script>|", "script"),
        ("x" * 300, "x" * 64),
    ],
)
def test_slugs_stay_inside_a_folder(text: str, name: str | None) -> None:
    if name is None:
        with pytest.raises(InputError, match="no letter or digit"):
            slug(text)
    else:
        assert slug(text) == name
