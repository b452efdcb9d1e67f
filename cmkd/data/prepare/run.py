"""Preparation of a data set: check the request, re-encode every video, list what was rejected."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from cmkd.config.data import EncodingConfig, OfficialPart, SplitConfig, ViewsConfig
from cmkd.data.dataset import Dataset, read_folder
from cmkd.data.manifest import INFO_FILE, ClipEntry, DatasetPlan, read_dataset, write_dataset
from cmkd.data.prepare.official import AnnotationProblems, OfficialRequest, find_official
from cmkd.data.prepare.reencode import MIN_FRAMES, Encoded, EncodeTask, reencode, with_checksums
from cmkd.data.prepare.sources import RejectedFile, Source, SourceList, find_sources
from cmkd.data.splits import number_of_folds, split_clips
from cmkd.data.synthetic import RECIPES
from cmkd.data.workers import OnProgress, run_tasks
from cmkd.errors import DataError, InfrastructureError, InputError
from cmkd.io import make_folder, write_text

PROBLEMS_FILE = "problems.csv"


@dataclass(frozen=True)
class PrepareRequest:
    """What to prepare and how.

    Attributes:
        root: the user's folder; it is only read.
        output: where the data set is written; may not touch `root`.
        official: the published data set that it is, with its annotation files; None for a folder
            of classes or with a manifest. Its `split` is ``given``.
        checksums: a list of the files' digests; None to take the files as they are.
        ignored_columns: of the folder's manifest.
        workers: processes.
        timeout: seconds after which a file counts as undecodable.
    """

    root: Path
    output: Path
    name: str
    encoding: EncodingConfig
    views: ViewsConfig
    split: SplitConfig
    official: OfficialRequest | None = None
    checksums: Path | None = None
    ignored_columns: tuple[str, ...] = ()
    workers: int = 1
    timeout: float = 900.0


def plan_clips(request: PrepareRequest) -> SourceList:
    """What `prepare` would make, once everything is looked at that can be before decoding.

    Raises:
        DataError, InputError: as `cmkd.data.prepare.run.prepare`.
    """
    _check_request(request)
    listing = _listing(request)
    if request.checksums is not None:
        listing = with_checksums(listing, request.checksums)
    _check_names(request.root, listing.sources)
    _check_mirrors(request, listing)
    entries = entries_of(listing, dict.fromkeys((source.path for source in listing.sources), ""))
    check_splits(entries, listing.classes, request.split)
    return listing


def _check_request(request: PrepareRequest) -> None:
    if request.name in RECIPES:
        raise InputError(f"--name {request.name}: is an embedded data set; choose another name")
    frames = request.encoding.num_frames
    if frames is not None and frames < MIN_FRAMES:
        raise InputError(f"--frames {frames}: at least {MIN_FRAMES} are needed; raise it")
    if not request.views.fits(request.encoding):
        raise InputError(
            f"--crop {request.views.crop}: is more than a side of {request.encoding.width}x"
            f"{request.encoding.height} pictures; choose a smaller crop, or raise --width and "
            "--height"
        )
    root, output = request.root.resolve(), request.output.resolve()
    if root == output or root in output.parents or output in root.parents:
        raise InputError(
            f"--output {request.output}: overlaps the source folder {request.root}; choose a "
            "folder outside of it"
        )


def _listing(request: PrepareRequest) -> SourceList:
    if request.official is None:
        given = request.split.rule == "given"
        ignored = request.ignored_columns
        sources, left_out = find_sources(request.root, given=given, ignored=ignored)
        classes = tuple(sorted({source.label for source in sources}))
        return SourceList(sources, left_out, classes, {})
    try:
        return find_official(request.root, request.official)
    except AnnotationProblems as error:
        listed = request.output / PROBLEMS_FILE
        make_folder(request.output)
        write_rejected(listed, error.problems)
        raise DataError(f"{error}; {listed} lists all of them with remedies") from None


def _check_names(root: Path, sources: Sequence[Source]) -> None:
    by_output: dict[PurePosixPath, list[str]] = defaultdict(list)
    for source in sources:
        by_output[PurePosixPath(output_path(source))].append(source.path)
    clashes = [" and ".join(paths) for paths in by_output.values() if len(paths) > 1]
    if clashes:
        raise DataError(
            f"{root}: have the same name in the data set: {', '.join(clashes)}; rename one of each"
        )


def _check_mirrors(request: PrepareRequest, listing: SourceList) -> None:
    absent = sorted(set(listing.mirrored.values()) - set(listing.classes))
    if absent and request.views.flip != "none":
        raise DataError(
            f"{request.root}: mirrored clips would be of classes that are not there: "
            f"{', '.join(absent)}; leave out --flip, or add these classes"
        )


def check_splits(clips: Sequence[ClipEntry], classes: Sequence[str], rule: SplitConfig) -> None:
    """Make every fold once.

    Raises:
        DataError: the split rule cannot be followed.
    """
    known = {clip.group for clip in clips}
    unknown = [group for group in rule.train_only if group not in known]
    if unknown:
        raise DataError(
            f"--train-only {', '.join(unknown)}: no clip has that group; known: "
            f"{', '.join(sorted(known - {''})) or 'none'}"
        )
    for fold in range(number_of_folds(clips, rule)):
        split_clips(clips, classes, rule, fold)


def entries_of(listing: SourceList, hashes: Mapping[str, str]) -> list[ClipEntry]:
    """Manifest rows of the sources that have a hash, by their paths."""
    labels = {name: label for label, name in enumerate(listing.classes)}
    return [
        ClipEntry(
            output_path(source),
            labels[source.label],
            source.group,
            source.split,
            hashes[source.path],
        )
        for source in listing.sources
        if source.path in hashes
    ]


def output_path(source: Source) -> str:
    """Mirrors the source tree; a full former name keeps ``a.avi`` and ``a.mp4`` apart."""
    return source.path if source.path.endswith(".mp4") else f"{source.path}.mp4"


def flip_labels(listing: SourceList) -> dict[str, dict[str, str]]:
    """`DatasetInfo.flip_labels`: the pairs of classes that are both there."""
    pairs = {one: other for one, other in listing.mirrored.items() if other in listing.classes}
    return {"horizontal": pairs} if pairs else {}


def write_rejected(path: Path, refused: Sequence[RejectedFile]) -> None:
    """A CSV with path, reason and remedy of each.

    Raises:
        InfrastructureError: it cannot be written.
    """
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("path", "reason", "remedy"))
    writer.writerows((refusal.path, refusal.reason, refusal.remedy) for refusal in refused)
    write_text(path, stream.getvalue())


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
