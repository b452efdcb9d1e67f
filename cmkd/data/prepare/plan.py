"""What is to be prepared, looked through before anything is decoded."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cmkd.config.data import EncodingConfig, SplitConfig, ViewsConfig
from cmkd.data.manifest import ClipEntry
from cmkd.data.prepare.official import AnnotationProblems, OfficialRequest, find_official
from cmkd.data.prepare.reencode import MIN_FRAMES, with_checksums
from cmkd.data.prepare.sources import RejectedFile, Source, SourceList, find_sources
from cmkd.data.splits import number_of_folds, split_clips
from cmkd.data.synthetic import RECIPES
from cmkd.errors import DataError, InputError
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
