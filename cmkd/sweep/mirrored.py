"""The cache of one node, mirrored at a URI so that any other node can go on.

In the mirror lie ``data/ID`` and ``weights/ID``, and of each trial and teacher
``trials/ID/epoch-00007`` (its checkpoint) and ``trials/ID/finished``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from cmkd.config.trial import TrialConfig
from cmkd.errors import InputError
from cmkd.sweep.caches import Kind, WorkerCache, weights_of

if TYPE_CHECKING:
    from cmkd.data.datasets import Dataset
    from cmkd.data.mirror import Mirror

DONE = {"trials": "outcome.json", "teachers": "summary.json"}
"""The file that is written last of a finished one."""
RESULTS = frozenset({".json", ".csv", ".safetensors"})
"""Kinds of files that are kept of a finished one."""
FINISHED, EPOCH = "finished", "epoch-"
NOTE = "mirrored"
"""In a folder of the cache: the epoch of the newest checkpoint that it knows of in the mirror."""


class MirroredCache(WorkerCache):
    """The cache of one node, mirrored at a URI as far as other nodes need it."""

    def __init__(self, folder: Path, mirror: Mirror) -> None:
        super().__init__(folder)
        self._mirror = mirror

    def open(self, kind: Kind, config: TrialConfig) -> None:
        """As of `WorkerCache`; clips are decoded here, once per node."""
        from cmkd.data.arrays import ensure_arrays
        from cmkd.data.pool import usable_cpus

        setting = config.setting
        dataset = self.open_data(config)
        ensure_arrays(dataset, setting.reading, self.folder, workers=usable_cpus())
        for weights in weights_of([config]):
            self._bring_weights(weights)
        if kind == "teachers":
            self.resume("teachers", config.teacher_id)
            return
        if setting.model == "student" and setting.method.needs_teacher:
            self.resume("teachers", config.teacher_id)
        self.resume("trials", config.id)

    def open_data(self, config: TrialConfig) -> Dataset:
        """The data set of `config`, which is fetched where this node lacks it.

        Raises:
            DataError: neither this node nor the mirror has it in the state of the plan.
        """
        from cmkd.data.datasets import open_planned
        from cmkd.data.manifest import INFO_FILE

        with self._locked(self.folder / "data" / f".{config.data_id}.lock"):
            if self._lacks(config):
                target = self.folder / "data" / config.data
                self._mirror.fetch(f"data/{config.data_id}", target, last=INFO_FILE)
        return open_planned(config.data, config.data_id, self.folder)

    def has_data(self, config: TrialConfig) -> bool:
        """As of `WorkerCache`; false for a prepared set that can be fetched by its name."""
        return not self._lacks(config) and super().has_data(config)

    def _lacks(self, config: TrialConfig) -> bool:
        from cmkd.data.manifest import INFO_FILE
        from cmkd.data.synthetic import RECIPES

        # A path that is absolute stays so when it is joined to another.
        card = self.folder / "data" / config.data / INFO_FILE
        elsewhere = config.data in RECIPES or Path(config.data).is_absolute()
        return not elsewhere and not card.is_file()

    def offer_data(self, config: TrialConfig) -> None:
        """As of `WorkerCache`; nothing is sent that is in the mirror."""
        from cmkd.data.datasets import open_planned
        from cmkd.data.manifest import INFO_FILE, MANIFEST_FILE

        dataset = open_planned(config.data, config.data_id, self.folder)
        if self._mirror.first(name := f"data/{dataset.id}") is None:
            clips = [clip.path for clip in dataset.clips]
            self._mirror.put(name, dataset.root, [INFO_FILE, MANIFEST_FILE, *clips])

    @contextmanager
    def probe(self, token: str) -> Iterator[None]:
        """As of `WorkerCache`, in the mirror."""
        self._leave_mark(token)
        try:
            yield
        finally:
            self._mirror.drop(f"probes/{token}")

    def find(self, token: str) -> None:
        """As of `WorkerCache`; leaves a mark too, as nodes have to write."""
        if self._mirror.first(f"probes/{token}") is None:
            raise InputError(
                f"does not see in {self._mirror.uri} what the machine that runs cmkd has put "
                "there; give a --storage that is the same place on all machines"
            )
        self._leave_mark(token)

    def _leave_mark(self, token: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "mark").touch()
            self._mirror.put(f"probes/{token}", Path(folder), ["mark"])

    def keep_epoch(self, kind: Kind, key: str, epoch: int) -> None:
        """As of `WorkerCache`; the two newest checkpoints stay in the mirror."""
        from cmkd.data.files import write_text
        from cmkd.training.checkpoint import CURRENT

        folder = self.folder / kind / key
        if not (folder / CURRENT).is_file():
            return
        self._mirror.put(f"{kind}/{key}/{EPOCH}{epoch:05d}", folder, [CURRENT])
        write_text(folder / NOTE, str(epoch))
        self._drop_epochs(kind, key, before=epoch - 1)

    def keep_finished(self, kind: Kind, key: str, files: Sequence[Path]) -> tuple[Path, ...]:
        """As of `WorkerCache`; what is returned are names of files in the mirror."""
        folder, name = self.folder / kind / key, f"{kind}/{key}/{FINISHED}"
        version = self._mirror.first(name)
        if version is None or not self._mirror.has(version, folder / DONE[kind]):
            kept = [one.name for one in folder.iterdir() if one.suffix in RESULTS]
            version = self._mirror.put(name, folder, kept)
        self._drop_epochs(kind, key)
        return tuple(Path(version, path.name) for path in files)

    def bring(self, files: Sequence[Path]) -> tuple[Path, ...]:
        """As of `WorkerCache`: files of ``KIND/ID/finished/TOKEN`` into ``KIND/ID``.

        Raises:
            InfrastructureError: they cannot be had.
        """
        for version in dict.fromkeys(path.parent for path in files):
            names = [path.name for path in files if path.parent == version]
            self._mirror.fetch_files(version.as_posix(), self._folder_of(version), names)
        return tuple(self._folder_of(path.parent) / path.name for path in files)

    def offer_weights(self, weights: Iterable[str]) -> None:
        """As of `WorkerCache`."""
        from cmkd.training.weights.pretrained import find_weights

        for one in weights:
            if self._mirror.first(f"weights/{one}") is None:
                path = find_weights(one, self.folder).path.relative_to(self.folder)
                self._mirror.put(f"weights/{one}", self.folder, [path.as_posix()])

    def _bring_weights(self, weights: str) -> None:
        from cmkd.training.weights.pretrained import find_weights

        try:
            find_weights(weights, self.folder)
        except InputError:
            if not self._mirror.fetch(f"weights/{weights}", self.folder):
                raise

    def resume(self, kind: Kind, key: str) -> None:
        """Fetch the finished one, or a checkpoint that is newer than what this node has."""
        from cmkd.training.checkpoint import CURRENT, drop_checkpoints

        folder, finished = self.folder / kind / key, f"{kind}/{key}/{FINISHED}"
        # The lock of a teacher's training; a trial's own is held by the worker already.
        with self._locked(folder / "lock"):
            done = folder / DONE[kind]
            first = self._mirror.first(finished)
            if done.is_file() and first and not self._mirror.has(first, done):
                # Trained twice, once by a node that was thought dead: all nodes use the first.
                _empty(folder)
            if done.is_file() or self._mirror.fetch(finished, folder, last=done.name):
                return
            note = folder / NOTE
            known = int(note.read_text(encoding="utf-8")) if note.is_file() else 0
            for epoch in reversed(self._epochs(kind, key)):
                if epoch <= known:
                    return
                drop_checkpoints(folder)
                if self._mirror.fetch(f"{kind}/{key}/{EPOCH}{epoch:05d}", folder, last=CURRENT):
                    note.write_text(str(epoch), encoding="utf-8")
                    return

    def _epochs(self, kind: Kind, key: str) -> list[int]:
        names = self._mirror.names(f"{kind}/{key}")
        return sorted(int(one.removeprefix(EPOCH)) for one in names if one.startswith(EPOCH))

    def _drop_epochs(self, kind: Kind, key: str, before: int | None = None) -> None:
        for epoch in self._epochs(kind, key):
            if before is None or epoch < before:
                self._mirror.drop(f"{kind}/{key}/{EPOCH}{epoch:05d}")

    def _folder_of(self, version: Path) -> Path:
        kind, key = version.parts[:2]
        return self.folder / kind / key

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path):
            yield


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()
