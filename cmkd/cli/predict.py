"""``cmkd predict``: classes of videos by a trained student."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    student: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_FOLDER",
            help="Id of a finished run or trial, or folder of its student.json.",
        ),
    ],
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEOS", help="Files of any format.")],
    top: Annotated[int, typer.Option(min=1, help="Classes to print per video.")] = 3,
    tracking_uri: Annotated[str | None, typer.Option(help="Store that knows the run.")] = None,
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.")
    ] = "auto",
) -> None:
    """Print the most probable classes of videos by the student of a finished trial."""
    from cmkd.predict import load_student

    loaded = load_student(student, store=tracking_uri, device=device)
    for video in videos:
        found = loaded.predict(video).probabilities
        best = sorted(found, key=lambda name: -found[name])[:top]
        shown = ", ".join(f"{name} {100 * found[name]:.1f} %" for name in best)
        typer.echo(f"{video}: {shown}")
