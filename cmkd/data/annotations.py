"""Annotation files of UCF-101, HMDB-51, Kinetics and Something-Something V2, as published.

Each reader gives one entry per clip and lists all lines it cannot understand. A clip's `split` has
a word per fold: ``train``, ``val``, ``test``, or ``-`` where the fold does not use the clip.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmkd.data.splits import UNUSED
from cmkd.errors import FileError

RESTORE = "restore the official file"
CORRECT = "correct the line, or restore the official file"


@dataclass(frozen=True)
class Annotated:
    """One annotated clip.

    Attributes:
        names: possible names of its file, without suffix, the usual name first.
        group: recording it was cut from; empty where the files do not say.
        split: a word per fold.
    """

    names: tuple[str, ...]
    label: str
    group: str
    split: str


@dataclass
class Annotations:
    """Content of the annotation files: clips, classes in their official order, and problems."""

    classes: tuple[str, ...] = ()
    clips: list[Annotated] = field(default_factory=list)
    problems: list[FileError] = field(default_factory=list)

    def refuse(self, where: Path | str, reason: str, remedy: str = CORRECT) -> None:
        """Note a problem; reasons of one kind have one text, so that they can be counted."""
        self.problems.append(FileError(where, reason, remedy))


def lines_of(found: Annotations, file: Path) -> Iterator[tuple[str, str]]:
    """(place, text) of each line that is not empty; a file that cannot be read is a problem."""
    for number, line in enumerate(_text(found, file).splitlines(), 1):
        if line.strip():
            yield f"{file.name}:{number}", line.strip()


def _text(found: Annotations, file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        found.refuse(file, f"annotation file cannot be read ({reason})", RESTORE)
        return ""


def rows_of(
    found: Annotations, file: Path, columns: Set[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, cells of these columns) of each row of a CSV file; empty cells are ``""``."""
    before = len(found.problems)
    reader = csv.DictReader(_text(found, file).splitlines())
    try:
        missing = columns - set(reader.fieldnames or ())
        if missing and len(found.problems) == before:
            found.refuse(file, f"has no column {', '.join(sorted(missing))}", RESTORE)
        for row in () if missing else reader:
            yield f"{file.name}:{reader.line_num}", {key: row[key] or "" for key in columns}
    except csv.Error as error:
        found.refuse(file, f"is no CSV ({error})", RESTORE)


def only_file(found: Annotations, folder: Path, ending: str) -> Path | None:
    """The one file of that ending: releases put the data set's name before it, or not."""
    files = sorted(folder.glob(f"*{ending}"))
    if len(files) != 1:
        found.refuse(folder, f"holds {len(files)} files *{ending} instead of one", RESTORE)
        return None
    return files[0]


def json_of(found: Annotations, folder: Path, ending: str, kind: type) -> Any:
    """Content of the one file of that ending, or an empty `kind`."""
    file = only_file(found, folder, f"{ending}.json")
    if file is None:
        return kind()
    before = len(found.problems)
    try:
        content = json.loads(_text(found, file))
    except ValueError as error:
        if len(found.problems) == before:
            found.refuse(file, f"annotation file cannot be read ({error})", RESTORE)
        return kind()
    if not isinstance(content, kind):
        found.refuse(file, f"is no JSON {kind.__name__}", RESTORE)
        return kind()
    return content


_UCF_NAME = re.compile(r"v_.+_g\d+_c\d+")
_HMDB_FILE = re.compile(r"(.+)_test_split\d\.txt")
_HMDB_FLAGS = {"0": UNUSED, "1": "train", "2": "test"}
_KINETICS_COLUMNS = {"label", "youtube_id", "time_start", "time_end", "split"}
_KINETICS_PARTS = {"train": "train", "val": "val", "validate": "val", "test": "test"}


def read_ucf101(folder: Path, split: str) -> Annotations:
    """``classInd.txt`` and ``trainlist0X.txt``, ``testlist0X.txt``; `split` is 1, 2, 3 or all.

    Groups are class and ``gXX`` of the file name: the clips of one source video.
    """
    found = Annotations()
    indices: dict[str, str] = {}
    for where, line in lines_of(found, folder / "classInd.txt"):
        index, _, name = line.partition(" ")
        if name and index.isdecimal():
            indices[name] = index
        else:
            found.refuse(where, "is no line 'INDEX CLASS'")
    found.classes = tuple(sorted(indices, key=lambda name: int(indices[name])))
    numbers, words = _numbers(split), dict[str, list[str]]()
    for fold, number in enumerate(numbers):
        for part in ("train", "test"):
            for where, line in lines_of(found, folder / f"{part}list{number:0>2}.txt"):
                path, _, index = line.partition(" ")
                label = path.partition("/")[0]
                if label not in indices or index not in ("", indices[label]):
                    found.refuse(where, "label is not one of classInd.txt")
                elif not _UCF_NAME.fullmatch(_stem(path)):
                    found.refuse(where, "name is not v_CLASS_gXX_cYY.avi")
                else:
                    _mark(found, where, words.setdefault(path, [UNUSED] * len(numbers)), fold, part)
    for path, marks in words.items():
        label, name = path.partition("/")[0], _stem(path)
        group = f"{label}_{name.split('_')[-2]}"
        found.clips.append(Annotated((name,), label, group, " ".join(marks)))
    return found


def read_hmdb51(folder: Path, split: str) -> Annotations:
    """``CLASS_test_splitN.txt`` with flags 0 unused, 1 train, 2 test; `split` is 1, 2, 3 or all.

    Groups are class and source video, which the file names begin with. Clips that no fold uses
    are left out.
    """
    found = Annotations()
    matches = (_HMDB_FILE.fullmatch(file.name) for file in folder.glob("*.txt"))
    found.classes = tuple(sorted({match[1] for match in matches if match}))
    if not found.classes:
        found.refuse(folder, "has no file CLASS_test_splitN.txt", RESTORE)
    numbers = _numbers(split)
    for label in found.classes:
        words: dict[str, list[str]] = {}
        for fold, number in enumerate(numbers):
            for where, line in lines_of(found, folder / f"{label}_test_split{number}.txt"):
                name, _, flag = line.rpartition(" ")
                if flag not in _HMDB_FLAGS or not _hmdb_source(name, label):
                    found.refuse(where, "is no line 'SOURCE_CLASS_..._N.avi FLAG'")
                    continue
                marks = words.setdefault(name.strip(), [UNUSED] * len(numbers))
                _mark(found, where, marks, fold, _HMDB_FLAGS[flag])
        for name, marks in words.items():
            if set(marks) != {UNUSED}:
                # JHMDB, which has the same files, writes @ for #.
                names = tuple(dict.fromkeys((_stem(name), _stem(name).replace("#", "@"))))
                group = f"{label}/{_hmdb_source(name, label)}"
                found.clips.append(Annotated(names, label, group, " ".join(marks)))
    return found


def _numbers(split: str) -> tuple[str, ...]:
    return ("1", "2", "3") if split == "all" else (split,)


def _mark(found: Annotations, where: str, marks: list[str], fold: int, word: str) -> None:
    if marks[fold] != UNUSED:
        found.refuse(where, "clip is listed twice in one split")
    marks[fold] = word


def _stem(path: str) -> str:
    return path.strip().rpartition("/")[2].removesuffix(".avi")


def _hmdb_source(name: str, label: str) -> str | None:
    """Source video: the words before class, visible part, camera, people, view and quality."""
    parts = rf"(.+)_{re.escape(label)}_[a-z]+_[a-z]+_np\d+_[a-z]+_[a-z]+_\d+\.avi"
    match = re.fullmatch(parts, name.strip())
    return match[1] if match else None


def read_kinetics(folder: Path, split: str) -> Annotations:
    """All CSV files with ``label,youtube_id,time_start,time_end,split`` in the folder.

    With `split` ``val`` the validation part is what is tested, as the literature does; with
    ``test`` it selects and the test part is tested. Groups are the videos, apart for each part.
    """
    found = Annotations()
    files = sorted(folder.glob("*.csv"))
    if not files:
        found.refuse(folder, "has no *.csv with label,youtube_id,time_start,time_end,split")
    labels: set[str] = set()
    for file in files:
        for where, row in rows_of(found, file, _KINETICS_COLUMNS):
            part = _KINETICS_PARTS.get(row["split"])
            names = _kinetics_names(row)
            if part is None or names is None:
                found.refuse(where, "has no usable split, time_start or time_end")
                continue
            if not row["label"]:
                if part == split:
                    found.refuse(where, "has no label")
                continue
            labels |= {row["label"]} if part == "train" else set()
            if part == "test" and split == "val":
                continue
            word = "test" if part == split else part
            group = f"{part}/{row['youtube_id']}"
            found.clips.append(Annotated(names, row["label"], group, word))
    found.classes = tuple(sorted(labels))
    return found


def _kinetics_names(row: dict[str, str]) -> tuple[str, ...] | None:
    """Names that the usual download tools give: padded times, plain times, or none."""
    try:
        start, end = round(float(row["time_start"])), round(float(row["time_end"]))
    except ValueError:
        return None
    name = row["youtube_id"]
    return (f"{name}_{start:06d}_{end:06d}", f"{name}_{start}_{end}", name) if name else None


def read_ssv2(folder: Path, split: str) -> Annotations:
    """``*labels.json``, ``*train.json``, ``*validation.json``, and ``*test-answers.csv`` for
    `split` ``test``; with ``val`` the validation part is what is tested, as the literature does.

    A label is its template without brackets. The files name no recordings, so there are no groups.
    """
    found = Annotations()
    indices = json_of(found, folder, "labels", dict)
    if all(str(index).isdecimal() for index in indices.values()):
        found.classes = tuple(sorted(indices, key=lambda name: int(indices[name])))
    else:
        found.refuse(folder / "*labels.json", "has an index that is no number", RESTORE)
    for part, word in (("train", "train"), ("validation", "test" if split == "val" else "val")):
        for number, entry in enumerate(json_of(found, folder, part, list), 1):
            try:
                name, template = str(entry["id"]), str(entry["template"])
            except (KeyError, TypeError):
                found.refuse(f"*{part}.json, entry {number}", "has no id or no template")
                continue
            label = template.replace("[", "").replace("]", "")
            found.clips.append(Annotated((name,), label, "", word))
    if split == "test":
        answers = only_file(found, folder, "test-answers.csv")
        for where, line in lines_of(found, answers) if answers else ():
            name, _, label = line.partition(";")
            if label:
                found.clips.append(Annotated((name,), label, "", "test"))
            else:
                found.refuse(where, "is no line 'ID;LABEL'")
    return found


_FOLDS = ("all", "1", "2", "3")
_PARTS = ("val", "test")
_MIRRORED = {
    "Pulling something from left to right": "Pulling something from right to left",
    "Pushing something from left to right": "Pushing something from right to left",
    "Turning the camera left while filming something": (
        "Turning the camera right while filming something"
    ),
}


@dataclass(frozen=True)
class OfficialSet:
    """Published data set.

    Attributes:
        name: as the paper writes it.
        read: reader of its annotation files, given their folder and one of `splits`.
        splits: possible choices, the default first.
        classes: their number.
        sizes: (train, val, test) clips of each fold by split; absent where releases differ.
        mirrored: class of the horizontal mirror image where it is another class.
        least: training clips of a class in the smallest release, where releases differ.
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
    # Kay et al. 2017, Sec. 2: 250 to 1000 training clips in a class.
    "kinetics400": OfficialSet("Kinetics-400", read_kinetics, _PARTS, 400, {}, {}, least=250),
    "ssv2": OfficialSet(
        "SSV2",
        read_ssv2,
        _PARTS,
        174,
        {"val": ((168_913, 0, 24_777),), "test": ((168_913, 24_777, 27_157),)},
        _MIRRORED | {right: left for left, right in _MIRRORED.items()},
    ),
}
