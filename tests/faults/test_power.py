"""Power that fails, and a disk that is full, at every sync and every move of each writer."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmkd.errors import InfrastructureError
from cmkd.io import load_array, publish_folder, write_text
from cmkd.provenance import makers, sign
from cmkd.report.build import write_files
from cmkd.training.checkpoint import load_checkpoint, save_checkpoint
from cmkd.training.outcome import read_finished, write_finished

OLD, NEW = "old " * 500, "new " * 500
Tree = dict[str, "bytes | Tree"]


class PowerCut(BaseException):
    """The machine is off."""


class Disk:
    """A folder whose disk fails at the n-th sync or move.

    Kept after a power cut is what was synced: of a file its content at the last sync, of a folder
    the names in it. Other content is zeros; other names are lost, or kept as they came last, both
    of which file systems do.

    Attributes:
        calls: syncs and moves so far.
        fails_at: number of the one that fails; 0: none.
        error: what it raises.
        watch: called before each of them.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.calls = self.fails_at = 0
        self.error: BaseException = PowerCut()
        self.watch: Callable[[], None] = lambda: None
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        # Held open, so that no number of a removed file is given to another one.
        self._held: dict[int, int] = {}
        self._folders: set[int] = set()
        for name in ("replace", "rename"):
            patch.setattr(os, name, self._counted(getattr(os, name)))
        patch.setattr(
            os, "fsync", self._counted(lambda handle: self._keep(Path(f"/proc/self/fd/{handle}")))
        )

    def _counted(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self.calls += 1
            self.watch()
            if self.calls == self.fails_at:
                raise self.error
            return act(*arguments)

        return counted

    def settle(self) -> None:
        """Keep everything as it is now."""
        for folder, _, files in os.walk(self.root):
            for path in (Path(folder), *(Path(folder, name) for name in files)):
                self._keep(path)

    def _keep(self, path: Path) -> None:
        number = path.stat().st_ino
        self._held.setdefault(number, os.open(path, os.O_RDONLY))
        if not path.is_dir():
            self._contents[number] = path.read_bytes()
            return
        self._folders.add(number)
        self._names[number] = {one.name: one.stat().st_ino for one in path.resolve().iterdir()}

    def left(self, *, names_last: bool) -> Tree:
        """What was synced until now."""
        sizes: dict[int, int] = {}
        for folder, folders, files in os.walk(self.root):
            paths = [Path(folder, name) for name in (*folders, *files)]
            self._folders |= {path.stat().st_ino for path in paths if path.is_dir()}
            sizes |= {path.stat().st_ino: path.stat().st_size for path in paths if path.is_file()}
            if names_last:
                number = Path(folder).stat().st_ino
                self._names[number] = {path.name: path.stat().st_ino for path in paths}

        def left(number: int) -> bytes | Tree:
            if number in self._folders:
                return {name: left(one) for name, one in self._names.get(number, {}).items()}
            return self._contents.get(number, bytes(sizes.get(number, 0)))

        tree = left(self.root.stat().st_ino)
        assert isinstance(tree, dict)
        return tree

    def cut(self, *, names_last: bool) -> None:
        """Leave what was synced."""
        restore(self.root, self.left(names_last=names_last))

    def close(self) -> None:
        for handle in self._held.values():
            os.close(handle)


def restore(folder: Path, tree: Tree) -> None:
    """Make a folder hold this and nothing else."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    _lay_out(folder, tree)


def _lay_out(folder: Path, tree: Tree) -> None:
    for name, content in tree.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            (folder / name).mkdir()
            _lay_out(folder / name, content)


class Writer:
    """A writer of the cache or of a report, and what a reader then finds: OLD, NEW or nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, text: str) -> None:
        raise NotImplementedError

    def read(self) -> str | None:
        raise NotImplementedError


class Checkpoints(Writer):
    def write(self, text: str) -> None:
        save_checkpoint(self.folder, "t", {"text": text})

    def read(self) -> str | None:
        state, _ = load_checkpoint(self.folder, "t")
        return None if state is None else str(state["text"])


class Outcomes(Writer):
    def write(self, text: str) -> None:
        sign(self.folder)
        write_text(self.folder / "config.json", text)
        write_text(self.folder / "predictions.csv", text)
        write_finished(
            self.folder / "outcome.json", "t", ("config.json", "predictions.csv"), {"text": text}
        )

    def read(self) -> str | None:
        with suppress(FileNotFoundError, InfrastructureError):
            found = str(read_finished(self.folder / "outcome.json", "t")["text"])
            assert (self.folder / "predictions.csv").read_text() == found
            assert makers(self.folder)
            return found
        return None


class Features(Writer):
    """Written through a map that nobody syncs, and told by their digests."""

    def write(self, text: str) -> None:
        array = np.lib.format.open_memmap(self.folder / "h.npy", "w+", np.uint8, (len(text),))
        array[:] = np.frombuffer(text.encode(), np.uint8)
        array.flush()
        write_finished(self.folder / "features.json", "t", ("h.npy",), {})

    def read(self) -> str | None:
        with suppress(FileNotFoundError, InfrastructureError):
            read_finished(self.folder / "features.json", "t")
            return bytes(load_array(self.folder / "h.npy")).decode()
        return None


class Arrays(Writer):
    def write(self, text: str) -> None:
        draft = self.folder / ".arrays.tmp"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        (draft / "labels.npy").write_text(text)
        (draft / "ready.json").write_text(text)
        publish_folder(draft, self.folder / "arrays")

    def read(self) -> str | None:
        if not (self.folder / "arrays").is_dir():
            return None
        (found,) = {path.read_text() for path in (self.folder / "arrays").iterdir()}
        assert len(list((self.folder / "arrays").iterdir())) == 2
        return found


class Manifests(Writer):
    def write(self, text: str) -> None:
        write_text(self.folder / "manifest.csv", text)

    def read(self) -> str | None:
        path = self.folder / "manifest.csv"
        return path.read_text() if path.is_file() else None


class Reports(Writer):
    def write(self, text: str) -> None:
        write_files(self.folder, dict.fromkeys(("a.md", "b.csv"), text.encode()))

    def read(self) -> str | None:
        found = {path.read_text() for path in self.folder.glob("[ab].*")}
        assert found <= {OLD, NEW}, "each file is whole"
        return OLD if OLD in found else NEW if found else None


WRITERS = (Checkpoints, Outcomes, Features, Arrays, Manifests, Reports)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk", monkeypatch)
    yield disk
    disk.close()


def failures(disk: Disk, writer: Writer, before: str | None) -> Iterator[int]:
    """Fail at the first call of `writer`, then at the second, until it makes no more of them."""
    while True:
        number = disk.fails_at + 1
        shutil.rmtree(disk.root)
        disk.root.mkdir()
        disk.fails_at = 0
        if before is not None:
            writer.write(before)
        disk.settle()
        disk.calls, disk.fails_at = 0, number
        try:
            writer.write(NEW)
        except (PowerCut, OSError, InfrastructureError):
            pass
        if disk.calls < number:
            assert number > 2
            return
        disk.calls = 0
        yield number
        disk.fails_at = number


@pytest.mark.parametrize("names_last", [False, True])
@pytest.mark.parametrize("before", [None, OLD])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_power_cut_leaves_the_old_or_the_new_and_never_a_mixture(
    disk: Disk, kind: type[Writer], before: str | None, names_last: bool
) -> None:
    writer = kind(disk.root)
    for number in failures(disk, writer, before):
        disk.fails_at = 0
        disk.cut(names_last=names_last)
        found = writer.read()
        # A mixture is none, which is said; what can be made again is then made again.
        assert found in (before, NEW, None), f"call {number}"
        if kind in (Checkpoints, Manifests, Reports):
            assert found is not None or before is None, f"call {number}: the old one is lost"
        writer.write(NEW)
        assert writer.read() == NEW, f"call {number}"


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_at_any_call_leaves_the_old_or_the_new(disk: Disk, kind: type[Writer]) -> None:
    disk.error = OSError(errno.ENOSPC, "No space left on device")
    writer = kind(disk.root)
    for number in failures(disk, writer, OLD):
        disk.fails_at = 0
        assert writer.read() in (OLD, NEW, None), f"call {number}"
        writer.write(NEW)
        assert writer.read() == NEW, f"call {number}"
        assert not [*disk.root.rglob("*.partial")], "no draft stays behind"
