"""Checksums of the source files, as ``md5sum`` and its relatives list them."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from cmkd.data.sources import Listing, Refusal, Source
from cmkd.errors import DataError

ALGORITHMS: Mapping[int, str] = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}
"""By the number of hexadecimal digits."""

_LINE = re.compile(r"(?P<digest>[0-9a-fA-F]+) [ *](?P<path>.+)")
_TAGGED = re.compile(r"(MD5|SHA1|SHA256|SHA512) \((?P<path>.+)\) = (?P<digest>[0-9a-fA-F]+)")

_Parts = tuple[str, ...]


def with_checksums(listing: Listing, file: Path) -> Listing:
    """Each source with its checksum; sources that the file does not list are left out.

    A line belongs to a source if one of their paths ends with the other, so the list may have been
    made in a folder above or below.

    Raises:
        DataError: the file cannot be read, has lines of another form, or lists none of the sources.
    """
    listed = _read(file)
    sources, left_out = [], list(listing.left_out)
    for source in listing.sources:
        digests = _digests(source, listed)
        if len(digests) == 1:
            sources.append(replace(source, checksum=digests.pop()))
        else:
            many = "several checksums" if digests else "no checksum"
            remedy = "correct that list, or leave out --checksums"
            left_out.append(Refusal(source.path, f"has {many} in {file.name}", remedy))
    if not sources:
        raise DataError(
            f"{file}: lists none of the videos; give lines 'DIGEST  PATH' as md5sum and sha256sum "
            "print them, or leave out --checksums"
        )
    return replace(listing, sources=tuple(sources), left_out=tuple(left_out))


def changed(path: Path, checksum: str, sha256: str) -> str | None:
    """How the digest of a file differs from its `checksum`; None where it does not.

    Args:
        sha256: that of the file, which is known already.
    """
    name = ALGORITHMS[len(checksum)]
    if name == "sha256":
        found = sha256
    else:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, name).hexdigest()
    return None if found == checksum else f"{name} is {found}, and {checksum} in the list"


def _read(file: Path) -> dict[str, list[tuple[_Parts, str]]]:
    """Paths and digests of the lines by file name."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise DataError(f"{file}: cannot be read ({reason}); give the output of md5sum") from None
    found, wrong = defaultdict(list), []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _TAGGED.fullmatch(line) or _LINE.fullmatch(line)
        if match is None or len(match["digest"]) not in ALGORITHMS:
            wrong.append(str(number))
            continue
        parts = PurePosixPath(match["path"]).parts
        found[parts[-1] if parts else ""].append((parts, match["digest"].lower()))
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise DataError(
            f"{file}: lines {', '.join(wrong[:5])}{more} are not 'DIGEST  PATH' as md5sum, "
            "sha1sum, sha256sum or sha512sum print them; correct or remove them"
        )
    return found


def _digests(source: Source, listed: Mapping[str, list[tuple[_Parts, str]]]) -> set[str]:
    parts = PurePosixPath(source.path).parts
    return {
        digest
        for other, digest in listed.get(parts[-1], ())
        if (shared := min(len(parts), len(other))) and parts[-shared:] == other[-shared:]
    }
