"""The cache of a worker, as far as it matters to other workers: here one that all of them share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from cmkd.config.trial import TrialConfig
from cmkd.errors import InputError

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
        from cmkd.data.datasets import open_planned

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
