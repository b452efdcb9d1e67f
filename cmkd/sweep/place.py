"""Where the workers of a sweep keep what they make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cmkd.config.paths import usable_cache
from cmkd.sweep.caches import WorkerCache
from cmkd.sweep.mirrored import MirroredCache


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
