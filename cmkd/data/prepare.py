"""Preparation of a data set: check the request, re-encode every video, list what was refused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from cmkd.config.data import DatasetInfo, EncodingConfig, SplitConfig, ViewsConfig
from cmkd.data.dataset import (
    INFO_FILE,
    Dataset,
    csv_text,
    read_folder,
    write_dataset,
)
from cmkd.data.reencode import MIN_FRAMES, Encoded, reencode
from cmkd.data.sources import (
    AnnotationProblems,
    OfficialRequest,
    SourceList,
    find_official,
    find_sources,
)
from cmkd.data.splits import ClipEntry, check_splits
from cmkd.data.synthetic import RECIPES
from cmkd.data.workers import OnProgress, run_tasks
from cmkd.errors import DataError, FileError, InputError
from cmkd.io import make_folder, write_text

PROBLEMS_FILE, REFUSED_FILE = "problems.csv", "refused.csv"
_RECORDS = ".records"


@dataclass(frozen=True)
class PrepareRequest:
    """Request to prepare a data set.

    Attributes:
        root: the user's folder; it is only read.
        output: folder of the data set; may not touch `root`.
        official: published data set that it is, with its annotation files; None for a folder
            of classes or with a manifest. Its `split` is ``given``.
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
    ignored_columns: tuple[str, ...] = ()
    workers: int = 1
    timeout: float = 900.0


@dataclass(frozen=True)
class PrepareReport:
    """Result of a preparation.

    Attributes:
        reused: clips of the data set that were there already.
        refused: files that are not used, as `refused_file` lists them.
        missing: annotated clips of a published set that the user does not have.
    """

    dataset: Dataset
    reused: int
    refused: tuple[FileError, ...]
    missing: int

    @property
    def refused_file(self) -> Path:
        """CSV with path, reason and remedy of each refused file."""
        return self.dataset.root / REFUSED_FILE


def prepare(request: PrepareRequest, on_progress: OnProgress | None = None) -> PrepareReport:
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
    listing, output = plan_clips(request), request.output
    make_folder(output)
    with _locked(output):
        _check_output(request)
        for left in output.rglob(".*.partial"):  # of a run that was killed
            left.unlink()
        encoded, failed = _encode_all(request, listing, on_progress)
        refused = tuple(sorted((*listing.left_out, *failed), key=lambda error: error.path))
        _write_list(output / REFUSED_FILE, refused)
        clips = [
            ClipEntry(clip.path, clip.label, clip.group, clip.split, done.sha256)
            for clip, done in zip(_entries(listing), encoded, strict=True)
            if done
        ]
        _check_classes(request, clips, listing.classes)
        check_splits(clips, listing.classes, request.split)
        _write(request, listing, clips)
        (output / PROBLEMS_FILE).unlink(missing_ok=True)
    reused = sum(done.reused for done in encoded if done)
    return PrepareReport(read_folder(output), reused, refused, listing.missing)


def plan_clips(request: PrepareRequest) -> SourceList:
    """Sources of the data set, after all checks that need no decoding.

    Raises:
        DataError, InputError: as `prepare`.
    """
    _check_request(request)
    listing = _listing(request)
    by_output: defaultdict[PurePosixPath, list[str]] = defaultdict(list)
    for source in listing.sources:
        by_output[PurePosixPath(output_path(source.path))].append(source.path)
    clashes = [" and ".join(paths) for paths in by_output.values() if len(paths) > 1]
    if clashes:
        raise DataError(
            f"{request.root}: have the same name in the data set: {', '.join(clashes)}",
            "rename one of each",
        )
    absent = sorted(set(listing.mirrored.values()) - set(listing.classes))
    if absent and request.views.flip != "none":
        raise DataError(
            f"{request.root}: mirrored clips would be of classes that are not there: "
            f"{', '.join(absent)}",
            "leave out --flip, or add these classes",
        )
    check_splits(_entries(listing), listing.classes, request.split)
    return listing


def _check_request(request: PrepareRequest) -> None:
    if request.name in RECIPES:
        raise InputError(f"--name {request.name}: is an embedded data set", "choose another name")
    encoding = request.encoding
    if encoding.num_frames is not None and encoding.num_frames < MIN_FRAMES:
        raise InputError(
            f"--frames {encoding.num_frames}: at least {MIN_FRAMES} are needed", "raise it"
        )
    if not request.views.fits(encoding):
        raise InputError(
            f"--crop {request.views.crop}: is more than a side of {encoding.width}x"
            f"{encoding.height} pictures",
            "choose a smaller crop, or raise --width and --height",
        )
    root, output = request.root.resolve(), request.output.resolve()
    if root == output or root in output.parents or output in root.parents:
        raise InputError(
            f"--output {request.output}: overlaps the source folder {request.root}",
            "choose a folder outside of it",
        )


def _listing(request: PrepareRequest) -> SourceList:
    if request.official is None:
        given = request.split.rule == "given"
        return find_sources(request.root, given=given, ignored=request.ignored_columns)
    try:
        return find_official(request.root, request.official)
    except AnnotationProblems as error:
        listed = request.output / PROBLEMS_FILE
        make_folder(request.output)
        _write_list(listed, error.problems)
        raise DataError(f"{error}; {listed} lists all of them with remedies") from None


def _entries(listing: SourceList) -> list[ClipEntry]:
    """Manifest rows of all sources, without digests."""
    labels = {name: label for label, name in enumerate(listing.classes)}
    return [
        ClipEntry(output_path(source.path), labels[source.label], source.group, source.split, "")
        for source in listing.sources
    ]


def output_path(path: str) -> str:
    """Mirrors the source tree; a full former name keeps ``a.avi`` and ``a.mp4`` apart."""
    return path if path.endswith(".mp4") else f"{path}.mp4"


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    whole = output.resolve()  # "." has no name to lock
    lock = FileLock(whole.with_name(f".{whole.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{output}: another process is preparing it", "wait for it or choose another --name"
        ) from None
    except OSError as error:
        raise InputError(
            f"{lock.lock_file}: cannot be locked ({error.strerror})", "choose another --output"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _check_output(request: PrepareRequest) -> None:
    if not (request.output / INFO_FILE).is_file():
        return
    before = read_folder(request.output).info.encoding
    if before != request.encoding:
        raise InputError(
            f"{request.output}: holds this data set in another encoding ({before.width}x"
            f"{before.height}, GOP {before.gop}, qscale {before.qscale}, frames "
            f"{before.num_frames or 'all'})",
            "choose another --name, or delete that folder",
        )


def _encode_all(
    request: PrepareRequest, listing: SourceList, on_progress: OnProgress | None
) -> tuple[list[Encoded | None], list[FileError]]:
    """Result of each source, None if it was refused; the refusals."""
    paths = [source.path for source in listing.sources]
    encoded: list[Encoded | None] = [None] * len(paths)
    failed: list[FileError] = []
    results = run_tasks(
        partial(_encode, request),
        paths,
        workers=request.workers,
        timeout=request.timeout,
        on_progress=on_progress,
    )
    for number, result in results:
        if isinstance(result, Encoded):
            encoded[number] = result
        else:
            failed.append(FileError(paths[number], result.reason, result.remedy))
    return encoded, failed


def _encode(request: PrepareRequest, path: str) -> Encoded:
    output = request.output / output_path(path)
    record = request.output / _RECORDS / f"{path}.json"
    return reencode(request.root / path, output, record, request.encoding)


def _write_list(path: Path, refused: Sequence[FileError]) -> None:
    rows = ((error.path, error.reason, error.remedy) for error in refused)
    write_text(path, csv_text(("path", "reason", "remedy"), rows))


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


def _write(request: PrepareRequest, listing: SourceList, clips: Sequence[ClipEntry]) -> None:
    classes, official = listing.classes, listing.official
    if official is not None and official.clips != len(clips):
        official = official.model_copy(update={"clips": len(clips), "complete": False})
    flips = {name: other for name, other in listing.mirrored.items() if other in classes}
    info = DatasetInfo(
        name=request.name,
        kind="official" if official else "folder",
        classes=classes,
        encoding=request.encoding,
        views=request.views,
        split=request.split,
        flip_labels={"horizontal": flips} if flips else {},
        digest="",
        official=official,
    )
    write_dataset(request.output, info, clips)
