"""UCF-101, HMDB-51, Kinetics-400 and Something-Something V2 from their official annotations."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from cmkd.config.data import OfficialPart
from cmkd.data.prepare.annotations import (
    Annotated,
    Annotations,
    read_hmdb51,
    read_kinetics,
    read_ssv2,
    read_ucf101,
)
from cmkd.data.prepare.sources import (
    VIDEO_SUFFIXES,
    RejectedFile,
    Source,
    SourceList,
    reject_name,
)
from cmkd.errors import DataError, InputError

_FOLDS = ("all", "1", "2", "3")
_PARTS = ("val", "test")
_LEFT_AND_RIGHT = {
    f"{act} something from {one} to {other}": f"{act} something from {other} to {one}"
    for act in ("Pulling", "Pushing")
    for one, other in (("left", "right"), ("right", "left"))
} | {
    f"Turning the camera {one} while filming something": (
        f"Turning the camera {other} while filming something"
    )
    for one, other in (("left", "right"), ("right", "left"))
}


@dataclass(frozen=True)
class OfficialSet:
    """What is known of a published data set.

    Attributes:
        name: as the paper writes it.
        read: its annotation files, for one of `splits`.
        splits: what may be chosen, the default first.
        classes: how many there are.
        sizes: (train, val, test) clips of each fold by split; absent where releases differ.
        mirrored: class of the horizontal mirror image where it is another class.
        least: training clips that every class of every release has, where releases differ.
    """

    name: str
    read: Callable[[Path, str], Annotations]
    splits: tuple[str, ...]
    classes: int
    sizes: Mapping[str, tuple[tuple[int, int, int], ...]]
    mirrored: Mapping[str, str]
    least: int = 0


def _each_and_all(*folds: tuple[int, int, int]) -> dict[str, tuple[tuple[int, int, int], ...]]:
    return {str(number): (fold,) for number, fold in enumerate(folds, 1)} | {"all": folds}


OFFICIAL: dict[str, OfficialSet] = {
    "ucf101": OfficialSet(
        "UCF-101",
        read_ucf101,
        _FOLDS,
        101,
        _each_and_all((9537, 0, 3783), (9586, 0, 3734), (9624, 0, 3696)),
        {},
    ),
    "hmdb51": OfficialSet(
        "HMDB-51", read_hmdb51, _FOLDS, 51, _each_and_all(*[(3570, 0, 1530)] * 3), {}
    ),
    "kinetics400": OfficialSet(
        # Kay et al. 2017, Sec. 2: 250 to 1000 training clips in a class.
        "Kinetics-400",
        read_kinetics,
        _PARTS,
        400,
        {},
        {},
        least=250,
    ),
    "ssv2": OfficialSet(
        "SSV2",
        read_ssv2,
        _PARTS,
        174,
        {"val": ((168_913, 0, 24_777),), "test": ((168_913, 24_777, 27_157),)},
        _LEFT_AND_RIGHT,
    ),
}


@dataclass(frozen=True)
class OfficialRequest:
    """A published data set as the user has it.

    Attributes:
        name: key of `OFFICIAL`.
        annotations: folder of its annotation files.
        split: one of its splits.
        subset: the user has a part of it: files and classes that are not there are left out.
    """

    name: str
    annotations: Path
    split: str
    subset: bool = False


class AnnotationProblems(DataError):
    """Annotations and videos do not fit; `problems` has every one of them."""

    def __init__(self, message: str, problems: tuple[RejectedFile, ...]) -> None:
        super().__init__(message)
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
            f"--split {request.split}: {request.name} has {', '.join(official.splits)}; use one"
        )
    found = official.read(request.annotations, request.split)
    known = set(found.classes)
    for clip in found.clips:
        if clip.label not in known:
            found.refuse(clip.names[0], f"label {clip.label!r} is not among the classes")
    wrong = _wrong_counts(found, official, request)
    if not request.subset:
        found.problems += wrong
    sources, missing = _matched(found, _videos(root))
    problems = (*found.problems, *(() if request.subset else missing))
    if problems:
        raise AnnotationProblems(_summary(request, problems), problems)
    present = {source.label for source in sources}
    classes = tuple(name for name in found.classes if name in present)
    if len(classes) < 2:
        raise DataError(
            f"{root}: holds videos of {len(classes)} classes of {request.name}; give the folder "
            "with its videos"
        )
    part = OfficialPart(
        name=official.name,
        split=request.split,
        clips=len(sources),
        annotated=len(found.clips),
        complete=not wrong and not missing and not _too_few(found, official),
    )
    return SourceList(
        tuple(sources), (), classes, _mirrored(official, classes), part, missing=len(missing)
    )


def _wrong_counts(
    found: Annotations, official: OfficialSet, request: OfficialRequest
) -> list[RejectedFile]:
    """Numbers of classes and clips that are not the published ones."""
    remedy = "restore the official files, or give --subset if yours are a part of them"
    place, wrong = str(request.annotations), []
    if len(found.classes) != official.classes:
        reason = f"has {len(found.classes)} classes, {request.name} has {official.classes}"
        wrong.append(RejectedFile(place, reason, remedy))
    for fold, sizes in enumerate(official.sizes.get(request.split, ())):
        words = Counter(clip.split.split()[fold] for clip in found.clips)
        for part, size in zip(("train", "val", "test"), sizes, strict=True):
            if words[part] != size:
                reason = f"fold {fold} has {words[part]} {part} clips, {request.name} has {size}"
                wrong.append(RejectedFile(place, reason, remedy))
    return wrong


def _too_few(found: Annotations, official: OfficialSet) -> bool:
    """Whether a class lacks training clips that every release has, or has none to test."""
    if not official.least:
        return False
    counts = Counter((clip.label, clip.split) for clip in found.clips)
    return any(
        counts[label, "train"] < official.least or not counts[label, "test"]
        for label in found.classes
    )


def _videos(root: Path) -> dict[str, list[str]]:
    """Paths of the videos below a folder by their names without suffix."""

    def stop(error: OSError) -> None:
        raise DataError(
            f"{error.filename}: cannot be read ({error.strerror}); check the path and its "
            "permissions"
        ) from error

    found: dict[str, list[str]] = {}
    for folder, inner, files in os.walk(root, onerror=stop, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        below = Path(folder).relative_to(root).as_posix()
        for file in sorted(files):
            stem, suffix = os.path.splitext(file)
            if suffix.lower() in VIDEO_SUFFIXES and not file.startswith("."):
                found.setdefault(stem, []).append(file if below == "." else f"{below}/{file}")
    return found


def _matched(
    found: Annotations, videos: Mapping[str, list[str]]
) -> tuple[list[Source], list[RejectedFile]]:
    """The clips that have one file each; those without one; the rest is added to the problems."""
    sources: dict[str, Source] = {}
    missing = []
    for clip in found.clips:
        paths = _files_of(clip, videos)
        if not paths:
            missing.append(
                RejectedFile(clip.names[0], "no such video", "download it, or give --subset")
            )
        elif len(paths) > 1:
            remedy = f"keep one of {', '.join(paths)}"
            found.refuse(clip.names[0], "video is there more than once", remedy)
        elif rejected := reject_name(paths[0]):
            found.problems.append(rejected)
        elif paths[0] in sources:
            found.refuse(clip.names[0], "is annotated more than once")
        else:
            sources[paths[0]] = Source(paths[0], clip.label, clip.group, clip.split)
    return [sources[path] for path in sorted(sources)], missing


def _files_of(clip: Annotated, videos: Mapping[str, list[str]]) -> list[str]:
    return next((videos[name] for name in clip.names if name in videos), [])


def _summary(request: OfficialRequest, problems: Collection[RejectedFile]) -> str:
    kinds: dict[str, list[str]] = {}
    for problem in problems:
        kinds.setdefault(problem.reason, []).append(problem.path)
    parts = [
        f"{reason}: {', '.join(places[:3])}"
        + (f" and {len(places) - 3} more" if len(places) > 3 else "")
        for reason, places in kinds.items()
    ]
    return f"{request.annotations}: {len(problems)} problems: {'; '.join(parts)}"


def _mirrored(official: OfficialSet, classes: Collection[str]) -> dict[str, str]:
    return {one: other for one, other in official.mirrored.items() if one in classes}
