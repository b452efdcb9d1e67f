"""Text, CSV and JSON of annotations, read on past every problem."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmkd.data.sources import Refusal

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
    problems: list[Refusal] = field(default_factory=list)

    def refuse(self, where: Path | str, reason: str, remedy: str = CORRECT) -> None:
        """Note a problem; reasons of one kind have one text, so that they can be counted."""
        self.problems.append(Refusal(str(where), reason, remedy))


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
