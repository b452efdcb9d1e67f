"""Data sets by name or path; embedded ones are generated on first use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cmkd.config.data import DatasetInfo
from cmkd.config.yaml_loader import suggest
from cmkd.data.manifest import INFO_FILE, ClipEntry, read_dataset
from cmkd.data.splits import Split, number_of_folds, split_clips
from cmkd.data.synthetic import RECIPES, ensure_synthetic, folder_of
from cmkd.data.workers import OnProgress
from cmkd.errors import DataError

__all__ = ["ClipEntry", "Dataset", "Split", "find_datasets", "open_dataset", "read_folder"]


@dataclass(frozen=True)
class Dataset:
    """A data set on disk, opened.

    Attributes:
        root: folder of ``dataset.json``; clip paths are relative to it.
        info: metadata.
        clips: in manifest order; splits and arrays refer to positions in it.
    """

    root: Path
    info: DatasetInfo
    clips: tuple[ClipEntry, ...]

    @property
    def id(self) -> str:
        """Content id of clips, views and split rule."""
        return self.info.id

    @property
    def num_folds(self) -> int:
        """How many folds the split rule makes."""
        return number_of_folds(self.clips, self.info.split)

    @property
    def num_groups(self) -> int:
        """Groups of clips; 0 if no clip has one."""
        return len({clip.group for clip in self.clips} - {""})

    @property
    def leak_warning(self) -> str | None:
        """Sentence for a data set without groups, to be shown wherever its accuracies are."""
        if self.num_groups or self.info.kind != "folder":
            return None
        return (
            f"{self.info.name} has no groups: clips of one person or recording may be in training "
            "and test, which makes accuracies too high; add a column 'group' to manifest.csv"
        )

    def summary(self) -> list[str]:
        """Lines for people: classes, groups, and the sizes of every fold's parts per class."""
        labels = Counter(clip.label for clip in self.clips)
        lines = [
            f"{len(self.clips)} clips, {len(labels)} classes of {_range(labels.values())}, "
            f"{self.num_groups or 'no'} groups, {self.num_folds} folds"
        ]
        for fold in range(self.num_folds):
            parts = self.split(fold)
            named = {"train": parts.train, "validate": parts.val, "test": parts.test}
            sizes = ", ".join(f"{len(part)} {name}" for name, part in named.items())
            counts = [Counter(self.clips[clip].label for clip in part) for part in named.values()]
            per_class = ", ".join(_range([of[label] for label in labels]) for of in counts)
            lines.append(f"fold {fold}: {sizes}; per class {per_class}")
        return lines + ([self.leak_warning] if self.leak_warning else [])

    def split(self, fold: int) -> Split:
        """Clip numbers of a fold's parts.

        Raises:
            DataError: no such fold, or the rule cannot be followed with these clips.
        """
        return split_clips(self.clips, self.info.classes, self.info.split, fold)


def _range(counts: Collection[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"


def read_folder(root: Path) -> Dataset:
    """Open a prepared folder.

    Raises:
        DataError: manifest or metadata missing, invalid, or of different data sets.
    """
    return Dataset(root, *read_dataset(root))


def open_dataset(
    name_or_path: str, cache: Path, *, on_progress: OnProgress | None = None
) -> Dataset:
    """Open a data set: an embedded one by name, a prepared one by path or by name in the cache.

    Args:
        on_progress: told (done, total) clips while an embedded set is generated.

    Raises:
        DataError: nothing of that name, or the folder is damaged.
    """
    if recipe := RECIPES.get(name_or_path):
        return read_folder(ensure_synthetic(recipe, cache, on_progress=on_progress))
    for root in (Path(name_or_path).expanduser(), cache / "data" / name_or_path):
        if (root / INFO_FILE).is_file():
            return read_folder(root.absolute())
    known = {*RECIPES, *find_datasets(cache)}
    raise DataError(
        f"data set {name_or_path!r} is neither known nor a folder with {INFO_FILE}"
        f"{suggest(name_or_path, known)}; prepare one with: cmkd data prepare"
    )


def open_planned(name_or_path: str, data_id: str, cache: Path) -> Dataset:
    """`open_dataset` for work that was planned on one state of the data set.

    Raises:
        DataError: it has changed since (prepared again with other folds, say).
    """
    dataset = open_dataset(name_or_path, cache)
    if dataset.id != data_id:
        raise DataError(
            f"{dataset.root}: has id {dataset.id} and not {data_id}, so it was changed after the "
            f"sweep was planned; start the sweep again"
        )
    return dataset


def find_datasets(cache: Path) -> dict[str, Path]:
    """Folders of the data sets on disk in this cache, by the name they are opened with."""
    embedded = {folder_of(recipe, cache).name: name for name, recipe in RECIPES.items()}
    folders = [path.parent for path in sorted((cache / "data").glob(f"[!.]*/{INFO_FILE}"))]
    return {embedded.get(folder.name, folder.name): folder for folder in folders}
