"""The command line: how fast it starts, and what errors look like."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import cmkd
from cmkd.cli import main as module
from cmkd.errors import InfrastructureError
from cmkd.sweep.signals import Interrupted


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """``cmkd ARGUMENTS`` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "cmkd", *arguments], capture_output=True, text=True, cwd=cwd
    )


def test_the_version_is_printed():
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"cmkd {cmkd.__version__}\n")


def test_help_names_all_parts_within_three_tenths_of_a_second():
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = run("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.returncode == 0
    assert all(re.search(rf"^  {part} ", done.stdout, re.M) for part in ("sweep", "ui", "data"))
    assert min(seconds) < 0.3


BAD = {
    "unknown sweep": (["sweep", "ablatoin"], "did you mean 'ablation'"),
    "unknown key": (["sweep", "typo.yaml"], "typo.yaml:4"),
    "missing file": (["sweep", "none.yaml"], "none.yaml"),
    "unknown data": (["sweep", "smoke", "--data", "syntetic"], "did you mean 'synthetic'"),
    "workers": (["sweep", "smoke", "--workers", "4000"], "--workers 4000: this machine has"),
    "no workers": (["sweep", "smoke", "--workers", "0"], "--workers 0"),
    "store": (["ui", "--tracking-uri", "mlruns"], "tracking URI 'mlruns' is not supported"),
    "no store": (["ui"], "no tracking store there yet"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case, tmp_path):
    spec = "name: t\ndescription: d\nblocks:\n  a: {method.lamda_1: [0.1]}\n"
    (tmp_path / "typo.yaml").write_text(spec)
    arguments, named = BAD[case]
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("cmkd: ")
    assert named in done.stderr
    assert not list(tmp_path.glob("mlflow.db*")), "refused before anything was made"


def test_an_option_of_the_wrong_type_is_bad_input():
    done = run("sweep", "smoke", "--seeds", "many")
    assert done.returncode == 2
    assert "'--seeds'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (InfrastructureError("store:\n  gone"), 3, "cmkd: store: gone\n"),
        (Interrupted(2), 130, "cmkd: stopped by SIGINT; nothing done is lost\n"),
        (Interrupted(15), 143, "cmkd: stopped by SIGTERM; nothing done is lost\n"),
    ],
)
def test_exceptions_become_exit_codes(error, code, text, monkeypatch, capsys):
    def fail() -> None:
        raise error

    monkeypatch.setattr(module, "app", fail)
    with pytest.raises(SystemExit) as caught:
        module.main()
    assert caught.value.code == code
    assert capsys.readouterr().err == text


def test_ctrl_c_before_a_sweep_is_silent(monkeypatch, capsys):
    def fail() -> None:
        raise KeyboardInterrupt

    app = typer.Typer()
    app.command()(fail)
    monkeypatch.setattr(module, "app", app)
    monkeypatch.setattr(sys, "argv", ["cmkd"])
    with pytest.raises(SystemExit) as caught:
        module.main()
    assert caught.value.code == 130
    assert capsys.readouterr().err == ""


def test_a_cache_that_is_a_file_is_bad_input(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CMKD_CACHE", str(tmp_path / "file"))
    for arguments in (["sweep", "smoke", "--dry-run"], ["data", "prepare", ".", "--name", "x"]):
        done = run(*arguments, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith(f"cmkd: cache {tmp_path}/file: not a folder; set CMKD_CACHE")
        assert len(done.stderr.splitlines()) == 1


def test_a_bug_keeps_its_traceback(monkeypatch):
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "app", fail)
    with pytest.raises(ZeroDivisionError):
        module.main()
