"""Where the workers of a sweep keep what they make."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from filelock import FileLock, Timeout

from cmkd.config.paths import usable_cache
from cmkd.config.trial import TrialConfig
from cmkd.errors import InputError

if TYPE_CHECKING:
    from cmkd.data.dataset import Dataset
    from cmkd.data.mirror import Mirror


Kind = Literal["trials", "teachers"]
"""Folders of a cache with what is trained, by id."""


class WorkerCache:
    """The cache of a worker where all workers share one: nothing has to be carried.

    Attributes:
        folder: of the cache.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, kind: Kind, config: TrialConfig) -> None:
        """Make ready what training the trial or the teacher of `config` needs.

        Raises:
            DataError: the data set cannot be had.
            InfrastructureError: the mirror does not answer.
        """

    def has_data(self, config: TrialConfig) -> bool:
        """Whether the data set of `config` is here; an embedded one is generated.

        Raises:
            DataError: it never will be: it is in another state, or lies elsewhere.
        """
        from cmkd.data.dataset import open_planned

        open_planned(config.data, config.data_id, self.folder)
        return True

    def offer_data(self, config: TrialConfig) -> None:
        """Let nodes that lack the data set fetch it."""

    def offer_weights(self, weights: Iterable[str]) -> None:
        """Let nodes that lack imported weights fetch them."""

    @contextmanager
    def probe(self, token: str) -> Iterator[None]:
        """Leave a mark that other nodes `find` inside the block."""
        with FileLock(self._mark(token)):
            yield
        self._mark(token).unlink(missing_ok=True)

    def find(self, token: str) -> None:
        """See the mark of another process.

        Raises:
            InputError: it is not seen, or its lock is not.
        """
        mark = self._mark(token)
        if not mark.is_file():
            raise InputError(
                f"does not see the cache {self.folder} of the machine that runs cmkd; mount one "
                "file system under this path on all machines, or give --storage URI"
            )
        try:
            FileLock(mark, timeout=0).acquire()
        except Timeout:
            return
        raise InputError(
            f"locks on {self.folder} do not reach it, so that two processes could write one "
            "trial; mount it with locks (NFS 4, or NFS 3 with lockd), or give --storage "
            f"{(self.folder / 'storage').as_uri()} and each machine a CMKD_CACHE of its own"
        )

    def _mark(self, token: str) -> Path:
        folder = self.folder / "locks"
        # Not made by `find`: where it is missing there is nothing to see.
        if self.folder.is_dir():
            folder.mkdir(exist_ok=True)
        return folder / f"cluster-{token}.lock"

    def keep_epoch(self, kind: Kind, key: str, epoch: int) -> None:
        """Let other nodes go on after this epoch, whose checkpoint has been written."""

    def keep_finished(self, kind: Kind, key: str, files: Sequence[Path]) -> tuple[Path, ...]:
        """Let other nodes have the finished one; returns what `bring` takes for its `files`."""
        return tuple(files)

    def bring(self, files: Sequence[Path]) -> tuple[Path, ...]:
        """Files that another node has kept, as files of this one."""
        return tuple(files)


def weights_of(configs: Iterable[TrialConfig]) -> list[str]:
    """Ids of the imported weights that trials start from, or their teachers; sorted."""
    settings = [config.setting for config in configs]
    named = {
        weights
        for one in settings
        for weights in (one.teacher.weights, one.student.weights, one.student.p_weights)
        if weights is not None
    }
    return sorted(named)


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
        from cmkd.data.decoded_cache import ensure_arrays
        from cmkd.data.workers import usable_cpus

        setting = config.setting
        dataset = self.open_data(config)
        ensure_arrays(dataset, setting.reading, self.folder, workers=usable_cpus())
        for weights in weights_of([config]):
            self._bring_weights(weights)
        if kind == "teachers":
            self.resume("teachers", config.teacher_id)
            return
        if setting.needs_teacher:
            self.resume("teachers", config.teacher_id)
        self.resume("trials", config.id)

    def open_data(self, config: TrialConfig) -> Dataset:
        """The data set of `config`, which is fetched where this node lacks it.

        Raises:
            DataError: neither this node nor the mirror has it in the state of the plan.
        """
        from cmkd.data.dataset import open_planned
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
        from cmkd.data.dataset import open_planned
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
        from cmkd.io import write_text
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
        from cmkd.training.weights import find_weights

        for one in weights:
            if self._mirror.first(f"weights/{one}") is None:
                path = find_weights(one, self.folder).path.relative_to(self.folder)
                self._mirror.put(f"weights/{one}", self.folder, [path.as_posix()])

    def _bring_weights(self, weights: str) -> None:
        from cmkd.training.weights import find_weights

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


@dataclass(frozen=True)
class Place:
    """Where the workers of a sweep keep what they make.

    Attributes:
        cache: folder of the driver; of all workers too where there is no `storage`.
        storage: URI by which nodes with caches of their own give one another what they need.
    """

    cache: Path
    storage: str | None = None

    def of_driver(self) -> WorkerCache:
        """The driver's cache."""
        return self._opened(self.cache)

    def of_worker(self) -> WorkerCache:
        """The cache of the process that asks: by its own environment where nodes have their own.

        Raises:
            InputError: it cannot be used.
        """
        return self._opened(usable_cache() if self.storage else self.cache)

    def _opened(self, folder: Path) -> WorkerCache:
        from cmkd.data.mirror import Mirror

        return MirroredCache(folder, Mirror(self.storage)) if self.storage else WorkerCache(folder)
