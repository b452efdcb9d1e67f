"""A report that was written, compared with what the store gives."""

from __future__ import annotations

import os
from collections.abc import Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path

from cmkd.config.paths import slug
from cmkd.errors import InputError
from cmkd.report.build import FORMATS, claim_report, table_report
from cmkd.report.claims import Claims
from cmkd.report.gather import Request, sweeps_by_data
from cmkd.report.paper import TABLES

_BEGINNINGS = frozenset({"table", "claims", "report", "sweep", *TABLES})
_PICTURES = ("png", "svg")


@dataclass(frozen=True)
class Verification:
    """Names of the files that were compared, and what is wrong, a line each.

    `notes` are files of a report that were not compared, and why.
    """

    compared: tuple[str, ...]
    wrong: tuple[str, ...]
    notes: tuple[str, ...]


def verify_report(request: Request, claims: Claims, folder: Path, *, version: str) -> Verification:
    """Make the files of `folder` again and compare them.

    A file that is not there is wrong where the folder has others of its format. Where `request`
    names neither table, data set nor sweep it is one for everything that there is, and a file that
    the store does not give is wrong as well.

    Raises:
        InputError: none of the files is in the folder, so that nothing would be verified.
    """
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    is_whole = not (request.tables or request.data or request.sweep)
    files: dict[str, bytes] = {}
    plots = any(name.endswith((".png", ".svg")) for name in there)
    files |= table_report(request, FORMATS, plots=plots, version=version).files
    if any(name.startswith("claims_") for name in there):
        for one in (request, *(_single_sweeps(request, there) if is_whole else ())):
            files |= claim_report(one, claims, version=version).files
    compared = tuple(sorted(files.keys() & there))
    if not compared:
        raise InputError(
            f"{folder}: has none of the files of this report ({', '.join(sorted(files))}); write "
            f"them with: cmkd report tables --out {folder}"
        )
    wrong = [
        f"{folder / name}: {fault}"
        for name in compared
        if (fault := _fault((folder / name).read_bytes(), files[name]))
    ]
    kinds = {_kind(name) for name in compared}
    absent = sorted(name for name in files.keys() - there if _kind(name) in kinds)
    wrong += [f"{folder / name}: is missing, and the store gives it" for name in absent]
    foreign = [
        f"{folder / name}: is not of this report"
        for name in sorted(there - files.keys())
        if name.split("_")[0] in _BEGINNINGS and Path(name).suffix[1:] in (*FORMATS, *_PICTURES)
    ]
    return Verification(
        compared,
        (*wrong, *foreign) if is_whole else tuple(wrong),
        () if is_whole else tuple(foreign),
    )


def _single_sweeps(request: Request, there: Set[str]) -> Iterator[Request]:
    """Requests for the sweeps of the store that have claims of their own in the folder."""
    for data, sweeps in sweeps_by_data(request).items():
        for sweep in sweeps:
            end = f"_{slug(sweep)}_{slug(data)}."
            if any(name.startswith("claims_") and end in name for name in there):
                yield replace(request, data=data, sweep=sweep)


def _kind(name: str) -> tuple[bool, str]:
    """What is made together: verdicts or tables, in one format."""
    return name.startswith("claims_"), Path(name).suffix


def _fault(kept: bytes, made: bytes) -> str | None:
    if kept == made:
        return None
    try:
        lines = kept.decode().splitlines(), made.decode().splitlines()
    except UnicodeDecodeError:
        return "is another picture than the store gives now"
    longest = max(map(len, lines))
    one, other = ([*side, *[""] * (longest - len(side))] for side in lines)
    at = next((i for i in range(longest) if one[i] != other[i]), longest - 1)
    same = len(os.path.commonprefix([one[at], other[at]]))
    here, there = (repr(line[max(0, same - 20) : same + 40]) for line in (one[at], other[at]))
    return f"line {at + 1}, column {same + 1}: {here}, but the store gives {there}"
