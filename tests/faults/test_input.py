"""Bad specs and names: one line with file, line and key, before anything is made."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cmkd.cli.main import app
from cmkd.config.paths import slug
from cmkd.errors import CmkdError, ConfigError
from cmkd.sweep.run import sweep_lock

HEAD = "name: s\ndescription: d\ndata: synthetic-smoke\n"
MISTAKES = {
    "typo": ("blocks:\n  a: {method.lamda_1: [0.1]}\n", 5, "did you mean 'lambda_1'?"),
    "unknown key": ("blok:\n  a: {}\n", 4, "unknown key 'blok'; did you mean 'blocks'?"),
    "wrong type": ("blocks:\n  a: {training.epochs: [many]}\n", 5, "valid integer (got 'many')"),
    "duplicate key": ("seeds: 1\nseeds: 2\nblocks:\n  a: {}\n", 5, "given before, on line 4"),
    "python tag": ("blocks: !!python/object/apply:os.system ['touch canary']\n", 4, "remove it"),
    "alias bomb": (
        "a: &a [x, x]\nb: &b [*a, *a, *a]\nblocks:\n  c: {x: [*b, *b]}\n",
        5,
        "write the value out",
    ),
    "the key no": ("blocks:\n  a: {no: [1]}\n", 5, "unknown key 'no'"),
    "the value no": ("blocks:\n  a: {inputs.num_gops: [no]}\n", 5, "(got 'no')"),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", MISTAKES)
def test_row_31_a_mistake_in_a_spec_is_named_by_file_line_and_key(here: Path, case: str) -> None:
    text, line, says = MISTAKES[case]
    (here / "s.yaml").write_text(HEAD + text)
    error = CliRunner().invoke(app, ["sweep", "s.yaml", "--dry-run"]).exception
    assert isinstance(error, ConfigError), error
    assert str(error).startswith(f"s.yaml:{line}: ")
    assert says in str(error)
    assert error.exit_code == 2
    assert os.listdir(here) in (["s.yaml"], ["s.yaml", "cache"], ["cache", "s.yaml"])


def test_row_31_a_number_with_an_exponent_is_a_number(here: Path) -> None:
    assert yaml.safe_load("1e-4") == "1e-4", "what PyYAML makes of it by itself"
    (here / "s.yaml").write_text(f"{HEAD}blocks:\n  a: {{training.lr: [1e-4, 1E-3]}}\n")
    command = [sys.executable, "-c", DUMP]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[0.0001, 0.001]\n"


DUMP = """
from cmkd.config.sweep import load_sweep
print([arm.setting.training.lr for arm in load_sweep("s.yaml").arms])
"""


def test_row_32_a_million_cells_are_counted_first_and_refused(here: Path) -> None:
    values = ", ".join(str(n / 1000) for n in range(100))
    axes = (f"method.{key}: [{values}]" for key in ("lambda_1", "lambda_2", "lambda_logits"))
    (here / "s.yaml").write_text(f"{HEAD}blocks:\n  a: {{{', '.join(axes)}}}\n")
    began = time.process_time()
    error = CliRunner().invoke(app, ["sweep", "s.yaml", "--dry-run"]).exception
    assert isinstance(error, CmkdError)
    assert error.exit_code == 2
    assert str(error) == "s.yaml: has 1000000 arms; --yes allows more than 10000"
    assert time.process_time() - began < 5, "it was not expanded"


NAMES = ["../x", "a/b", "x" * 300, "ünï-çødé", "a|b", "<script>alert(1)</script>", "..", ""]


@pytest.mark.parametrize("name", NAMES)
def test_row_33_the_name_of_a_sweep_is_a_plain_word(here: Path, name: str) -> None:
    spec = {"description": "d", "name": name, "blocks": {"a": {}}}
    (here / "s.yaml").write_text(yaml.safe_dump(spec, allow_unicode=True, sort_keys=False))
    error = CliRunner().invoke(app, ["sweep", "s.yaml", "--dry-run"]).exception
    assert isinstance(error, ConfigError), error
    assert "s.yaml:2: name: " in str(error)
    assert error.exit_code == 2


@pytest.mark.parametrize("name", [name for name in NAMES if name.strip(".")])
def test_row_33_what_other_names_become_stays_inside_its_folder(here: Path, name: str) -> None:
    with sweep_lock(here / "cache", name, name):
        (lock,) = here.rglob("*.lock")
    assert lock.parent == here / "cache" / "locks"
    assert len(slug(name)) <= 64
    assert slug(name).isascii()


@pytest.mark.parametrize("name", ["../x", "a/b", "x" * 300, "a|b", "<script>", "-x", "..", ""])
def test_row_33_a_data_set_has_a_plain_name(here: Path, name: str) -> None:
    for label in ("one", "two"):
        (here / "videos" / label).mkdir(parents=True)
    done = CliRunner().invoke(app, ["data", "prepare", "videos", f"--name={name}"])
    assert isinstance(done.exception, CmkdError), done.output
    assert done.exception.exit_code == 2
    assert "--name" in str(done.exception) or "name" in str(done.exception)
    assert sorted(os.listdir(here)) in (["videos"], ["cache", "videos"])
