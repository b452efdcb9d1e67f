"""Data sets on disk, opened by name or path; embedded ones are generated on first use.

A folder holds ``dataset.json`` and ``manifest.csv`` beside the encoded clips.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path

from pydantic import ValidationError

from cmkd.config.data import DatasetInfo
from cmkd.config.yaml_loader import explain, suggest
from cmkd.data.splits import ClipEntry, Split, number_of_folds, split_clips
from cmkd.data.synthetic import RECIPES, SyntheticRecipe, draw_clips
from cmkd.data.workers import OnProgress
from cmkd.errors import DataError
from cmkd.io import locked, make_folder, publish_folder, write_text
from cmkd.machine import usable_cpus

INFO_FILE = "dataset.json"
MANIFEST_FILE = "manifest.csv"
_COLUMNS = ("path", "label", "group", "split", "sha256")
_AGAIN = "prepare the data set again"


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
        """Folds that the split rule makes."""
        return number_of_folds(self.clips, self.info.split)

    @property
    def num_groups(self) -> int:
        """Groups of clips; 0 if no clip has one."""
        return len({clip.group for clip in self.clips} - {""})

    @cached_property
    def split_warning(self) -> str | None:
        """Sentence for a folder without groups, or with a single one in validation.

        It is shown wherever accuracies are.
        """
        if self.info.kind != "folder":
            return None
        if not self.num_groups:
            return (
                f"{self.info.name} has no groups: clips of one person or recording may be in "
                "training and test, which makes accuracies too high; add a column 'group' to "
                "manifest.csv"
            )
        groups = [
            {self.clips[clip].group or clip for clip in self.split(fold).val}
            for fold in range(self.num_folds)
        ]
        single = sum(len(held) == 1 for held in groups)
        if not single:
            return None
        return (
            f"{self.info.name}: the validation clips of {single} of {self.num_folds} folds are a "
            "single group, by which the epoch of every trial is selected; compare last epochs as "
            "well, or mark clips of several groups as val (column 'split' of manifest.csv, --given)"
        )

    @cached_property
    def has_validation(self) -> bool:
        """Whether every fold has clips for validation."""
        return all(self.split(fold).val for fold in range(self.num_folds))

    def summary(self) -> list[str]:
        """Lines for people: classes, groups, and the sizes of every fold's parts per class."""
        labels = Counter(clip.label for clip in self.clips)
        lines = [
            f"{len(self.clips)} clips, {len(labels)} classes of {_range(labels.values())} clips "
            f"each, {self.num_groups or 'no'} groups, {self.num_folds} folds"
        ]
        for fold in range(self.num_folds):
            parts = self.split(fold)
            named = {"train": parts.train, "validate": parts.val, "test": parts.test}
            sizes = ", ".join(f"{len(part)} {name}" for name, part in named.items())
            counts = [Counter(self.clips[clip].label for clip in part) for part in named.values()]
            per_class = ", ".join(_range([of[label] for label in labels]) for of in counts)
            lines.append(f"fold {fold}: {sizes}; per class {per_class}")
        return lines + ([self.split_warning] if self.split_warning else [])

    def split(self, fold: int) -> Split:
        """Clip numbers of a fold's parts.

        Raises:
            DataError: no such fold, or the rule cannot be followed with these clips.
        """
        return split_clips(self.clips, self.info.classes, self.info.split, fold)


def _range(counts: Collection[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low}" if low == high else f"{low} to {high}"


def digest(clips: Iterable[ClipEntry], classes: Sequence[str]) -> str:
    """SHA-256 over the sorted manifest rows, so that the order of files does not matter."""
    text = "\n".join(sorted("\t".join(_row(clip, classes)) for clip in clips))
    return hashlib.sha256(text.encode()).hexdigest()


def _row(clip: ClipEntry, classes: Sequence[str]) -> tuple[str, ...]:
    return clip.path, classes[clip.label], clip.group, clip.split, clip.sha256


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """CSV with a head and line feeds."""
    stream = StringIO(newline="")
    csv.writer(stream, lineterminator="\n").writerows([columns, *rows])
    return stream.getvalue()


def write_dataset(root: Path, info: DatasetInfo, clips: Sequence[ClipEntry]) -> None:
    """Write manifest and metadata; the latter come last and make the data set valid.

    Args:
        info: its digest is replaced by that of the clips.

    Raises:
        InfrastructureError: they cannot be written.
    """
    info = info.model_copy(update={"digest": digest(clips, info.classes)})
    rows = (_row(clip, info.classes) for clip in clips)
    write_text(root / MANIFEST_FILE, csv_text(_COLUMNS, rows))
    write_text(root / INFO_FILE, info.model_dump_json(indent=1) + "\n")


def read_folder(root: Path) -> Dataset:
    """Open a prepared folder.

    Raises:
        DataError: manifest or metadata missing, invalid, of different data sets, or naming clips
            outside the folder.
    """
    path = root / INFO_FILE
    try:
        info = DatasetInfo.model_validate_json(path.read_text(encoding="utf-8"))
        path = root / MANIFEST_FILE
        labels = {name: index for index, name in enumerate(info.classes)}
        with path.open(encoding="utf-8", newline="") as stream:
            clips = tuple(
                ClipEntry(
                    row["path"], labels[row["label"]], row["group"], row["split"], row["sha256"]
                )
                for row in csv.DictReader(stream)
            )
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})", _AGAIN) from None
    except ValidationError as error:
        raise DataError(f"{path}: {explain(error, DatasetInfo)}", _AGAIN) from None
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: invalid ({error})", _AGAIN) from None
    if outside := [clip.path for clip in clips if not is_inside(clip.path)]:
        raise DataError(
            f"{path}: names {outside[0]!r}, which is not below {root}",
            "take the data set from who made it, or prepare it yourself",
        )
    if digest(clips, info.classes) != info.digest:
        raise DataError(
            f"{path}: differs from the manifest {INFO_FILE} was written for",
            "change the source and prepare the data set again",
        )
    return Dataset(root, info, clips)


def is_inside(path: str) -> bool:
    """True if a path of a manifest stays below its folder, on every operating system."""
    leaves = path.startswith("/") or ".." in path.split("/") or "\\" in path
    return bool(path) and not leaves


def open_dataset(
    name_or_path: str, cache: Path, *, on_progress: OnProgress | None = None
) -> Dataset:
    """Open a data set: an embedded one by name, a prepared one by path or by name in the cache.

    Args:
        on_progress: told (done, total) clips while an embedded set is generated.

    Raises:
        DataError: nothing of that name, the folder is damaged or that of another data set.
    """
    if recipe := RECIPES.get(name_or_path):
        dataset = read_folder(ensure_synthetic(recipe, cache, on_progress=on_progress))
        if dataset.info != recipe.info.model_copy(update={"digest": dataset.info.digest}):
            raise _swapped(dataset, "remove the folder, and it is drawn anew")
        return dataset
    if (path := Path(name_or_path).expanduser() / INFO_FILE).is_file():
        return read_folder(path.parent.absolute())
    if (cache / "data" / name_or_path / INFO_FILE).is_file():
        dataset = read_folder((cache / "data" / name_or_path).absolute())
        if dataset.info.name != name_or_path:
            raise _swapped(dataset, f"rename the folder to {dataset.info.name}, or give its path")
        return dataset
    known = {*RECIPES, *find_datasets(cache)}
    raise DataError(
        f"data set {name_or_path!r} is neither known nor a folder with {INFO_FILE}"
        f"{suggest(name_or_path, known)}",
        "prepare one with: cmkd data prepare",
    )


def _swapped(dataset: Dataset, remedy: str) -> DataError:
    return DataError(f"{dataset.root}: holds the data set {dataset.info.name!r}", remedy)


def open_planned(name_or_path: str, data_id: str, cache: Path) -> Dataset:
    """`open_dataset` for work that was planned on one state of the data set.

    Raises:
        DataError: it has changed since (prepared again with other folds, say).
    """
    dataset = open_dataset(name_or_path, cache)
    if dataset.id != data_id:
        raise DataError(
            f"{dataset.root}: has id {dataset.id} and not {data_id}, so it was changed after the "
            "sweep was planned",
            "start the sweep again",
        )
    return dataset


def find_datasets(cache: Path) -> dict[str, Path]:
    """Folders of the data sets on disk in this cache, by the name they are opened with."""
    embedded = {folder_of(recipe, cache).name: name for name, recipe in RECIPES.items()}
    folders = [path.parent for path in sorted((cache / "data").glob(f"[!.]*/{INFO_FILE}"))]
    return {embedded.get(folder.name, folder.name): folder for folder in folders}


def folder_of(recipe: SyntheticRecipe, cache: Path) -> Path:
    """Folder of the recipe's clips once they are generated."""
    return cache / "data" / f"{recipe.name}-{recipe.id}"


def ensure_synthetic(
    recipe: SyntheticRecipe,
    cache: Path,
    *,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> Path:
    """Generate the clips unless the cache has them; safe to call from several processes.

    Args:
        workers: processes; None uses every CPU.

    Returns:
        The data set's folder. It appears complete or not at all.

    Raises:
        InputError: the cache cannot be written.
        InfrastructureError: the disk is full.
    """
    folder = folder_of(recipe, cache)
    make_folder(folder.parent)
    with locked(folder.with_name(f".{folder.name}.lock")):
        if not (folder / INFO_FILE).exists():
            draft = folder.with_name(f".{folder.name}.tmp")
            shutil.rmtree(draft, ignore_errors=True)
            try:
                clips = draw_clips(recipe, draft, workers or usable_cpus(), on_progress)
                write_dataset(draft, recipe.info, clips)
                publish_folder(draft, folder)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return folder
