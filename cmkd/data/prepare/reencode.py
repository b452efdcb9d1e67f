"""Re-encode one video of any codec, and remember it so that it is not done twice."""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cmkd.config.base import content_id
from cmkd.config.data import EncodingConfig
from cmkd.data.clip import keep_freed_memory
from cmkd.data.codec.video import container_fault, decode_rgb, encode, probe
from cmkd.data.prepare.sources import RejectedFile, Source, SourceList
from cmkd.errors import DataError
from cmkd.io import file_sha256, write_text, writing

ALGORITHMS: Mapping[int, str] = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}
"""By the number of hexadecimal digits."""

_LINE = re.compile(r"(?P<digest>[0-9a-fA-F]+) [ *](?P<path>.+)")
_TAGGED = re.compile(r"(MD5|SHA1|SHA256|SHA512) \((?P<path>.+)\) = (?P<digest>[0-9a-fA-F]+)")

_Parts = tuple[str, ...]


def with_checksums(listing: SourceList, file: Path) -> SourceList:
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
            left_out.append(RejectedFile(source.path, f"has {many} in {file.name}", remedy))
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


MIN_FRAMES = 9
"""An I-frame and eight P-frames, the paper's T."""

CONVERTER = 1
"""Raised when equal videos and encodings give other files than before."""

_FALLBACK_FPS = 25.0
_Frame = UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True)
class EncodeTask:
    """One file to make: `output` and its `record` are written, `source` is read.

    `checksum` is what a digest of the source must be, empty where none is known.
    """

    source: Path
    output: Path
    record: Path
    encoding: EncodingConfig
    checksum: str = ""


@dataclass(frozen=True)
class Encoded:
    """A finished file.

    Attributes:
        sha256: of the output.
        frames: in the output.
        reused: it was there already, made from these source bytes with this encoding.
    """

    sha256: str
    frames: int
    reused: bool


@dataclass(frozen=True)
class _Record:
    source_sha256: str
    conversion: str
    sha256: str
    frames: int


def reencode(task: EncodeTask) -> Encoded:
    """Re-encode a video unless its record says that this was done; picture and clip are stretched
    to the configured size and length.

    Raises:
        DataError: unreadable, corrupt, not of its checksum, or fewer than 9 frames.
        InfrastructureError: the output cannot be written.
    """
    source_sha256 = _checked_sha256(task)
    conversion = content_id("reencode", CONVERTER, task.encoding)
    known = _read_record(task)
    if known and (known.source_sha256, known.conversion) == (source_sha256, conversion):
        return Encoded(known.sha256, known.frames, reused=True)
    keep_freed_memory()
    header = probe(task.source)
    usable_fps = header.fps if 1 <= header.fps <= 240 else _FALLBACK_FPS
    frames = _converted(task.source, header.frames_declared, task.encoding)
    with writing(task.output):
        task.output.parent.mkdir(parents=True, exist_ok=True)
        count = encode(frames, task.output, task.encoding, usable_fps)
        record = _Record(source_sha256, conversion, file_sha256(task.output), count)
    # It is checked when it is read, so nothing is lost but time if the disk loses it.
    write_text(task.record, json.dumps(asdict(record)), durable=False)
    return Encoded(record.sha256, count, reused=False)


def _checked_sha256(task: EncodeTask) -> str:
    """SHA-256 of the source, whether or not it was converted before.

    Raises:
        DataError: it cannot be read, differs from its checksum, or its container is damaged.
    """
    try:
        sha256 = file_sha256(task.source)
        difference = changed(task.source, task.checksum, sha256) if task.checksum else None
    except OSError as error:
        raise DataError(
            f"{task.source}: cannot be read ({error.strerror}); check its permissions"
        ) from None
    if difference is not None:
        raise DataError(f"{task.source}: {difference}; get an intact copy of the file")
    fault = container_fault(task.source)
    if fault is not None:
        raise DataError(f"{task.source}: {fault}; get an intact copy of the file")
    return sha256


def uniform_indices(available: int, wanted: int) -> list[int]:
    """Frame numbers that resample a clip evenly: first and last included, repeats if too short."""
    return [round(at) for at in np.linspace(0, available - 1, wanted).tolist()]


def _read_record(task: EncodeTask) -> _Record | None:
    """The record if it is whole and speaks of the file that is there."""
    try:
        record = _Record(**json.loads(task.record.read_text(encoding="utf-8")))
        return record if record.sha256 == file_sha256(task.output) else None
    except (OSError, ValueError, TypeError):
        return None


def _converted(path: Path, declared: int, encoding: EncodingConfig) -> Iterable[_Frame]:
    if encoding.num_frames is None:
        return (_resized(frame, encoding) for frame in _long_enough(path))
    return _resampled(path, declared, encoding, encoding.num_frames)


def _resampled(path: Path, declared: int, encoding: EncodingConfig, wanted: int) -> list[_Frame]:
    """Keep only the frames of the even grid; containers often miscount, so verify the length."""
    expected = declared
    while True:
        indices = uniform_indices(expected, wanted) if expected else []
        chosen = set(indices)
        kept, count = {}, 0
        for count, frame in enumerate(_long_enough(path), 1):
            if count - 1 in chosen:
                kept[count - 1] = _resized(frame, encoding)
        if count == expected:
            return [kept[index] for index in indices]
        expected = count


def _long_enough(path: Path) -> Iterator[_Frame]:
    count = 0
    for frame in decode_rgb(path):
        count += 1
        yield frame
    if count < MIN_FRAMES:
        raise DataError(
            f"{path}: has {count} frames, {MIN_FRAMES} are needed; use a longer clip or remove it"
        )


def _resized(frame: _Frame, encoding: EncodingConfig) -> _Frame:
    # Pillow widens the filter when it shrinks a picture, so nothing aliases.
    image = Image.fromarray(frame).resize(
        (encoding.width, encoding.height), Image.Resampling.BILINEAR
    )
    return np.asarray(image)
