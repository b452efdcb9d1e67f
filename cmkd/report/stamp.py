"""Stamp of a written report: all that it depends on, so that the same report is made once.

The stamp is a file of the cache. It holds the state of every file that the report was made from:
store, artifacts, specs, printed tables, costs and code. A report from a server has none.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from platformdirs import user_config_path
from pydantic import TypeAdapter, ValidationError

import cmkd
from cmkd.config.paths import packaged
from cmkd.errors import InfrastructureError
from cmkd.io import file_sha256, mark_used, read_record, write_record
from cmkd.report.page import Cell, Page

SETTLED_SECONDS = 2.0
"""Least age of a file: a later change may leave the same time, as clocks of disks are coarse."""
MOST_STAMPS = 20
"""Stamps that are kept; those that were not used for longest go."""
_ENVIRONMENT = ("CMKD_", "MLFLOW_", "MPL", "MATPLOTLIB", "PYTHON")


@dataclass(frozen=True)
class Shown:
    """The part of a report that the command prints: pages, tables left out, and names of files."""

    pages: tuple[Page, ...]
    left_out: tuple[str, ...]
    files: tuple[str, ...]


class Stamp:
    """Stamp of the report in `out`, made now.

    Args:
        folder: of the stamps.
        options: of the report, by name; the values are JSON or paths.
        files: that options name; some may be missing.
    """

    def __init__(
        self, folder: Path, out: Path, options: Mapping[str, object], files: Iterable[Path]
    ) -> None:
        self._started = time.time()
        self._out = out.absolute()
        self._files = [path.absolute() for path in files]
        environment = {
            name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)
        }
        key = [str(self._out), str(Path.cwd()), sys.executable, environment, options]
        text = json.dumps(key, sort_keys=True, default=str)
        self._key = hashlib.sha256(text.encode()).hexdigest()
        self._path = folder / f"{self._key[:24]}.json"

    def read(self) -> Shown | None:
        """The report in the folder; None if it is not what a new one would be."""
        try:
            kept = read_record(self._path, self._key)
            shown = TypeAdapter(Shown).validate_python(kept["shown"])
            now = {*kept["inputs"], *map(str, self._surroundings())}
            if _states(now) != kept["inputs"]:
                return None
            if any(file_sha256(self._out / name) != sum_ for name, sum_ in kept["outputs"].items()):
                return None
        except (OSError, InfrastructureError, ValidationError, KeyError, TypeError):
            return None
        mark_used(self._path)
        return shown

    def write(self, shown: Shown, outputs: Mapping[str, bytes], read: Iterable[Path]) -> None:
        """Keep the stamp of a new report.

        There is none if a file of it has changed since this object was made, or shortly before.

        Args:
            outputs: the files as they were written.
            read: files that the store and its artifacts were read from.
        """
        modules = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
        paths = {*map(str, (*read, *self._surroundings())), *filter(None, modules)}
        inputs = _states(paths)
        newest = max(int(state.split()[0]) for state in inputs.values() if state is not None)
        if newest > (self._started - SETTLED_SECONDS) * 1e9:
            return
        record = {
            "inputs": inputs,
            "outputs": {
                name: hashlib.sha256(content).hexdigest() for name, content in outputs.items()
            },
            "shown": asdict(replace(shown, pages=tuple(map(_thin, shown.pages)))),
        }
        with suppress(InfrastructureError):
            write_record(self._path, self._key, record)
        stamps = sorted(self._path.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)
        for old in stamps[:-MOST_STAMPS]:
            old.unlink(missing_ok=True)

    def _surroundings(self) -> list[Path]:
        """Files beside store and modules: specs, tables, costs, templates, installed packages."""
        package = Path(cmkd.__file__).parent
        return [
            *self._files,
            *(path for path in package.rglob("*.*") if "__pycache__" not in path.parts),
            *packaged("sweeps").glob("*.yaml"),
            *packaged("reports", "published").glob("*.yaml"),
            *Path("sweeps").absolute().glob("*.yaml"),
            *(Path(path) for path in sys.path if path.endswith("-packages")),
            *(place / "matplotlibrc" for place in (Path.cwd(), user_config_path("matplotlib"))),
        ]


def _thin(page: Page) -> Page:
    """The page with its first grid alone, as the command prints it, without ids of trials."""

    def cell(whole: Cell) -> Cell:
        return replace(whole, trials=(), links=())

    grid = page.grids[0]
    lines = tuple(replace(line, cells=tuple(map(cell, line.cells))) for line in grid.lines)
    return replace(page, grids=(replace(grid, lines=lines),), how=(), notes=(), circumstances=())


def _states(paths: Iterable[str]) -> dict[str, str | None]:
    """Times of change, size and inode of files; None for one that is not there."""
    found: dict[str, str | None] = {}
    for path in paths:
        try:
            stat = os.stat(path)
            found[path] = f"{stat.st_ctime_ns} {stat.st_mtime_ns} {stat.st_size} {stat.st_ino}"
        except OSError:
            found[path] = None
    return found
