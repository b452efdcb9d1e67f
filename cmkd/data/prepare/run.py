"""Make a data set of videos: re-encode every one of them, report what was refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from cmkd.config.data import OfficialPart
from cmkd.data.dataset import Dataset, read_folder
from cmkd.data.manifest import INFO_FILE, ClipEntry, DatasetPlan, read_dataset, write_dataset
from cmkd.data.prepare.plan import (
    PROBLEMS_FILE,
    PrepareRequest,
    check_splits,
    entries_of,
    flip_labels,
    output_path,
    plan_clips,
    write_rejected,
)
from cmkd.data.prepare.reencode import Encoded, EncodeTask, reencode
from cmkd.data.prepare.sources import RejectedFile, Source
from cmkd.data.workers import OnProgress, run_tasks
from cmkd.errors import DataError, InfrastructureError, InputError
from cmkd.io import make_folder

__all__ = ["PrepareReport", "PrepareRequest", "prepare"]

REFUSED_FILE = "refused.csv"
_RECORDS = ".records"
_DEFAULT_REMEDY = "repair or convert the file, or remove it"


@dataclass(frozen=True)
class PrepareReport:
    """Result of a preparation.

    Attributes:
        reused: clips of the data set that were there already.
        missing: annotated clips of a published set that the user does not have.
    """

    dataset: Dataset
    reused: int
    refused: tuple[RejectedFile, ...]
    refused_file: Path
    missing: int


def prepare(
    request: PrepareRequest,
    on_progress: OnProgress | None = None,
) -> PrepareReport:
    """Re-encode the videos of a labelled folder or of a published data set, and write the data set.

    A refused file is listed with reason and remedy in ``refused.csv`` and the rest goes on. A run
    that was killed goes on where it was; other views or splits re-encode nothing.

    Raises:
        DataError: the folder, its manifest or the official annotations are wrong (all problems of
            the last are in ``problems.csv``), two files have one name in the data set, a class
            has no usable clip, or the split rule cannot be followed.
        InputError: the output cannot be used for this request, or is no folder to write to.
        InfrastructureError: the disk is full or fails, or a worker process was killed.
    """
    listing = plan_clips(request)
    make_folder(request.output)
    with _locked(request.output):
        _check_output(request)
        for left in request.output.rglob(".*.partial"):  # of a run that was killed
            left.unlink()
        encoded, failed = _encode_all(request, listing.sources, on_progress)
        refused = tuple(sorted((*listing.left_out, *failed), key=lambda refusal: refusal.path))
        write_rejected(request.output / REFUSED_FILE, refused)
        clips = entries_of(listing, {path: done.sha256 for path, done in encoded.items()})
        _check_classes(request, clips, listing.classes)
        check_splits(clips, listing.classes, request.split)
        official = _kept(listing.official, len(clips))
        plan = DatasetPlan(
            name=request.name,
            kind="folder" if official is None else "official",
            classes=listing.classes,
            encoding=request.encoding,
            views=request.views,
            split=request.split,
            flip_labels=flip_labels(listing),
            official=official,
        )
        write_dataset(request.output, plan.info(clips), clips)
        (request.output / PROBLEMS_FILE).unlink(missing_ok=True)
    reused = sum(done.reused for done in encoded.values())
    return PrepareReport(
        read_folder(request.output),
        reused,
        refused,
        request.output / REFUSED_FILE,
        listing.missing,
    )


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    whole = output.resolve()  # "." has no name to lock
    lock = FileLock(whole.with_name(f".{whole.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{output}: another process is preparing it; wait for it or choose another --name"
        ) from None
    except OSError as error:
        raise InputError(
            f"{lock.lock_file}: cannot be locked ({error.strerror}); choose another --output"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _check_output(request: PrepareRequest) -> None:
    if not (request.output / INFO_FILE).is_file():
        return
    before = read_dataset(request.output)[0].encoding
    if before != request.encoding:
        raise InputError(
            f"{request.output}: holds this data set in another encoding ({before.width}x"
            f"{before.height}, GOP {before.gop}, qscale {before.qscale}, frames "
            f"{before.num_frames or 'all'}); choose another --name, or delete that folder"
        )


def _encode_all(
    request: PrepareRequest,
    sources: Sequence[Source],
    on_progress: OnProgress | None,
) -> tuple[dict[str, Encoded], list[RejectedFile]]:
    tasks = (
        EncodeTask(
            request.root / source.path,
            request.output / output_path(source),
            request.output / _RECORDS / f"{source.path}.json",
            request.encoding,
            source.checksum,
        )
        for source in sources
    )
    encoded: dict[str, Encoded] = {}
    failed: list[RejectedFile] = []
    results = run_tasks(
        reencode,
        tasks,
        workers=request.workers,
        timeout=request.timeout,
        name=lambda task: task.source,
    )
    for done, (number, result) in enumerate(results, 1):
        path = sources[number].path
        if isinstance(result, InfrastructureError):
            raise result
        if isinstance(result, Encoded):
            encoded[path] = result
        else:
            failed.append(_refusal(path, str(result), request.root))
        if on_progress:
            on_progress(done, len(sources))
    return encoded, failed


def _kept(planned: OfficialPart | None, clips: int) -> OfficialPart | None:
    """What is left of a published data set whose refused files are gone."""
    if planned is None or planned.clips == clips:
        return planned
    return planned.model_copy(update={"clips": clips, "complete": False})


def _refusal(path: str, message: str, root: Path) -> RejectedFile:
    text = message.removeprefix(f"{root / path}: ")
    reason, _, remedy = text.rpartition("; ")
    return (
        RejectedFile(path, reason, remedy) if reason else RejectedFile(path, text, _DEFAULT_REMEDY)
    )


def _check_classes(
    request: PrepareRequest, clips: Sequence[ClipEntry], classes: Sequence[str]
) -> None:
    present = {clip.label for clip in clips}
    without = [name for label, name in enumerate(classes) if label not in present]
    if without:
        raise DataError(
            f"{request.root}: classes without a usable clip: {', '.join(without)}; "
            f"{request.output / REFUSED_FILE} says why each file was refused"
        )
