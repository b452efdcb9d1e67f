"""``cmkd data verify`` and ``cmkd data inspect``: look at what was prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cmkd.cli.work import progress, usable_workers
from cmkd.errors import DataError


def verify(
    data: Annotated[str, typer.Argument(metavar="NAME|PATH", help="prepared data set")],
    workers: Annotated[int | None, typer.Option(help="processes (default: every CPU)")] = None,
) -> None:
    """Decode every clip and compare it with the manifest and the encoding of the data set.

    Prints all that is wrong with each clip and a summary; exit code 2 if there is anything.
    """
    from cmkd.config.paths import cache_root
    from cmkd.data.datasets import open_dataset
    from cmkd.data.verify import verify as run

    count = usable_workers(workers)
    dataset = open_dataset(data, cache_root())
    with progress("verifying") as on_progress:
        damaged = run(dataset, workers=count, on_progress=on_progress)
    for damage in damaged:
        typer.echo(f"{damage.path}: {'; '.join(damage.problems)}")
    total = len(dataset.clips)
    typer.echo(f"{dataset.info.name}: {total - len(damaged)} of {total} clips are intact")
    if damaged:
        embedded = dataset.info.kind == "embedded"
        again = "run it again" if embedded else "give the same cmkd data prepare again"
        raise DataError(
            f"{dataset.root}: {len(damaged)} clips are damaged (listed above); remove these files "
            f"and {again}, which makes them anew"
        )


def inspect(
    clip: Annotated[str, typer.Argument(metavar="FILE|NAME:CLIP", help="a prepared clip")],
    output: Annotated[Path | None, typer.Option(help="default: CLIP.png in this folder")] = None,
    frames: Annotated[int, typer.Option(min=2, max=64, help="sampled P-frames")] = 8,
) -> None:
    """Draw what the student sees of a clip: I-frames, motion, residuals and what they add up to.

    In NAME:CLIP the name is that of a data set and the clip a path of its manifest.
    """
    from cmkd.data.files import write_atomic
    from cmkd.data.inspect_clip import inspect_clip, wheel
    from cmkd.report.figures.clip import render_pictures

    path = _clip(clip)
    seen = inspect_clip(path, frames)
    picture = render_pictures(
        title=path.name,
        columns=("decoded frame", "I-frame", "motion", "residual", "rebuilt"),
        rows=[
            (
                f"frame {one.number} from {one.intra}\nerror: moved {one.motion_error:.1f}, "
                f"rebuilt {one.error:.1f}",
                (one.frame, one.iframe, one.motion, one.residual, one.rebuilt),
            )
            for one in seen.frames
        ],
        legend=wheel(120),
        legend_text=(
            "Motion: the hue is the direction towards the I-frame, as on the disc; brightness is "
            f"full from {seen.full:.1f} pixels on.\n"
            "Residual: middle grey is none, a level is a level.\n"
            "Rebuilt: the I-frame moved by 4 x 4 cells of motion, plus 2 x 2 cells of residual.\n"
            "Error: mean absolute difference from the decoded frame in grey levels, of the moved "
            "I-frame alone and of the rebuilt frame."
        ),
    )
    target = output or Path(f"{path.stem}.png")
    write_atomic(target, lambda draft: draft.write_bytes(picture))
    mean = sum(one.error for one in seen.frames) / len(seen.frames)
    typer.echo(f"{target}: {len(seen.frames)} frames, rebuilt to {mean:.2f} grey levels on average")


def _clip(text: str) -> Path:
    """The file, or the clip of a data set.

    Raises:
        DataError: there is neither.
    """
    from cmkd.config.paths import cache_root
    from cmkd.data.datasets import open_dataset

    name, colon, inside = text.partition(":")
    if Path(text).is_file() or not colon:
        return Path(text)
    dataset = open_dataset(name, cache_root())
    if inside not in {clip.path for clip in dataset.clips}:
        first = dataset.clips[0].path
        raise DataError(f"{name}: has no clip {inside!r}; give a path of its manifest, as {first}")
    return dataset.root / inside
