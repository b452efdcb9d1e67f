"""The annotation files of UCF-101, HMDB-51, Kinetics and Something-Something V2, as published.

Each reader gives one entry per clip and lists all it cannot understand. A clip's `split` has a
word per fold: ``train``, ``val``, ``test``, or ``-`` where the fold does not use the clip.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmkd.data.prepare.sources import RejectedFile
from cmkd.data.splits import UNUSED

RESTORE = "restore the official file"
CORRECT = "correct the line, or restore the official file"


@dataclass(frozen=True)
class Annotated:
    """One annotated clip.

    Attributes:
        names: what its file may be called, without suffix, the usual name first.
        group: recording it was cut from; empty where the files do not say.
        split: a word per fold.
    """

    names: tuple[str, ...]
    label: str
    group: str
    split: str


@dataclass
class Annotations:
    """What the files say, classes in their official order, and what is wrong with them."""

    classes: tuple[str, ...] = ()
    clips: list[Annotated] = field(default_factory=list)
    problems: list[RejectedFile] = field(default_factory=list)

    def refuse(self, where: Path | str, reason: str, remedy: str = CORRECT) -> None:
        """Note a problem; reasons of one kind have one text, so that they can be counted."""
        self.problems.append(RejectedFile(str(where), reason, remedy))


def lines_of(found: Annotations, file: Path | None) -> Iterator[tuple[str, str]]:
    """(place, text) of each line that is not empty; a file that cannot be read is a problem."""
    if file is None:
        return
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        found.refuse(file, f"annotation file cannot be read ({reason})", RESTORE)
        return
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield f"{file.name}:{number}", line.strip()


def rows_of(
    found: Annotations, file: Path, columns: Set[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, cells of these columns) of each row of a CSV file; what is empty is ``""``."""
    before = len(found.problems)
    lines = list(lines_of(found, file))
    reader = csv.DictReader(text for _, text in lines)
    try:
        missing = columns - set(reader.fieldnames or ())
        if missing and len(found.problems) == before:
            found.refuse(file, f"has no column {', '.join(sorted(missing))}", RESTORE)
        for row in () if missing else reader:
            where = lines[reader.line_num - 1][0]
            yield where, {key: row[key] or "" for key in columns}
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
    """What the file holds, or nothing of that kind."""
    file = only_file(found, folder, f"{ending}.json")
    if file is None:
        return kind()
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        found.refuse(file, f"annotation file cannot be read ({error})", RESTORE)
        return kind()
    if not isinstance(content, kind):
        found.refuse(file, f"is no JSON {kind.__name__}", RESTORE)
        return kind()
    return content


_UCF_GROUP = re.compile(r"v_.+_(g\d+)_c\d+")
_HMDB_FILE = re.compile(r"(.+)_test_split(\d)\.txt")
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
    words: dict[str, list[str]] = {}
    numbers = _numbers(split)
    for fold, number in enumerate(numbers):
        for part in ("train", "test"):
            for where, line in lines_of(found, folder / f"{part}list{number:0>2}.txt"):
                path, _, index = line.partition(" ")
                label = path.partition("/")[0]
                if label not in indices or index not in ("", indices[label]):
                    found.refuse(where, "label is not one of classInd.txt")
                elif not _UCF_GROUP.fullmatch(_stem(path)):
                    found.refuse(where, "name is not v_CLASS_gXX_cYY.avi")
                else:
                    _mark(found, where, words.setdefault(path, [UNUSED] * len(numbers)), fold, part)
    for path, marks in words.items():
        label, name = path.partition("/")[0], _stem(path)
        match = _UCF_GROUP.fullmatch(name)
        assert match  # looked at above
        found.clips.append(Annotated((name,), label, f"{label}_{match[1]}", " ".join(marks)))
    return found


def read_hmdb51(folder: Path, split: str) -> Annotations:
    """``CLASS_test_splitN.txt`` with flags 0 unused, 1 train, 2 test; `split` is 1, 2, 3 or all.

    Groups are class and source video, which the file names begin with. Clips that no fold uses
    are left out.
    """
    found = Annotations()
    numbers = _numbers(split)
    matches = [match for file in sorted(folder.glob("*.txt")) if (match := _match(file))]
    found.classes = tuple(sorted({match[1] for match in matches}))
    if not found.classes:
        found.refuse(folder, "has no file CLASS_test_splitN.txt", RESTORE)
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
        found.clips += [
            Annotated(
                # JHMDB, which has the same files, writes @ for #.
                tuple(dict.fromkeys((_stem(name), _stem(name).replace("#", "@")))),
                label,
                f"{label}/{_hmdb_source(name, label)}",
                " ".join(marks),
            )
            for name, marks in words.items()
            if set(marks) != {UNUSED}
        ]
    return found


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
        for where, line in lines_of(found, only_file(found, folder, "test-answers.csv")):
            name, _, label = line.partition(";")
            if label:
                found.clips.append(Annotated((name,), label, "", "test"))
            else:
                found.refuse(where, "is no line 'ID;LABEL'")
    return found


def _numbers(split: str) -> tuple[str, ...]:
    return ("1", "2", "3") if split == "all" else (split,)


def _mark(found: Annotations, where: str, marks: list[str], fold: int, word: str) -> None:
    if marks[fold] != UNUSED:
        found.refuse(where, "clip is listed twice in one split")
    marks[fold] = word


def _stem(path: str) -> str:
    return path.strip().rpartition("/")[2].removesuffix(".avi")


def _match(file: Path) -> re.Match[str] | None:
    return _HMDB_FILE.fullmatch(file.name)


def _hmdb_source(name: str, label: str) -> str | None:
    """What stands before class, visible part, camera, people, view, quality and number."""
    parts = rf"(.+)_{re.escape(label)}_[a-z]+_[a-z]+_np\d+_[a-z]+_[a-z]+_\d+\.avi"
    match = re.fullmatch(parts, name.strip())
    return match[1] if match else None


def _kinetics_names(row: dict[str, str]) -> tuple[str, ...] | None:
    """The names that the usual download tools give: padded times, plain times, or none."""
    try:
        start, end = round(float(row["time_start"])), round(float(row["time_end"]))
    except ValueError:
        return None
    name = row["youtube_id"]
    return (f"{name}_{start:06d}_{end:06d}", f"{name}_{start}_{end}", name) if name else None
