"""The command line: how fast it starts, and what errors look like."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import cmkd
from cmkd.cli import data, sweep
from cmkd.cli import main as module
from cmkd.errors import InfrastructureError
from cmkd.sweep.failures import Interrupted


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """``cmkd ARGUMENTS`` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "cmkd", *arguments], capture_output=True, text=True, cwd=cwd
    )


def test_the_version_is_printed():
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"cmkd {cmkd.__version__}\n")


HEAVY = {"torch", "ray", "mlflow", "matplotlib", "pandas", "scipy", "sklearn", "optuna"}


def test_help_names_all_parts_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, runpy\nsys.argv = ['cmkd', '-h']\n"
        "try:\n    runpy.run_module('cmkd', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(re.search(rf"^  {part} ", done.stdout, re.M) for part in ("sweep", "ui", "data"))
    assert done.stderr.splitlines()[-1] == "[]"


def every_command(group: typer.Typer, *names: str) -> Iterator[tuple[str, ...]]:
    for command in group.registered_commands:
        assert command.callback is not None
        yield (*names, command.name or command.callback.__name__.replace("_", "-"))
    for part in group.registered_groups:
        assert part.typer_instance is not None and part.name
        yield (*names, part.name)
        yield from every_command(part.typer_instance, *names, part.name)


@pytest.mark.parametrize("names", [(), *every_command(module.app)], ids=" ".join)
def test_help_is_whole_and_in_the_words_of_a_user(names: tuple[str, ...]) -> None:
    done = CliRunner().invoke(module.app, [*names, "-h"])
    assert done.exit_code == 0
    assert "..." not in done.stdout.replace("...\n", "\n", 1), "the first is that of the usage line"
    assert not re.search(r"\b(?!ResNet|EfficientNet)[A-Z][a-z]+[A-Z]\w+", done.stdout), (
        "names of classes"
    )


@pytest.mark.parametrize(
    ("command", "title", "options"),
    [
        ("sweep run", "Where they are trained", {"--workers", "--processes", "--address"}),
        ("data prepare", "Encoding", {"--width", "--height", "--gop", "--qscale", "--frames"}),
        ("report tables", "Which runs", {"--table", "--data", "--sweep", "--tracking-uri"}),
    ],
)
def test_many_options_are_listed_in_groups(command: str, title: str, options: set[str]) -> None:
    text = CliRunner().invoke(module.app, [*command.split(), "-h"]).stdout
    sections = dict(re.findall(r"^(\w.*):\n((?:  .*\n)+)", text, re.M))
    assert set(re.findall(r"^  (--[\w-]+)", sections[title], re.M)) == options
    assert "--help" in sections["Options"]
    listed = re.findall(r"^  (?:-\w, )?(--[\w-]+)", text, re.M)
    assert len(listed) == len(set(listed))


def test_no_group_names_an_option_that_is_not_there() -> None:
    for command, groups in ((data.prepare, data.PREPARE), (sweep.run, sweep.RUN)):
        names = " ".join(groups.values()).split()
        assert names and set(names) <= set(inspect.signature(command).parameters)


def test_quiet_and_verbose(tmp_path: Path) -> None:
    data = ("sweep", "smoke", "--data", "nowhere")
    plain, verbose = run(*data, cwd=tmp_path), run("-v", *data, cwd=tmp_path)
    assert len(plain.stderr.splitlines()) == 1
    assert "Traceback" in verbose.stderr
    assert verbose.stderr.splitlines()[-1] == plain.stderr.strip()
    assert (plain.returncode, verbose.returncode) == (2, 2)
    listing = run("-q", "sweep", "smoke", "--dry-run", cwd=tmp_path)
    assert (listing.returncode, listing.stderr) == (0, "")
    assert "3 to run" in listing.stdout


BAD = {
    "unknown sweep": (["sweep", "ablatoin"], "did you mean 'ablation'"),
    "unknown key": (["sweep", "typo.yaml"], "typo.yaml:4"),
    "missing file": (["sweep", "none.yaml"], "none.yaml"),
    "unknown data": (["sweep", "smoke", "--data", "syntetic"], "did you mean 'synthetic'"),
    "workers": (["sweep", "smoke", "--workers", "4000"], "--workers 4000: this machine has"),
    "no workers": (["sweep", "smoke", "--workers", "0"], "--workers 0"),
    "store": (["ui", "--tracking-uri", "mlruns"], "tracking URI 'mlruns' is not supported"),
    "no run": (["export", "none", "--to", "onnx"], "none: is no folder and no trial of"),
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


def test_the_mistakes_of_a_file_have_a_line_each_and_very_many_are_counted(tmp_path: Path) -> None:
    values = ", ".join(f"-{n}" for n in range(1, 31))
    spec = f"name: t\ndescription: d\nblocks:\n  a: {{method.lambda_1: [{values}], seds: 1}}\n"
    (tmp_path / "many.yaml").write_text(spec)
    done = run("sweep", "many.yaml", cwd=tmp_path)
    lines = done.stderr.splitlines()
    assert (done.returncode, len(lines)) == (2, 21)
    assert all(line.startswith("cmkd: many.yaml:4: ") for line in lines[:-1])
    assert "unknown key 'seds'" in lines[0]
    assert lines[-1] == "cmkd: and 11 more"


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
        assert done.stderr.startswith(f"cmkd: cache {tmp_path}/file: ")
        assert "set CMKD_CACHE" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_bug_keeps_its_traceback(monkeypatch):
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "app", fail)
    with pytest.raises(ZeroDivisionError):
        module.main()
