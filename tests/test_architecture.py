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
# so no circle between folders is possible. "tracking.store" opens that one module; everybody
# may read the version in "__init__".
LAYERS: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "machine": set(),
    "io": {"errors", "machine"},
    "provenance": {"errors", "io"},
    "stats": {"errors"},
    "config": {"errors", "io"},
    "data": {"errors", "io", "machine", "config"},
    "backbones": {"errors", "config"},
    "tracking": {"errors", "io", "machine", "config"},
    "results": {"errors", "config", "tracking"},
    "method": {"errors", "config", "backbones"},
    "training": {
        *("errors", "io", "machine", "provenance", "config", "data"),
        *("backbones", "tracking.store", "method"),
    },
    "predict": {"errors", "io", "config", "data", "tracking", "method", "training"},
    "export": {"errors", "io", "data", "training", "predict"},
    "mlflow_model": {"errors", "tracking", "training", "predict"},
    "sweep": {
        *("errors", "io", "machine", "provenance", "stats", "config", "data"),
        *("backbones", "tracking", "method", "training"),
    },
    "report": {"errors", "io", "provenance", "stats", "config", "tracking", "results"},
    "api": {"errors", "machine", "config", "sweep", "report"},
    "cli": {
        *("errors", "io", "machine", "config", "data", "tracking", "training", "predict"),
        *("export", "mlflow_model", "sweep", "report", "api"),
    },
    "__main__": {"cli"},
}
DOORS: dict[str, str] = {
    "av": r"cmkd/data/(mpeg4|video)\.py",
    "ray": r"cmkd/sweep/(ray_engine|tune_adapter|worker|cluster)\.py",
    "mlflow": r"cmkd/(tracking/mlflow_(store|calls)|mlflow_model)\.py",
    "matplotlib": r"cmkd/report/figures/\w+\.py",
    "typer": r"cmkd/cli/\w+\.py",
    "sklearn": r"cmkd/data/splits\.py|cmkd/training/references\.py",
    "numba": r"cmkd/data/native\.py",
    "optuna": r"cmkd/sweep/search\.py",
    "scipy": r"cmkd/stats\.py",
    "torch": r"cmkd/((data|backbones|method|training|sweep)/(\w+/)?\w+|predict|export)\.py",
}
HEAVY = (
    *("torch", "ray", "mlflow", "optuna", "pandas", "matplotlib", "av", "numba"),
    *("sklearn", "scipy"),
)


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of all imports, also of those inside functions; ``from a import b`` is a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}; write it out"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULE_NAMES = {_module(path) for path in TREES}


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


def test_no_module_imports_itself_by_way_of_others() -> None:
    below = {
        _module(path): {
            found
            for name in imported(tree)
            for found in (name, name.rpartition(".")[0])
            if found in MODULE_NAMES
        }
        for path, tree in TREES.items()
    }
    while leaves := {module for module, needs in below.items() if not needs & below.keys()}:
        below = {module: needs for module, needs in below.items() if module not in leaves}
    assert not below, f"import circle among {sorted(below)}"


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
