"""Re-encode one video of any codec, and remember it so that it is not done twice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from cmkd.config.base import content_id
from cmkd.config.data import EncodingConfig
from cmkd.data.clip import keep_freed_memory
from cmkd.data.video import container_fault, decode_rgb, encode, probe
from cmkd.errors import FileError
from cmkd.io import file_sha256, write_text, writing

MIN_FRAMES = 9
"""An I-frame and eight P-frames, the paper's T."""

CONVERTER = 1
"""Raised when equal videos and encodings give other files than before."""

_FALLBACK_FPS = 25.0
_Frame = UInt8[np.ndarray, "H W 3"]


@dataclass(frozen=True)
class Encoded:
    """A finished file, as its record keeps it.

    Attributes:
        source_sha256: of the video it was made of.
        conversion: content id of encoding and converter.
        sha256: of the file.
        frames: in the file.
        reused: it was there already.
    """

    source_sha256: str
    conversion: str
    sha256: str
    frames: int
    reused: bool = False


def reencode(source: Path, output: Path, record: Path, encoding: EncodingConfig) -> Encoded:
    """Re-encode a video unless its record says that this was done; picture and clip are stretched
    to the configured size and length.

    Args:
        record: JSON file about `output`, written with it.

    Raises:
        FileError: unreadable, corrupt, or fewer than 9 frames.
        InfrastructureError: the output cannot be written.
    """
    try:
        source_sha256 = file_sha256(source)
    except OSError as error:
        raise FileError(
            source, f"cannot be read ({error.strerror})", "check its permissions"
        ) from None
    fault = container_fault(source)
    if fault is not None:
        raise FileError(source, fault, "get an intact copy of the file")
    conversion = content_id("reencode", CONVERTER, encoding)
    known = _read_record(record, output)
    if known and (known.source_sha256, known.conversion) == (source_sha256, conversion):
        return replace(known, reused=True)
    keep_freed_memory()
    header = probe(source)
    fps = header.fps if 1 <= header.fps <= 240 else _FALLBACK_FPS
    frames = _converted(source, header.frames_declared, encoding)
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        count = encode(frames, output, encoding, fps)
        made = Encoded(source_sha256, conversion, file_sha256(output), count)
    # It is checked when it is read, so nothing is lost but time if the disk loses it.
    write_text(record, json.dumps(asdict(made)), durable=False)
    return made


def _read_record(record: Path, output: Path) -> Encoded | None:
    """The record if it is whole and of the file that is there."""
    try:
        found = Encoded(**json.loads(record.read_text(encoding="utf-8")))
        return found if found.sha256 == file_sha256(output) else None
    except (OSError, ValueError, TypeError):
        return None


def _converted(path: Path, declared: int, encoding: EncodingConfig) -> Iterable[_Frame]:
    if encoding.num_frames is None:
        return (_resized(frame, encoding) for frame in _long_enough(path))
    return _resampled(path, declared, encoding, encoding.num_frames)


def uniform_indices(available: int, wanted: int) -> list[int]:
    """Frame numbers that resample a clip evenly: first and last included, repeats if too short."""
    return [round(at) for at in np.linspace(0, available - 1, wanted).tolist()]


def _resampled(path: Path, declared: int, encoding: EncodingConfig, wanted: int) -> list[_Frame]:
    """Frames of the even grid; containers often miscount, so the length is verified."""
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
        reason = f"has {count} frames, {MIN_FRAMES} are needed"
        raise FileError(path, reason, "use a longer clip or remove it")


def _resized(frame: _Frame, encoding: EncodingConfig) -> _Frame:
    # Pillow widens the filter when it shrinks a picture, so nothing aliases.
    image = Image.fromarray(frame).resize(
        (encoding.width, encoding.height), Image.Resampling.BILINEAR
    )
    return np.asarray(image)
