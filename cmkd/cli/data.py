"""``cmkd data``: prepare, list and check data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from cmkd.cli.work import Workers, aligned, checked_name, grouped, progress, usable_workers
from cmkd.errors import DataError, InputError

if TYPE_CHECKING:
    from cmkd.config.base import Config
    from cmkd.config.data import SplitConfig
    from cmkd.data.dataset import Dataset
    from cmkd.data.sources import OfficialRequest

    Model = TypeVar("Model", bound=Config)

Data = Annotated[str, typer.Argument(metavar="NAME|PATH", help="Embedded or prepared data set.")]

app = typer.Typer(help="Prepare, list and check data sets.", no_args_is_help=True)

PREPARE = {
    "Published data sets": "published annotations split subset",
    "Encoding": "width height gop qscale frames",
    "Training, validation and test": "folds leave_one_group_out given train_only split_seed "
    "no_validation",
    "Augmented views of training clips": "views flip shift scale rotation phase crop",
}


@app.command(cls=grouped(PREPARE))
def prepare(
    root: Annotated[
        Path,
        typer.Argument(help="Folder with CLASS/*.mp4 (avi, mkv, mov, mpg, webm), or see --as."),
    ],
    name: Annotated[str, typer.Option(help="Name of the data set.")],
    published: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="SET",
            help="ROOT holds the videos of ucf101, hmdb51, kinetics400 or ssv2, in any folders.",
        ),
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="With --as: folder of the official annotation files.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="With --as: 1, 2, 3 or all (three folds, the default); or val (tested, the "
            "default) or test."
        ),
    ] = None,
    subset: Annotated[
        bool, typer.Option("--subset", help="With --as: leave out what is not in ROOT.")
    ] = False,
    ignore_column: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Column of manifest.csv to pass over.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Default: data/NAME in the cache.")] = None,
    width: Annotated[int, typer.Option(help="Pixels, a multiple of 16.")] = 320,
    height: Annotated[int, typer.Option(help="Pixels, a multiple of 16.")] = 256,
    gop: Annotated[int, typer.Option(help="Frames from one I-frame to the next.")] = 12,
    qscale: Annotated[int, typer.Option(help="Quantiser, 1 is best.")] = 2,
    frames: Annotated[int | None, typer.Option(help="Resample clips to this length.")] = None,
    folds: Annotated[int | None, typer.Option(help="Group-disjoint folds (default 5).")] = None,
    leave_one_group_out: Annotated[
        bool, typer.Option("--leave-one-group-out", help="One fold per group.")
    ] = False,
    given: Annotated[
        bool,
        typer.Option(
            "--given", help="Folds are the words (train, val, test, -) of manifest.csv's split."
        ),
    ] = False,
    train_only: Annotated[
        list[str] | None,
        typer.Option(metavar="GROUP", help="Group that never tests; can be repeated."),
    ] = None,
    split_seed: Annotated[int, typer.Option(help="Which folds are drawn.")] = 0,
    no_validation: Annotated[
        bool,
        typer.Option(
            "--no-validation", help="Train on all clips that do not test; last epochs are selected."
        ),
    ] = False,
    views: Annotated[int, typer.Option(help="Views of each training clip.")] = 1,
    flip: Annotated[
        bool,
        typer.Option(
            "--flip",
            help="Mirror left to right; only where classes stay the same (ssv2's change places).",
        ),
    ] = False,
    shift: Annotated[float, typer.Option(help="Largest shift, share of the size.")] = 0.0,
    scale: Annotated[float, typer.Option(help="Largest relative zoom.")] = 0.0,
    rotation: Annotated[float, typer.Option(help="Largest angle, degrees.")] = 0.0,
    phase: Annotated[
        bool, typer.Option("--phase", help="Vary the sampled frame inside its segment.")
    ] = False,
    crop: Annotated[
        int | None, typer.Option(help="Cut squares of this side, as TSM does (say 224).")
    ] = None,
    workers: Workers = None,
) -> None:
    """Re-encode a labelled folder, or a published data set, to MPEG-4 Part 2 and split it.

    A manifest.csv in ROOT or beside it may give path, label, group and split of each file. Files
    that cannot be used are listed in refused.csv with reason and remedy. The same command goes on
    after a kill.
    """
    from cmkd.config.data import EncodingConfig, ViewsConfig
    from cmkd.config.paths import usable_cache
    from cmkd.data.prepare import PrepareRequest
    from cmkd.data.prepare import prepare as run

    official = _official(published, annotations, split, subset)
    request = PrepareRequest(
        root=root,
        output=(output or usable_cache() / "data" / checked_name(name)).absolute(),
        name=checked_name(name),
        encoding=_config(
            EncodingConfig, width=width, height=height, gop=gop, qscale=qscale, num_frames=frames
        ),
        views=_config(
            ViewsConfig,
            count=views,
            flip="horizontal" if flip else "none",
            shift=shift,
            scale=scale,
            rotation=rotation,
            phase=phase,
            crop=crop,
        ),
        split=_split(
            official, given, folds, leave_one_group_out, train_only or [], split_seed
        ).model_copy(update={"validation": not no_validation}),
        official=official,
        ignored_columns=tuple(ignore_column or ()),
        workers=usable_workers(workers),
    )
    with progress("re-encoding") as on_progress:
        report = run(request, on_progress)
    refused = f"{len(report.refused)} refused"
    typer.echo(
        f"{len(report.dataset.clips)} prepared ({report.reused} of them before), "
        + (f"{refused} -> {report.refused_file}" if report.refused else refused)
    )
    if report.missing:
        typer.echo(f"{report.missing} annotated clips are not in {root} (--subset)")
    _describe(report.dataset)


@app.command()
def show(data: Data) -> None:
    """Show classes, groups and the folds of a data set with their sizes per class."""
    from cmkd.config.paths import usable_cache
    from cmkd.data.dataset import open_dataset

    _describe(open_dataset(data, usable_cache()))


@app.command("list")
def list_datasets() -> None:
    """Show the embedded data sets and those prepared in the cache."""
    from cmkd.config.paths import cache_root
    from cmkd.data.dataset import find_datasets, read_folder
    from cmkd.data.synthetic import RECIPES

    rows = [("name", "kind", "clips", "classes", "folds", "groups", "where")]
    found = find_datasets(cache_root())
    for name, recipe in RECIPES.items():
        clips, classes = sum(recipe.sizes.values()), len(recipe.info.classes)
        where = str(found.pop(name, "made on first use"))
        rows.append((name, "embedded", str(clips), str(classes), "1", "0", where))
    for name, folder in found.items():
        try:
            dataset = read_folder(folder)
        except DataError as error:
            rows.append((name, "damaged", "-", "-", "-", "-", str(error)))
            continue
        clips, classes = len(dataset.clips), len(dataset.info.classes)
        counts = str(clips), str(classes), str(dataset.num_folds), str(dataset.num_groups)
        rows.append((name, dataset.info.kind, *counts, str(folder)))
    typer.echo("\n".join(aligned(rows)))


@app.command()
def verify(data: Data, workers: Workers = None) -> None:
    """Decode every clip and compare it with the manifest and the encoding of the data set.

    Prints all that is wrong with each clip and a summary; exit code 2 if there is anything.
    """
    from cmkd.config.paths import cache_root
    from cmkd.data.dataset import open_dataset
    from cmkd.data.inspect import verify as run

    count = usable_workers(workers)
    dataset = open_dataset(data, cache_root())
    with progress("verifying") as on_progress:
        damaged = run(dataset, workers=count, on_progress=on_progress)
    for path, problems in damaged.items():
        typer.echo(f"{path}: {'; '.join(problems)}")
    total = len(dataset.clips)
    typer.echo(f"{dataset.info.name}: {total - len(damaged)} of {total} clips are intact")
    if damaged:
        embedded = dataset.info.kind == "embedded"
        again = "run it again" if embedded else "give the same cmkd data prepare again"
        raise DataError(
            f"{dataset.root}: {len(damaged)} clips are damaged (listed above); remove these files "
            f"and {again}, which makes them anew"
        )


@app.command()
def inspect(
    clip: Annotated[str, typer.Argument(metavar="FILE|NAME:CLIP", help="A prepared clip.")],
    output: Annotated[Path | None, typer.Option(help="Default: CLIP.png in this folder.")] = None,
    frames: Annotated[int, typer.Option(min=2, max=64, help="Sampled P-frames.")] = 8,
) -> None:
    """Draw what the student sees of a clip: I-frames, motion, residuals and what they add up to.

    In NAME:CLIP the name is that of a data set and the clip a path of its manifest.
    """
    from cmkd.data.inspect import inspect_clip, wheel
    from cmkd.io import write_atomic
    from cmkd.report.figures.style import render_pictures

    path = _clip(clip)
    sights, full = inspect_clip(path, frames)
    picture = render_pictures(
        title=path.name,
        columns=("decoded frame", "I-frame", "motion", "residual", "rebuilt"),
        rows=[
            (
                f"frame {frame.number} from {frame.intra}\nerror: moved {frame.motion_error:.1f}, "
                f"rebuilt {frame.error:.1f}",
                (frame.frame, frame.iframe, frame.motion, frame.residual, frame.rebuilt),
            )
            for frame in sights
        ],
        legend=wheel(120),
        legend_text=(
            "Motion: the hue is the direction towards the I-frame, as on the disc; brightness is "
            f"full from {full:.1f} pixels on.\n"
            "Residual: middle grey is none, a level is a level.\n"
            "Rebuilt: the I-frame moved by 4 x 4 cells of motion, plus 2 x 2 cells of residual.\n"
            "Error: mean absolute difference from the decoded frame in grey levels, of the moved "
            "I-frame alone and of the rebuilt frame."
        ),
    )
    target = output or Path(f"{path.stem}.png")
    write_atomic(target, lambda draft: draft.write_bytes(picture))
    mean = sum(frame.error for frame in sights) / len(sights)
    typer.echo(f"{target}: {len(sights)} frames, rebuilt to {mean:.2f} grey levels on average")


def _clip(text: str) -> Path:
    """The file, or the clip of a data set.

    Raises:
        DataError: there is neither.
    """
    from cmkd.config.paths import cache_root
    from cmkd.data.dataset import open_dataset

    name, colon, inside = text.partition(":")
    if Path(text).is_file() or not colon:
        return Path(text)
    dataset = open_dataset(name, cache_root())
    if inside not in {clip.path for clip in dataset.clips}:
        first = dataset.clips[0].path
        raise DataError(f"{name}: has no clip {inside!r}; give a path of its manifest, as {first}")
    return dataset.root / inside


def _official(
    name: str | None, annotations: Path | None, split: str | None, subset: bool
) -> OfficialRequest | None:
    from cmkd.config.yaml_loader import suggest
    from cmkd.data.annotations import OFFICIAL
    from cmkd.data.sources import OfficialRequest

    if name is None:
        if annotations or split or subset:
            raise InputError("--annotations, --split and --subset: are for --as SET; name the set")
        return None
    if name not in OFFICIAL:
        known = ", ".join(OFFICIAL)
        raise InputError(f"--as {name}: is not one of {known}{suggest(name, OFFICIAL)}")
    if annotations is None:
        raise InputError(f"--as {name}: needs --annotations, the folder of its official files")
    return OfficialRequest(name, annotations, split or OFFICIAL[name].splits[0], subset)


def _split(
    official: OfficialRequest | None,
    given: bool,
    folds: int | None,
    leave_one_group_out: bool,
    train_only: list[str],
    seed: int,
) -> SplitConfig:
    from cmkd.config.data import SplitConfig

    asked = {
        f"--as {official.name if official else ''}": ("given", official is not None),
        "--given": ("given", given),
        "--folds": ("folds", folds is not None),
        "--leave-one-group-out": ("leave_one_group_out", leave_one_group_out),
    }
    rules = {option: rule for option, (rule, is_asked) in asked.items() if is_asked}
    if len(rules) > 1:
        raise InputError(f"{' and '.join(rules)}: give one of them, for each is a rule of its own")
    option, rule = next(iter(rules.items()), ("", "folds"))
    if train_only and rule == "given":
        raise InputError(f"{option} and --train-only: the split says what trains; leave one out")
    values = {"rule": rule, "train_only": tuple(train_only), "seed": seed}
    return _config(SplitConfig, **values, **({"folds": folds} if folds is not None else {}))


def _config(model: type[Model], **values: Any) -> Model:
    from pydantic import ValidationError

    from cmkd.config.yaml_loader import explain

    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InputError(f"options of the data set: {explain(error, model)}") from None


def _describe(dataset: Dataset) -> None:
    typer.echo(f"{dataset.info.name}: id {dataset.id}, in {dataset.root}")
    if dataset.info.official is not None:
        typer.echo(dataset.info.official.words)
    for line in dataset.summary():
        typer.echo(line)
