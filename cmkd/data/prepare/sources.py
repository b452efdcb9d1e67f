"""A labelled folder as the user keeps it: ``CLASS/*.mp4``, or any layout with a manifest."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cmkd.config.data import OfficialPart
from cmkd.data.manifest import MANIFEST_FILE
from cmkd.errors import DataError

VIDEO_SUFFIXES = (".avi", ".mkv", ".mov", ".mp4", ".mpg", ".webm")
MANIFEST_COLUMNS = ("path", "label", "group", "split")


@dataclass(frozen=True)
class Source:
    """One video of the user's folder.

    Attributes:
        path: relative to the folder, with forward slashes.
        label: name of its class.
        group: recording, person or scene it belongs to; empty where unknown.
        split: its part in each fold, as `ClipEntry.split`; empty where the split rule decides.
        checksum: what a digest of its bytes must be, hexadecimal; empty where none is given.
    """

    path: str
    label: str
    group: str
    split: str = ""
    checksum: str = ""


@dataclass(frozen=True)
class RejectedFile:
    """A file that is not used, why, and what to do about it."""

    path: str
    reason: str
    remedy: str


@dataclass(frozen=True)
class SourceList:
    """Videos of a folder that make a data set.

    Attributes:
        sources: sorted by path.
        left_out: files that are not used.
        classes: in the order of their labels.
        mirrored: class of the horizontal mirror image where it is another class.
        official: the published data set that it is a part of, before any file was refused.
        missing: annotated clips of a published set that the user does not have.
    """

    sources: tuple[Source, ...]
    left_out: tuple[RejectedFile, ...]
    classes: tuple[str, ...]
    mirrored: Mapping[str, str]
    official: OfficialPart | None = None
    missing: int = 0


def find_sources(
    root: Path, *, given: bool = False, ignored: Collection[str] = ()
) -> tuple[tuple[Source, ...], tuple[RejectedFile, ...]]:
    """The videos of a labelled folder, sorted by path, and the files that are left out.

    A ``manifest.csv`` in the folder or beside it decides: column ``path``, and where they exist
    ``label`` (else the first folder of the path), ``group`` and ``split``; any other column is
    refused. Without one, each folder is a class and clips have no group.

    Args:
        given: take the folds from the manifest's column ``split``, as that of `ClipEntry`.
        ignored: columns of the manifest to pass over.

    Raises:
        DataError: no such folder, no videos, fewer than two classes, empty class folders, or a
            manifest whose columns or rows are wrong, lists all of them; or a folder that cannot
            be read.
    """
    try:
        return _find(root, given, ignored)
    except OSError as error:
        raise DataError(
            f"{error.filename or root}: cannot be read ({error.strerror}); check its permissions "
            "and its name"
        ) from error


def _find(
    root: Path, given: bool, ignored: Collection[str]
) -> tuple[tuple[Source, ...], tuple[RejectedFile, ...]]:
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder; give the one that holds the classes")
    inside, beside = root / MANIFEST_FILE, root.absolute().parent / MANIFEST_FILE
    manifest = next((file for file in (inside, beside) if file.is_file()), inside)
    if manifest.is_file():
        sources = _listed(root, manifest, given, ignored)
        left_out = _unlisted(root, {source.path for source in sources})
    elif given:
        raise DataError(
            f"{manifest}: there is no such file; give it a column 'split', or use folds"
        )
    else:
        sources, left_out = _scanned(root)
    classes = {source.label for source in sources}
    if len(classes) < 2:
        raise DataError(
            f"{root}: {len(sources)} videos in {len(classes)} classes; give at least two classes "
            f"as folders with videos ({', '.join(VIDEO_SUFFIXES)})"
        )
    return tuple(sorted(sources, key=lambda source: source.path)), tuple(left_out)


def _scanned(root: Path) -> tuple[list[Source], list[RejectedFile]]:
    folders = [entry for entry in sorted(root.iterdir()) if entry.is_dir() and _visible(entry)]
    sources, left_out, empty = [], [], []
    for folder in folders:
        files = [entry for entry in sorted(folder.iterdir()) if entry.is_file() and _visible(entry)]
        videos = [file for file in files if _is_video(file)]
        if not videos:
            empty.append(printable(folder.name))
        for file in files:
            path = f"{folder.name}/{file.name}"
            if not _is_video(file):
                reason = f"not one of {', '.join(VIDEO_SUFFIXES)}"
                remedy = "convert it if it is a video, else ignore this line"
                left_out.append(RejectedFile(printable(path), reason, remedy))
            elif rejected := reject_name(path):
                left_out.append(rejected)
            else:
                sources.append(Source(path, folder.name, ""))
    if empty:
        raise DataError(
            f"{root}: class folders without a video: {', '.join(empty)}; add videos "
            f"({', '.join(VIDEO_SUFFIXES)}) or remove the folders"
        )
    return sources, left_out


def _listed(root: Path, manifest: Path, given: bool, ignored: Collection[str]) -> list[Source]:
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or ()
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{manifest}: cannot be read ({error}); save it as CSV in UTF-8") from None
    unknown = [column for column in columns if column not in (*MANIFEST_COLUMNS, *ignored)]
    if unknown:
        raise DataError(
            f"{manifest}: unknown column {', '.join(map(repr, unknown))}; known: "
            f"{', '.join(MANIFEST_COLUMNS)} (persons, rooms or recordings are 'group'); rename "
            "it, or pass it over with --ignore-column"
        )
    for column in ("path", "split") if given else ("path",):
        if column not in columns:
            raise DataError(
                f"{manifest}: has no column {column!r} (found: {', '.join(columns) or 'none'}); "
                "add it"
            )
    # A manifest beside the folder may name it in its paths.
    prefix = f"{root.absolute().name}/" if manifest.parent != root else ""
    sources = [_source(row, given, prefix) for row in rows]
    problems = _problems(root, sources)
    if problems:
        raise DataError(f"{manifest}: {'; '.join(problems)}; correct these rows")
    return sources


def _source(row: dict[str, str], given: bool, prefix: str) -> Source:
    path = (row["path"] or "").strip().removeprefix(prefix)
    parts = PurePosixPath(path).parts
    folder = parts[0] if len(parts) > 1 else ""
    label, group = (row.get("label") or folder).strip(), (row.get("group") or "").strip()
    return Source(path, label, group, (row["split"] or "").strip() if given else "")


def _problems(root: Path, sources: list[Source]) -> list[str]:
    paths = [source.path for source in sources]
    outside = [path for path in paths if not _inside(path)]
    inside = [source for source in sources if source.path not in set(outside)]
    found = {
        "paths outside the folder": outside,
        "no such file": [s.path for s in inside if not (root / s.path).is_file()],
        "no label and no class folder": [s.path for s in inside if not s.label],
        "listed twice": [path for path, count in Counter(paths).items() if count > 1],
    }
    return [f"{problem}: {', '.join(paths)}" for problem, paths in found.items() if paths]


def printable(path: str) -> str:
    """A path whose bytes that are not UTF-8 are replaced."""
    return os.fsencode(path).decode(errors="replace")


def reject_name(path: str) -> RejectedFile | None:
    """Refusal of a file whose name cannot be written to a manifest; None if it can."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return RejectedFile(printable(path), "file name is not UTF-8", "rename the file")
    return None


def _inside(path: str) -> bool:
    pure = PurePosixPath(path)
    return bool(path) and not pure.is_absolute() and ".." not in pure.parts and "\\" not in path


def _unlisted(root: Path, listed: set[str]) -> list[RejectedFile]:
    found = (
        file.relative_to(root).as_posix() for file in sorted(root.rglob("*")) if _is_video(file)
    )
    return [
        RejectedFile(
            printable(path),
            f"not listed in {MANIFEST_FILE}",
            "add a row for it or ignore this line",
        )
        for path in found
        if path not in listed and not any(part.startswith(".") for part in path.split("/"))
    ]


def _is_video(file: Path) -> bool:
    return file.suffix.lower() in VIDEO_SUFFIXES and file.is_file()


def _visible(entry: Path) -> bool:
    return not entry.name.startswith(".")
