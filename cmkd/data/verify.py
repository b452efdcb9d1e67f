"""Look through a prepared data set: is every clip there, whole, and encoded as the card says?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cmkd.config.data import EncodingConfig
from cmkd.data.codec.video import scan
from cmkd.data.dataset import Dataset
from cmkd.data.manifest import MANIFEST_FILE
from cmkd.data.workers import OnProgress, run_tasks
from cmkd.errors import CmkdError, DataError, InfrastructureError
from cmkd.io import file_sha256

SECONDS_PER_CLIP = 300.0


@dataclass(frozen=True)
class Damage:
    """A clip and all that is wrong with it."""

    path: str
    problems: tuple[str, ...]


def verify(
    dataset: Dataset,
    *,
    workers: int,
    timeout: float = SECONDS_PER_CLIP,
    on_progress: OnProgress | None = None,
) -> tuple[Damage, ...]:
    """Decode every clip in worker processes; the damaged ones in manifest order.

    Looked at: the file and its SHA-256, codec, size, pixel format, corrupt frames, decoded against
    declared and configured frames, B-frames, and I-frames at the head of every GOP and only there.

    Args:
        timeout: seconds after which a clip counts as undecodable.

    Raises:
        InfrastructureError: a worker process cannot start or was killed.
    """
    encoding, clips = dataset.info.encoding, dataset.clips
    tasks = (_Task(dataset.root / clip.path, clip.sha256, encoding) for clip in clips)
    damaged: dict[int, Damage] = {}
    results = run_tasks(
        _problems, tasks, workers=workers, timeout=timeout, name=lambda task: task.path
    )
    for done, (number, result) in enumerate(results, 1):
        if isinstance(result, InfrastructureError):
            raise result
        problems = (str(result),) if isinstance(result, CmkdError) else result
        if problems:
            damaged[number] = Damage(clips[number].path, problems)
        if on_progress:
            on_progress(done, len(clips))
    return tuple(damaged[number] for number in sorted(damaged))


@dataclass(frozen=True)
class _Task:
    path: Path
    sha256: str
    encoding: EncodingConfig


def _problems(task: _Task) -> tuple[str, ...]:
    try:
        found = file_sha256(task.path)
    except OSError as error:
        return (f"cannot be read ({error.strerror})",)
    changed = () if found == task.sha256 else (f"SHA-256 is not that of {MANIFEST_FILE}",)
    try:
        return (*changed, *_faults(task.path, task.encoding))
    except DataError as error:
        reason = str(error).removeprefix(f"{task.path}: ").rpartition("; ")[0]
        return (*changed, reason)


def _faults(path: Path, encoding: EncodingConfig) -> Iterator[str]:
    """What differs from a file that `cmkd.data.codec.encode` writes."""
    found = scan(path)
    wanted = ("mpeg4", encoding.width, encoding.height, "yuv420p")
    if (found.codec, found.width, found.height, found.pixel_format) != wanted:
        yield (
            f"is {found.codec} {found.width}x{found.height} {found.pixel_format}, not "
            f"{wanted[0]} {wanted[1]}x{wanted[2]} {wanted[3]}"
        )
    if found.error:
        yield f"decoding broke off after {len(found.kinds)} frames ({found.error})"
    if found.corrupt:
        yield f"corrupt frames: {_first(found.corrupt)}"
    if len(found.kinds) != found.frames_declared:
        yield f"declares {found.frames_declared} frames, {len(found.kinds)} can be decoded"
    if encoding.num_frames not in (None, len(found.kinds)):
        yield f"has {len(found.kinds)} frames, not {encoding.num_frames}"
    others = [number for number, kind in enumerate(found.kinds) if kind not in "IP"]
    if others:
        yield f"frames that are neither I nor P: {_first(others)}"
    misplaced = [
        number
        for number, kind in enumerate(found.kinds)
        if (kind == "I") != (number % encoding.gop == 0)
    ]
    if misplaced:
        yield f"I-frames are not those of GOP {encoding.gop}: see frame {_first(misplaced)}"


def _first(numbers: tuple[int, ...] | list[int]) -> str:
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return ", ".join(map(str, numbers[:5])) + more
