"""Videos of the user's folder: ``CLASS/*.mp4``, a manifest, or a published set's annotations."""

from __future__ import annotations

import csv
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cmkd.config.data import OfficialPart
from cmkd.data.annotations import OFFICIAL, Annotations, OfficialSet
from cmkd.data.dataset import MANIFEST_FILE, is_inside
from cmkd.errors import DataError, FileError, InputError

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
    """

    path: str
    label: str
    group: str
    split: str = ""


@dataclass(frozen=True)
class SourceList:
    """Videos of a folder that make a data set.

    Attributes:
        sources: sorted by path.
        left_out: files that are not used.
        classes: in the order of their labels.
        mirrored: class of the horizontal mirror image where it is another class.
        official: published data set that it is a part of, before any file was refused.
        missing: annotated clips of a published set that the user does not have.
    """

    sources: tuple[Source, ...]
    left_out: tuple[FileError, ...]
    classes: tuple[str, ...]
    mirrored: Mapping[str, str] = field(default_factory=dict)
    official: OfficialPart | None = None
    missing: int = 0


def find_sources(root: Path, *, given: bool = False, ignored: Collection[str] = ()) -> SourceList:
    """Videos of a labelled folder, and the files that are left out.

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
    files = list(_files_below(root))
    inside, beside = root / MANIFEST_FILE, root.absolute().parent / MANIFEST_FILE
    manifest = next((file for file in (inside, beside) if file.is_file()), None)
    if manifest is not None:
        sources = _listed(root, manifest, given, ignored)
        known = {source.path for source in sources}
        remedy = "add a row for it or ignore this line"
        left_out = [
            FileError(printable(path), f"not listed in {MANIFEST_FILE}", remedy)
            for path in files
            if _is_video(path) and path not in known
        ]
    elif given:
        raise DataError(
            f"{inside}: there is no such file", "give it a column 'split', or use folds"
        )
    else:
        sources, left_out = _in_class_folders(root, files)
    classes = tuple(sorted({source.label for source in sources}))
    if len(classes) < 2:
        raise DataError(
            f"{root}: {len(sources)} videos in {len(classes)} classes",
            f"give at least two classes as folders with videos ({', '.join(VIDEO_SUFFIXES)})",
        )
    sources.sort(key=lambda source: source.path)
    return SourceList(tuple(sources), tuple(left_out), classes)


def _files_below(root: Path) -> Iterator[str]:
    """Paths of all files that are not hidden, relative to the folder, sorted in each folder."""

    def stop(error: OSError) -> None:
        raise DataError(
            f"{error.filename}: cannot be read ({error.strerror})",
            "check the path and its permissions",
        ) from error

    for folder, inner, files in os.walk(root, onerror=stop, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        below = Path(folder).relative_to(root).as_posix()
        for file in sorted(files):
            if not file.startswith("."):
                yield file if below == "." else f"{below}/{file}"


def _is_video(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES


def printable(path: str) -> str:
    """A path whose bytes that are not UTF-8 are replaced."""
    return os.fsencode(path).decode(errors="replace")


def _is_utf8(path: str) -> bool:
    return printable(path) == path


def _in_class_folders(root: Path, files: Sequence[str]) -> tuple[list[Source], list[FileError]]:
    sources: list[Source] = []
    left_out: list[FileError] = []
    empty = {entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != "."}
    for path in files:
        label, *rest = path.split("/")
        if len(rest) != 1:
            continue
        if not _is_video(path):
            reason = f"not one of {', '.join(VIDEO_SUFFIXES)}"
            remedy = "convert it if it is a video, else ignore this line"
            left_out.append(FileError(printable(path), reason, remedy))
            continue
        empty.discard(label)
        if _is_utf8(path):
            sources.append(Source(path, sys.intern(label), ""))
        else:
            left_out.append(_not_utf8(path))
    if empty:
        raise DataError(
            f"{root}: class folders without a video: {printable(', '.join(sorted(empty)))}",
            f"add videos ({', '.join(VIDEO_SUFFIXES)}) or remove the folders",
        )
    return sources, left_out


def _not_utf8(path: str) -> FileError:
    return FileError(printable(path), "file name is not UTF-8", "rename the file")


def _listed(root: Path, manifest: Path, given: bool, ignored: Collection[str]) -> list[Source]:
    try:
        with manifest.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or ()
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{manifest}: cannot be read ({error})", "save it as CSV in UTF-8"
        ) from None
    unknown = [column for column in columns if column not in (*MANIFEST_COLUMNS, *ignored)]
    if unknown:
        raise DataError(
            f"{manifest}: unknown column {', '.join(map(repr, unknown))}; known: "
            f"{', '.join(MANIFEST_COLUMNS)} (persons, rooms or recordings are 'group')",
            "rename it, or pass it over with --ignore-column",
        )
    for column in ("path", "split") if given else ("path",):
        if column not in columns:
            found = ", ".join(columns) or "none"
            raise DataError(f"{manifest}: has no column {column!r} (found: {found})", "add it")
    # A manifest beside the folder may name it in its paths.
    prefix = f"{root.absolute().name}/" if manifest.parent != root else ""
    sources = [_source(row, given, prefix) for row in rows]
    problems = _problems(root, sources)
    if problems:
        raise DataError(f"{manifest}: {'; '.join(problems)}", "correct these rows")
    return sources


def _source(row: dict[str, str], given: bool, prefix: str) -> Source:
    path = (row["path"] or "").strip().removeprefix(prefix)
    folder, slash, _ = path.partition("/")
    label = row.get("label") or (folder if slash else "")
    group, split = row.get("group") or "", (row["split"] or "") if given else ""
    return Source(path, label.strip(), group.strip(), split.strip())


def _problems(root: Path, sources: Sequence[Source]) -> list[str]:
    counts = Counter(source.path for source in sources)
    outside = [path for path in counts if not is_inside(path)]
    inside = [source for source in sources if is_inside(source.path)]
    found = {
        "paths outside the folder": outside,
        "no such file": [s.path for s in inside if not os.path.isfile(root / s.path)],
        "no label and no class folder": [s.path for s in inside if not s.label],
        "listed twice": [path for path, count in counts.items() if count > 1],
    }
    return [f"{problem}: {', '.join(paths)}" for problem, paths in found.items() if paths]


@dataclass(frozen=True)
class OfficialRequest:
    """A published data set as the user has it.

    Attributes:
        name: key of `OFFICIAL`.
        annotations: folder of its annotation files.
        split: one of its splits.
        subset: files and classes that are not there are left out.
    """

    name: str
    annotations: Path
    split: str
    subset: bool = False


class AnnotationProblems(DataError):
    """Annotations and videos do not fit; `problems` has every one of them."""

    def __init__(self, folder: Path, problems: Sequence[FileError]) -> None:
        kinds: dict[str, list[str]] = {}
        for problem in problems:
            kinds.setdefault(problem.reason, []).append(problem.path)
        parts = [
            f"{reason}: {', '.join(places[:3])}"
            + (f" and {len(places) - 3} more" if len(places) > 3 else "")
            for reason, places in kinds.items()
        ]
        super().__init__(f"{folder}: {len(problems)} problems: {'; '.join(parts)}")
        self.problems = problems


def find_official(root: Path, request: OfficialRequest) -> SourceList:
    """Match the annotated clips of a split with the videos anywhere below `root`, by file name.

    Classes are in the official order. Videos that the split does not use are passed over.

    Raises:
        AnnotationProblems: files that cannot be read or understood, unknown labels, wrong numbers
            of classes or clips, videos that are missing or there twice: all of them at once.
        InputError: the data set has no such split.
        DataError: a folder cannot be looked into.
    """
    official = OFFICIAL[request.name]
    if request.split not in official.splits:
        raise InputError(
            f"--split {request.split}: {request.name} has {', '.join(official.splits)}", "use one"
        )
    found = official.read(request.annotations, request.split)
    known = set(found.classes)
    for clip in found.clips:
        if clip.label not in known:
            found.refuse(clip.names[0], f"label {clip.label!r} is not among the classes")
    wrong = _wrong_counts(found, official, request)
    sources, missing = _matched(found, root)
    problems = (*found.problems, *(() if request.subset else (*wrong, *missing)))
    if problems:
        raise AnnotationProblems(request.annotations, problems)
    present = {source.label for source in sources}
    classes = tuple(name for name in found.classes if name in present)
    if len(classes) < 2:
        raise DataError(
            f"{root}: holds videos of {len(classes)} classes of {request.name}",
            "give the folder with its videos",
        )
    part = OfficialPart(
        name=official.name,
        split=request.split,
        clips=len(sources),
        annotated=len(found.clips),
        complete=not wrong and not missing and not _is_too_small(found, official),
    )
    mirrored = {name: other for name, other in official.mirrored.items() if name in classes}
    return SourceList(tuple(sources), (), classes, mirrored, part, len(missing))


def _wrong_counts(
    found: Annotations, official: OfficialSet, request: OfficialRequest
) -> list[FileError]:
    """Numbers of classes and clips that are not the published ones."""
    reasons = []
    if len(found.classes) != official.classes:
        reasons.append(f"has {len(found.classes)} classes, {request.name} has {official.classes}")
    for fold, sizes in enumerate(official.sizes.get(request.split, ())):
        words = Counter(clip.split.split()[fold] for clip in found.clips)
        reasons += [
            f"fold {fold} has {words[part]} {part} clips, {request.name} has {size}"
            for part, size in zip(("train", "val", "test"), sizes, strict=True)
            if words[part] != size
        ]
    remedy = "restore the official files, or give --subset if yours are a part of them"
    return [FileError(request.annotations, reason, remedy) for reason in reasons]


def _is_too_small(found: Annotations, official: OfficialSet) -> bool:
    """True if a class lacks training clips that every release has, or has none to test."""
    if not official.least:
        return False
    counts = Counter((clip.label, clip.split) for clip in found.clips)
    return any(
        counts[label, "train"] < official.least or not counts[label, "test"]
        for label in found.classes
    )


def _matched(found: Annotations, root: Path) -> tuple[list[Source], list[FileError]]:
    """Clips with one file each, sorted by path, and clips without; the rest are problems."""
    videos: dict[str, list[str]] = {}
    for path in filter(_is_video, _files_below(root)):
        videos.setdefault(PurePosixPath(path).stem, []).append(path)
    sources: dict[str, Source] = {}
    missing = []
    for clip in found.clips:
        paths = next((videos[name] for name in clip.names if name in videos), [])
        if not paths:
            missing.append(
                FileError(clip.names[0], "no such video", "download it, or give --subset")
            )
        elif len(paths) > 1:
            remedy = f"keep one of {', '.join(paths)}"
            found.refuse(clip.names[0], "video is there more than once", remedy)
        elif not _is_utf8(paths[0]):
            found.problems.append(_not_utf8(paths[0]))
        elif paths[0] in sources:
            found.refuse(clip.names[0], "is annotated more than once")
        else:
            sources[paths[0]] = Source(paths[0], clip.label, clip.group, clip.split)
    return [sources[path] for path in sorted(sources)], missing
