"""The rules of the code's shape: layers, doors, sizes, and indexes that agree with the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "cmkd").rglob("*.py"))
TREES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in MODULES
}

# Each folder, after the folders it may import: an import can only point upwards in this list,
# so no circle between folders is possible. "tracking.records" opens that one module; everybody
# may read the version in "__init__".
LAYERS: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "config": {"errors"},
    "data": {"errors", "config"},
    "backbones": {"errors", "config"},
    "tracking": {"errors", "config"},
    "method": {"errors", "config", "backbones"},
    "training": {"errors", "config", "data", "backbones", "tracking.records", "method"},
    "sweep": {"errors", "config", "data", "backbones", "tracking", "method", "training"},
    "report": {"errors", "config", "tracking"},
    "cli": {"errors", "config", "data", "tracking", "training", "sweep", "report"},
    "__main__": {"cli"},
}
# The parts of `report`, in the same way: each may import those before it. Modules beside the parts
# may import all of them, but for the two that nothing is above.
PARTS = ("paper", "store", "values", "judging", "pages", "figures")
BASE = ("statistics", "files")
DOORS: dict[str, str] = {
    "av": r"cmkd/data/bitstream/\w+\.py",
    "ray": r"cmkd/sweep/(runner|tuning|distributed|cluster|preparing)\.py",
    "pyarrow": r"cmkd/data/mirror\.py",
    "mlflow": r"cmkd/tracking/mlflow_(store|runs|calls)\.py",
    "matplotlib": r"cmkd/report/figures/\w+\.py",
    "typer": r"cmkd/cli/\w+\.py",
    "sklearn": r"cmkd/data/splits\.py|cmkd/training/motion_svm\.py",
    "optuna": r"cmkd/sweep/search\.py",
    "scipy": r"cmkd/(report/statistics|sweep/adaptive)\.py",
    "torch": r"cmkd/(data|backbones|method|training|sweep)/(\w+/)?\w+\.py",
}
HEAVY = ("torch", "ray", "mlflow", "optuna", "pandas", "matplotlib", "av", "sklearn", "scipy")
ASSUMPTIONS = {f"A{number}" for number in range(1, 19)}


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all imports, also of those inside functions; ``from a import b`` is a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}; write it out"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def layer(dotted: str) -> str:
    """The folder (or top module) of a dotted name below cmkd."""
    name = [*dotted.split("."), ""][1]
    return name if name in LAYERS else "__init__"


def test_the_layers_are_in_order_and_complete() -> None:
    order = list(LAYERS)
    for name, below in LAYERS.items():
        assert {other.split(".")[0] for other in below} <= set(order[: order.index(name)])
    assert {layer(path.replace("/", ".").removesuffix(".py")) for path in TREES} == set(order)
    folders = {path.name for path in (ROOT / "cmkd").iterdir() if (path / "__init__.py").exists()}
    assert folders <= set(order)


@pytest.mark.parametrize("path", TREES)
def test_imports_follow_the_layers(path: str) -> None:
    own = layer(path.replace("/", ".").removesuffix(".py"))
    for name in imported(TREES[path]):
        if name.split(".")[0] != "cmkd":
            continue
        other = layer(name)
        one_module = ".".join(name.split(".")[1:3])
        assert {other, one_module} & {own, "__init__", *LAYERS[own]}, f"{path} imports {name}"


@pytest.mark.parametrize("path", [path for path in TREES if path.startswith("cmkd/report/")])
def test_parts_of_the_report_are_in_order(path: str) -> None:
    own = path.split("/")[2]
    for name in imported(TREES[path]):
        if not name.startswith("cmkd.report.") or own.removesuffix(".py") in (*BASE, "__init__"):
            assert not name.startswith("cmkd.report."), f"{path} imports {name}"
        elif own in PARTS:
            other = name.split(".")[2]
            assert other in (*PARTS[: PARTS.index(own) + 1], *BASE), f"{path} imports {name}"


@pytest.mark.parametrize("path", TREES)
def test_every_vendor_has_one_door(path: str) -> None:
    for name in imported(TREES[path]):
        door = DOORS.get(name.split(".")[0])
        assert door is None or re.fullmatch(door, path), f"{path} imports {name}"


@pytest.mark.parametrize("path", TREES)
def test_modules_are_short_documented_and_quiet(path: str) -> None:
    tree = TREES[path]
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= 400
    assert not tree.body or ast.get_docstring(tree), "no docstring at the top"
    if not path.startswith("cmkd/cli/"):
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert "print" not in names


@pytest.mark.parametrize("arguments", [["--help"], ["sweep", "--help"], ["report", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from cmkd.cli.main import main\n"
        f"sys.argv = ['cmkd', *{arguments!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"print('LOADED', sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "LOADED []"
    assert "Usage" in run.stdout


def test_every_equation_has_its_function() -> None:
    found: dict[str, list[str]] = {}
    for path, tree in TREES.items():
        if not path.startswith("cmkd/method/"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                first_line = (ast.get_docstring(node) or "").partition("\n")[0]
                if re.search(r"Eqs?\. \(", first_line):
                    for number in re.findall(r"\((\d)\)", first_line):
                        found.setdefault(number, []).append(f"{path}:{node.name}")
    assert sorted(found) == list("1234567"), found


def test_readme_and_code_name_the_same_assumptions() -> None:
    named = set()
    for path in MODULES:
        text = re.sub(
            r"\bA\d+ ?- ?A\d+\b", "", path.read_text(encoding="utf-8")
        )  # a range names no single one
        named |= set(re.findall(r"\bA(?:1[0-8]|[1-9])\b", text))
    listed = re.findall(
        r"^\| *(A\d+) *\|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(listed) == len(set(listed)), "a row twice"
    assert (set(listed), named) == (ASSUMPTIONS, ASSUMPTIONS)


def test_readme_shows_every_module() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = readme.partition("## The tree")[2].partition("## ")[0]
    modules = [path for path in TREES if not Path(path).name.startswith("__")]
    assert not [path for path in modules if not re.search(rf"\b{Path(path).name}\b", tree)]
    shown = set(re.findall(r"\b\w+\.py\b", tree))
    assert shown <= {Path(path).name for path in modules}
