"""A data set on disk: ``dataset.json`` and ``manifest.csv`` beside the encoded clips."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from cmkd.config.data import (
    DatasetInfo,
    EncodingConfig,
    OfficialPart,
    SplitConfig,
    ViewsConfig,
)
from cmkd.config.yaml_loader import explain
from cmkd.errors import DataError
from cmkd.io import write_text

INFO_FILE = "dataset.json"
MANIFEST_FILE = "manifest.csv"
COLUMNS = ("path", "label", "group", "split", "sha256")


@dataclass(frozen=True)
class ClipEntry:
    """One encoded clip.

    Attributes:
        path: relative to the data set's folder, with forward slashes.
        label: index into `DatasetInfo.classes`.
        group: what may not be torn between training and test; empty means on its own.
        split: ``train``, ``val``, ``test`` or ``-`` (unused) for each fold, apart by spaces; empty
            where the split rule decides.
        sha256: of the file's bytes, hexadecimal.
    """

    path: str
    label: int
    group: str
    split: str
    sha256: str


@dataclass(frozen=True)
class DatasetPlan:
    """What the maker of a data set decides before any clip is encoded."""

    name: str
    kind: Literal["embedded", "folder", "official"]
    classes: tuple[str, ...]
    encoding: EncodingConfig
    views: ViewsConfig
    split: SplitConfig
    flip_labels: dict[str, dict[str, str]]
    official: OfficialPart | None = None

    def info(self, clips: Sequence[ClipEntry]) -> DatasetInfo:
        """The identity card once the clips are known."""
        return DatasetInfo(
            name=self.name,
            kind=self.kind,
            classes=self.classes,
            encoding=self.encoding,
            views=self.views,
            split=self.split,
            flip_labels=self.flip_labels,
            digest=digest(clips, self.classes),
            official=self.official,
        )


def digest(clips: Sequence[ClipEntry], classes: Sequence[str]) -> str:
    """SHA-256 over the sorted manifest rows, so that the order of files does not matter."""
    text = "\n".join(sorted("\t".join(_row(clip, classes)) for clip in clips))
    return hashlib.sha256(text.encode()).hexdigest()


def write_dataset(root: Path, info: DatasetInfo, clips: Sequence[ClipEntry]) -> None:
    """Write manifest and identity card; the card comes last and makes the data set valid.

    Raises:
        InfrastructureError: they cannot be written.
    """
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_row(clip, info.classes) for clip in clips)
    write_text(root / MANIFEST_FILE, stream.getvalue())
    write_text(root / INFO_FILE, info.model_dump_json(indent=1) + "\n")


def read_dataset(root: Path) -> tuple[DatasetInfo, tuple[ClipEntry, ...]]:
    """Read a data set's card and manifest.

    Raises:
        DataError: a file is missing or invalid, or the manifest is not the one of the card.
    """
    card = root / INFO_FILE
    try:
        info = DatasetInfo.model_validate_json(card.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{card}: cannot be read ({error.strerror}); prepare it again") from None
    except ValidationError as error:
        problem = explain(error, DatasetInfo)[1]
        raise DataError(f"{card}: {problem}; prepare the data set again") from None
    clips = _read_manifest(root / MANIFEST_FILE, info.classes)
    if digest(clips, info.classes) != info.digest:
        raise DataError(
            f"{root / MANIFEST_FILE}: differs from the manifest {INFO_FILE} was written for; "
            "change the source and prepare the data set again"
        )
    return info, clips


def _row(clip: ClipEntry, classes: Sequence[str]) -> tuple[str, ...]:
    return clip.path, classes[clip.label], clip.group, clip.split, clip.sha256


def _read_manifest(path: Path, classes: Sequence[str]) -> tuple[ClipEntry, ...]:
    labels = {name: index for index, name in enumerate(classes)}
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        return tuple(
            ClipEntry(row["path"], labels[row["label"]], row["group"], row["split"], row["sha256"])
            for row in rows
        )
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); prepare it again") from None
    except (KeyError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: invalid ({error}); prepare the data set again") from None
