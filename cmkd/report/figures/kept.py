"""Pictures of a table kept in the cache, and drawn anew once a value that they show has changed.

Imports no matplotlib, which takes a second to load.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

import cmkd
from cmkd.errors import InfrastructureError
from cmkd.io import mark_used, write_text
from cmkd.provenance import code_digest
from cmkd.report.page import Picture
from cmkd.report.tables import Table
from cmkd.tracking.reader import RunReader
from cmkd.tracking.store import History, RunRecord

MOST_KEPT = 50
"""Tables whose pictures are kept; those that were not used for longest go."""

Question = tuple[str, list[Any], str]
"""Method of a reader, its arguments, and the digest of its answer."""


class PictureCache:
    """Pictures of tables in `folder`, one file a table; for one report."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._contents = Contents()
        versions = [version(name) for name in ("matplotlib", "numpy")]
        self._drawn_by = [*versions, code_digest(Path(cmkd.__file__).parent, skipped=())]

    def pictures(
        self, table: Table, draw: Callable[[Table], Sequence[Picture]], options: str
    ) -> Sequence[Picture]:
        """Pictures of `table` that show what the store has now: kept ones, else drawn and kept.

        Args:
            options: of `draw`.
        """
        bare = replace(table, store=None, server=None)
        name = self._contents.digest([bare, self._drawn_by, options])
        path = self._folder / f"{name[:24]}.json"
        if (pictures := _read(path, table.store)) is not None:
            mark_used(path)
            return pictures
        noted = NotedReader(table.store) if table.store is not None else None
        pictures = draw(replace(table, store=noted))
        with suppress(InfrastructureError):
            _write(path, pictures, noted.asked if noted is not None else [])
        return pictures


class NotedReader(RunReader):
    """Reader that notes every question with a digest of its answer."""

    def __init__(self, store: RunReader) -> None:
        self.asked: list[Question] = []
        self._store = store

    def find(self, tags: Mapping[str, str]) -> Sequence[RunRecord]:
        found: Sequence[RunRecord] = self._ask("find", dict(tags))
        return found

    def read_text(self, run_id: str, name: str) -> str:
        text: str = self._ask("read_text", run_id, name)
        return text

    def histories(self, run_ids: Sequence[str], name: str) -> Mapping[str, History]:
        found: Mapping[str, History] = self._ask("histories", list(run_ids), name)
        return found

    def metric_arrays(
        self, run_ids: Sequence[str], names: Sequence[str] | None = None
    ) -> Mapping[str, np.ndarray]:
        arguments = list(run_ids), None if names is None else list(names)
        found: Mapping[str, np.ndarray] = self._ask("metric_arrays", *arguments)
        return found

    def _ask(self, method: str, *arguments: Any) -> Any:
        answer, digest = _answer(self._store, method, arguments)
        self.asked.append((method, list(arguments), digest))
        if isinstance(answer, InfrastructureError):
            raise answer
        return answer


def _answer(store: RunReader, method: str, arguments: Sequence[Any]) -> tuple[Any, str]:
    """Answer of the store and its digest; a file that is lost is an answer as well."""
    try:
        answer = getattr(store, method)(*arguments)
    except InfrastructureError as lost:
        return lost, "lost"
    return answer, Contents().digest(answer)


class Contents:
    """Digests of nested values: configs, dataclasses, arrays, mappings, sets and sequences.

    Equal values have equal digests in every process. An object that occurs twice is read once.
    """

    def __init__(self) -> None:
        # Objects are kept with their digests, so that no other one gets their id.
        self._known: dict[int, tuple[object, str]] = {}

    def digest(self, value: Any) -> str:
        """Digest of `value`; TypeError for a kind that is not known here."""
        if value is None or isinstance(value, str | int | float | Path | np.generic):
            return f"{type(value).__name__} {value!s}"
        if id(value) not in self._known:
            text = "\0".join([type(value).__name__, *self._parts(value)])
            self._known[id(value)] = value, hashlib.sha256(text.encode()).hexdigest()
        return self._known[id(value)][1]

    def _parts(self, value: Any) -> list[str]:
        if isinstance(value, np.ndarray):
            return [str(value.dtype), str(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
        if isinstance(value, BaseModel):
            return [value.model_dump_json()]
        if is_dataclass(value):
            return [self.digest(getattr(value, field.name)) for field in fields(value)]
        if isinstance(value, Mapping):
            return [self.digest(part) for pair in value.items() for part in pair]
        if isinstance(value, AbstractSet):
            return sorted(map(self.digest, value))
        if isinstance(value, Sequence):
            return list(map(self.digest, value))
        raise TypeError(f"values of {type(value).__name__} have no digest")


def _write(path: Path, pictures: Sequence[Picture], asked: Sequence[Question]) -> None:
    kept = [
        {
            name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for name, value in asdict(picture).items()
        }
        for picture in pictures
    ]
    text = json.dumps({"asked": asked, "pictures": kept})
    # A report is lost to no power cut: a damaged file is drawn again.
    write_text(path, f"{_sha256(text)}\n{text}", durable=False)
    newest = sorted(path.parent.glob("*.json"), key=lambda one: one.stat().st_mtime)
    for old in newest[:-MOST_KEPT]:
        old.unlink(missing_ok=True)


def _read(path: Path, store: RunReader | None) -> Sequence[Picture] | None:
    """Pictures of the file; None if it is absent or damaged, or the store answers otherwise."""
    try:
        checksum, _, text = path.read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    if checksum != _sha256(text):
        return None
    found = json.loads(text)
    for method, arguments, digest in found["asked"]:
        if store is None or _answer(store, method, arguments)[1] != digest:
            return None
    kept: list[dict[str, Any]] = found["pictures"]
    for picture in kept:
        picture |= {name: base64.b64decode(picture[name]) for name in ("svg", "png", "pdf")}
    return [Picture(**picture) for picture in kept]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
