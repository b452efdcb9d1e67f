"""``cmkd sweep list``, ``show`` and ``new``, and ``cmkd report open``."""

from __future__ import annotations

import os
import webbrowser
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cmkd.cli.main import app
from cmkd.config.paths import find_spec
from cmkd.config.sweep import load_sweep
from cmkd.errors import InputError


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def cmkd(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_the_list_has_own_specs_and_those_of_the_package() -> None:
    Path("sweeps").mkdir()
    Path("sweeps/mine.yaml").write_text("name: mine\ndescription: my question\nblocks: {a: {}}\n")
    Path("sweeps/broken.yaml").write_text("name: broken\n")
    lines = {line.split()[0]: line for line in cmkd("sweep", "list").output.splitlines()}
    assert {"ablation", "smoke", "mine", "broken"} <= lines.keys()
    assert "sweeps/mine.yaml" in lines["mine"] and "my question" in lines["mine"]
    assert "cannot be used: sweeps/broken.yaml" in lines["broken"]


def test_a_spec_is_shown_as_it_is_written() -> None:
    assert cmkd("sweep", "show", "smoke").output == find_spec("smoke").read_text("utf-8")


def test_a_new_spec_is_the_other_one_under_its_own_name() -> None:
    assert cmkd("sweep", "new", "mine").exit_code == 0
    mine, other = load_sweep("mine"), load_sweep("ablation")
    assert (mine.spec.name, mine.arms) == ("mine", other.arms)
    comments = [line for line in other.path.read_text().splitlines() if line.startswith("#")]
    assert set(comments) <= set(mine.path.read_text().splitlines())


def test_values_are_set_for_all_arms() -> None:
    options = ("--from", "smoke", "--set", "training.epochs=3", "--set", "student.width=8")
    assert cmkd("sweep", "new", "mine", *options, "--set", "teacher.width = 8").exit_code == 0
    mine, other = load_sweep("mine"), load_sweep("smoke")
    assert {arm.setting.training.epochs for arm in mine.arms} == {3}
    assert {arm.setting.student.width for arm in mine.arms} == {8}
    assert [arm.name for arm in mine.arms] == [arm.name for arm in other.arms]
    assert mine.spec.base["method.lambda_1"] == other.spec.base["method.lambda_1"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a/b"], "name 'a/b'"),
        (["smoke"], "smoke.yaml has it"),
        (["mine", "--from", "smoek"], "did you mean 'smoke'"),
        (["mine", "--set", "training.epoch=3"], "training.epoch=3: unknown key training"),
        (["mine", "--set", "training.epochs"], "write KEY=VALUE"),
        (["mine", "--from", "smoke", "--set", "method.decoder=true"], "block 'baseline'"),
    ],
)
def test_what_cannot_be_written_leaves_no_file(arguments: list[str], says: str) -> None:
    done = cmkd("sweep", "new", *arguments)
    assert isinstance(done.exception, InputError)
    assert says in str(done.exception)
    assert not list(Path().rglob("*.yaml"))


def test_the_newest_page_of_a_report_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    missing = cmkd("report", "open", "out")
    assert isinstance(missing.exception, InputError)
    assert "cmkd report tables --out out" in str(missing.exception)
    Path("out").mkdir()
    for age, name in enumerate(("new.html", "old.html")):
        Path("out", name).touch()
        os.utime(Path("out", name), (9 - age, 9 - age))
    address = f"file://{tmp_path}/out/new.html"
    assert cmkd("report", "open", "out").output == f"{address}\n"
    assert opened == [address]
