"""Make a data set of a labelled folder: re-encode every video, report what was refused."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from cmkd.config.data import EncodingConfig, SplitConfig, ViewsConfig
from cmkd.data.datasets import Dataset, read_folder
from cmkd.data.files import make_folder, write_text
from cmkd.data.manifest import INFO_FILE, ClipEntry, DatasetPlan, read_dataset, write_dataset
from cmkd.data.pool import OnProgress, run_tasks
from cmkd.data.reencode import MIN_FRAMES, Encoded, EncodeTask, reencode
from cmkd.data.sources import Refusal, Source, find_sources
from cmkd.data.splits import number_of_folds, split_clips
from cmkd.data.synthetic import RECIPES
from cmkd.errors import DataError, InfrastructureError, InputError

REFUSED_FILE = "refused.csv"
_RECORDS = ".records"
_DEFAULT_REMEDY = "repair or convert the file, or remove it"


@dataclass(frozen=True)
class PrepareRequest:
    """What to prepare and how.

    Attributes:
        root: the user's folder; it is only read.
        output: where the data set is written; may not touch `root`.
        workers: processes.
        timeout: seconds after which a file counts as undecodable.
    """

    root: Path
    output: Path
    name: str
    encoding: EncodingConfig
    views: ViewsConfig
    split: SplitConfig
    workers: int = 1
    timeout: float = 900.0


@dataclass(frozen=True)
class PrepareReport:
    """What came of it; `reused` of the data set's clips were there already."""

    dataset: Dataset
    reused: int
    refused: tuple[Refusal, ...]
    refused_file: Path


def prepare(request: PrepareRequest, on_progress: OnProgress | None = None) -> PrepareReport:
    """Re-encode the videos of a labelled folder and write the data set.

    A refused file is listed with reason and remedy in ``refused.csv`` and the rest goes on. A run
    that was killed goes on where it was; other views or splits re-encode nothing.

    Raises:
        DataError: the folder or its manifest is wrong, two files have one name in the data set,
            a class has no usable clip, or the split rule cannot be followed.
        InputError: the output cannot be used for this request, or is no folder to write to.
        InfrastructureError: the disk is full or fails, or a worker process was killed.
    """
    _check_request(request)
    sources, left_out = find_sources(request.root)
    _check_names(request.root, sources)
    classes = tuple(sorted({source.label for source in sources}))
    _check_splits([_entry(source, classes, "") for source in sources], classes, request.split)
    make_folder(request.output)
    with _locked(request.output):
        _check_output(request)
        encoded, failed = _encode_all(request, sources, on_progress)
        refused = tuple(sorted((*left_out, *failed), key=lambda refusal: refusal.path))
        _write_refused(request.output / REFUSED_FILE, refused)
        clips = [
            _entry(source, classes, encoded[source.path].sha256)
            for source in sources
            if source.path in encoded
        ]
        _check_classes(request, clips, classes)
        _check_splits(clips, classes, request.split)
        plan = DatasetPlan(
            name=request.name,
            kind="folder",
            classes=classes,
            encoding=request.encoding,
            views=request.views,
            split=request.split,
            flip_labels={},
        )
        write_dataset(request.output, plan.info(clips), clips)
    reused = sum(done.reused for done in encoded.values())
    return PrepareReport(
        read_folder(request.output), reused, refused, request.output / REFUSED_FILE
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


def _check_names(root: Path, sources: Sequence[Source]) -> None:
    by_output: dict[PurePosixPath, list[str]] = defaultdict(list)
    for source in sources:
        by_output[PurePosixPath(_output_path(source))].append(source.path)
    clashes = [" and ".join(paths) for paths in by_output.values() if len(paths) > 1]
    if clashes:
        raise DataError(
            f"{root}: have the same name in the data set: {', '.join(clashes)}; rename one of each"
        )


def _check_request(request: PrepareRequest) -> None:
    if request.name in RECIPES:
        raise InputError(f"--name {request.name}: is an embedded data set; choose another name")
    frames = request.encoding.num_frames
    if frames is not None and frames < MIN_FRAMES:
        raise InputError(f"--frames {frames}: at least {MIN_FRAMES} are needed; raise it")
    root, output = request.root.resolve(), request.output.resolve()
    if root == output or root in output.parents or output in root.parents:
        raise InputError(
            f"--output {request.output}: overlaps the source folder {request.root}; choose a "
            "folder outside of it"
        )


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
    request: PrepareRequest, sources: Sequence[Source], on_progress: OnProgress | None
) -> tuple[dict[str, Encoded], list[Refusal]]:
    tasks = [
        EncodeTask(
            request.root / source.path,
            request.output / _output_path(source),
            request.output / _RECORDS / f"{source.path}.json",
            request.encoding,
        )
        for source in sources
    ]
    encoded: dict[str, Encoded] = {}
    failed: list[Refusal] = []
    results = run_tasks(reencode, tasks, workers=request.workers, timeout=request.timeout)
    for done, (number, result) in enumerate(results, 1):
        path = sources[number].path
        if isinstance(result, InfrastructureError):
            raise result
        if isinstance(result, Encoded):
            encoded[path] = result
        else:
            failed.append(_refusal(path, str(result), request.root))
        if on_progress:
            on_progress(done, len(tasks))
    return encoded, failed


def _refusal(path: str, message: str, root: Path) -> Refusal:
    text = message.removeprefix(f"{root / path}: ")
    reason, _, remedy = text.rpartition("; ")
    return Refusal(path, reason, remedy) if reason else Refusal(path, text, _DEFAULT_REMEDY)


def _output_path(source: Source) -> str:
    """Mirrors the source tree; a full former name keeps ``a.avi`` and ``a.mp4`` apart."""
    return source.path if source.path.endswith(".mp4") else f"{source.path}.mp4"


def _entry(source: Source, classes: Sequence[str], sha256: str) -> ClipEntry:
    return ClipEntry(_output_path(source), classes.index(source.label), source.group, "", sha256)


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


def _check_splits(clips: Sequence[ClipEntry], classes: Sequence[str], rule: SplitConfig) -> None:
    known = {clip.group for clip in clips}
    unknown = [group for group in rule.train_only if group not in known]
    if unknown:
        raise DataError(
            f"--train-only {', '.join(unknown)}: no clip has that group; known: "
            f"{', '.join(sorted(known - {''})) or 'none'}"
        )
    for fold in range(number_of_folds(clips, rule)):
        split_clips(clips, classes, rule, fold)


def _write_refused(path: Path, refused: Sequence[Refusal]) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("path", "reason", "remedy"))
    writer.writerows((refusal.path, refusal.reason, refusal.remedy) for refusal in refused)
    write_text(path, stream.getvalue())
