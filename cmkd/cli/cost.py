"""``cmkd cost``: what the full-size networks compute and hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cmkd.training.cost import Cost, Speed, Subject


def cost(
    measure: Annotated[
        bool, typer.Option("--measure", help="Also time the networks; random weights serve.")
    ] = False,
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda", help="Where to time them.")
    ] = "auto",
    batch: Annotated[int, typer.Option(min=1, help="Views timed together.")] = 1,
    out: Annotated[
        Path,
        typer.Option(help="Folder that cost.json is written to; `report tables` reads it."),
    ] = Path("reports", "generated"),
) -> None:
    """Count GMACs and parameters of every network of Tables 2 and 3 that cmkd builds."""
    from cmkd.report.build import write_files
    from cmkd.training.cost import SIDE, count, subjects
    from cmkd.training.runtime import pick_device

    where = pick_device(device).type if measure else ""
    typer.echo(f"GMACs of one view at {SIDE} x {SIDE}, and of all views of a test clip (SSV2)")
    records = []
    for name, subject in subjects().items():
        counted = count(subject)
        speed = _timed(name, where, batch) if measure else None
        records.append(_record(name, subject, counted, speed))
        typer.echo(_line(name, subject, counted, speed))
    text = json.dumps(records, indent=1) + "\n"
    for path in write_files(out, {"cost.json": text.encode()}):
        typer.echo(path)


def _timed(name: str, device: str, batch: int) -> Speed:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    from cmkd.training.cost import measure

    # A process of its own, whose memory nothing else has raised.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, name, device=device, batch=batch).result()


def _record(
    name: str, subject: Subject, counted: Cost, speed: Speed | None
) -> Mapping[str, object]:
    record: dict[str, object] = {
        "model": name,
        "gmacs_per_view": counted.gmacs,
        "views": subject.views,
        "gmacs": counted.gmacs * subject.views,
        "parameters": counted.parameters,
        "parts": dict(counted.parts),
    }
    return record | ({"speed": asdict(speed)} if speed else {})


def _line(name: str, subject: Subject, counted: Cost, speed: Speed | None) -> str:
    parts = ", ".join(f"{key} {value:.1f}" for key, value in counted.parts.items() if value > 0.05)
    line = (
        f"{name:21} {counted.gmacs:6.1f} x {subject.views} = {counted.gmacs * subject.views:6.1f}"
        f"   {counted.parameters / 1e6:5.1f} M parameters   {parts}"
    )
    if speed is None:
        return line
    return (
        f"{line}   {speed.clips_per_second:.2f} views/s, peak {speed.peak_mib:.0f} MiB "
        f"({speed.device}, {speed.precision}, batch {speed.batch})"
    )
