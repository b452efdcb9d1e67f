"""What a user of the wheel gets, with no checkout around."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import cmkd

ROOT = Path(__file__).resolve().parent.parent
LOAD = (
    "import cmkd; from cmkd.config.sweep import load_sweep; s = load_sweep('ablation');"
    "print(cmkd.__file__, s.path, *[arm.name for arm in s.arms], sep='\\n')"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-index"]
    built = subprocess.run(
        [*command, "--no-build-isolation", "--wheel-dir", str(folder)],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def load_ablation(installed: Path, working_directory: Path) -> list[str]:
    run = subprocess.run(
        [sys.executable, "-c", LOAD],
        cwd=working_directory,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_the_wheel_holds_the_package_and_every_data_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "cmkd").rglob("*.py")}
    data = {
        f"cmkd/_files/{path.relative_to(ROOT).as_posix()}"
        for folder in ("sweeps", "reports/published")
        for path in (ROOT / folder).rglob("*.yaml")
    } | {"cmkd/_files/reports/claims.yaml"}
    assert "cmkd/_files/sweeps/ablation.yaml" in data
    assert any(name.startswith("cmkd/_files/reports/published/") for name in data)
    meta = f"cmkd-{cmkd.__version__}.dist-info"
    inside = {name for name in names if not name.startswith(f"{meta}/")}
    beside = {
        "cmkd/__init__.pyi",
        "cmkd/config/presets.yaml",
        "cmkd/report/report.html.jinja",
    }
    assert inside == code | data | beside | {"cmkd/py.typed"}
    assert f"{meta}/licenses/LICENSE" in names


def test_the_shipped_spec_works_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    origin, spec, *arms = load_ablation(installed, tmp_path)
    assert Path(origin).is_relative_to(installed)
    assert Path(spec) == installed / "cmkd" / "_files" / "sweeps" / "ablation.yaml"
    kinds = ["baseline", "control", "spatial", "temporal", "both", "logits"]
    own = {"tsm": [*kinds, "untrained", "printed"], "tdn": kinds}
    assert arms == [f"{family}_{kind}" for family, names in own.items() for kind in names]


def test_a_spec_of_the_working_directory_wins(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "ablation.yaml").write_text(
        "name: ablation\ndescription: mine\nblocks:\n  only: {}\n"
    )
    _, spec, *arms = load_ablation(installed, tmp_path)
    assert (spec, arms) == ("sweeps/ablation.yaml", ["only"])


def test_every_direct_dependency_is_pinned_once_and_without_a_build_suffix() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [text for extra in project["optional-dependencies"].values() for text in extra]
    own = [text for text in extras if text.startswith(f"{project['name']}[")]
    assert own == ["cmkd[export,postgres,pretrained]"]
    wanted = [*project["dependencies"], *(text for text in extras if text not in own)]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    names = [pin.partition("==")[0].lower() for pin in pins]
    assert len(set(names)) == len(names)
    for text in wanted:
        assert text.lower().replace("[", ">").partition(">")[0] in names
    for pin in pins:
        assert pin.count("==") == 1 and not set(pin) & set("+@;/ "), pin


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_and_permissions_declared(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    uses = re.findall(r"uses: (.*)", text)
    assert uses
    for line in uses:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}


def test_a_release_is_published_by_trust_in_the_workflow_alone() -> None:
    (text,) = (path.read_text("utf-8") for path in WORKFLOWS if path.name == "release.yml")
    jobs = yaml.safe_load(text)["jobs"]
    publish = jobs["publish"]
    assert publish["needs"] == "build" and publish["environment"] == "pypi"
    assert publish["permissions"] == {"id-token": "write"}
    # Nothing of the repository runs where the identity is.
    assert all("run" not in step for step in publish["steps"])
    assert "id-token" not in str(jobs["build"]) and "secrets." not in text


@pytest.mark.parametrize(
    ("tag", "heading", "code"),
    [
        ("v9.1.0", "## 9.1.0 (2026-11-30)", 0),
        ("v9.1.1", "## 9.1.0 (2026-11-30)", 1),
        ("v9.1.0", "## 9.1.0 (unreleased)", 1),
    ],
)
def test_a_release_checks_its_tag(tag: str, heading: str, code: int, tmp_path: Path) -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text("utf-8")
    steps = yaml.safe_load(text)["jobs"]["build"]["steps"]
    (script,) = (step["run"] for step in steps if step.get("name", "").startswith("the tag"))
    own = (ROOT / "cmkd" / "__init__.py").read_text("utf-8")
    (tmp_path / "cmkd").mkdir()
    (tmp_path / "cmkd" / "__init__.py").write_text(own.replace(cmkd.__version__, "9.1.0"))
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n")
    done = subprocess.run(
        ["bash", "-e", "-c", script], cwd=tmp_path, env={**os.environ, "GITHUB_REF_NAME": tag}
    )
    assert done.returncode == code
