"""``cmkd cost``: what the full-size networks compute and hold, and what decoding takes here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cmkd.data.dataset import Dataset
    from cmkd.data.decoding import Decoding
    from cmkd.training.flops import Cost, Speed, Subject

DECODED = 50
"""Clips, by default: their mean is known well enough for a comparison of ways."""


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
        typer.Option(
            help="Folder that cost.json, or decoding.json, is written to; `report tables` reads it."
        ),
    ] = Path("reports", "generated"),
    decoding: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Time instead what it takes to get at the inputs of this data set's clips: full "
            "decoding, ours, motion or I-frames alone, at reduced resolution.",
        ),
    ] = None,
    clips: Annotated[
        int, typer.Option(min=1, help="With --decoding: how many, spread over the data set.")
    ] = DECODED,
    frames: Annotated[
        int, typer.Option(min=2, max=64, help="With --decoding: sampled per clip.")
    ] = 8,
) -> None:
    """Count GMACs and parameters of every network of Tables 2 and 3 that cmkd builds."""
    from cmkd.errors import InputError
    from cmkd.report.build import write_files

    if decoding is not None:
        if measure:
            raise InputError("--decoding and --measure: each disturbs the other; one at a time")
        _cost_of_decoding(decoding, clips, frames, out)
        return
    from cmkd.training.flops import SIDE, count, subjects
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

    from cmkd.training.flops import measure

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


def _cost_of_decoding(name: str, clips: int, frames: int, out: Path) -> None:
    """Measure on up to `clips` clips and write decoding.json."""
    from cmkd.cli.work import progress
    from cmkd.config.paths import usable_cache
    from cmkd.data.dataset import open_dataset
    from cmkd.data.decoding import measure_decoding
    from cmkd.report.build import write_files
    from cmkd.report.decoding import FILE

    dataset = open_dataset(name, usable_cache())
    total = len(dataset.clips)
    # The manifest is in the order of the classes: all of them are to be met.
    chosen = [number * total // min(clips, total) for number in range(min(clips, total))]
    paths = [dataset.root / dataset.clips[number].path for number in chosen]
    with progress("decoding") as on_progress:
        measured = measure_decoding(paths, frames, on_progress=on_progress)
    typer.echo(f"CPU ms per clip on one thread, {frames} sampled frames, {len(paths)} clips")
    for way in measured.ways:
        typer.echo(
            f"{way.way:10} {way.ms:7.1f} ms   {way.ratio:5.2f} x full decoding   "
            f"{way.frames:5.1f} frames, {way.bytes_read / 1000:6.0f} kB decoded, "
            f"{way.bytes_kept / 1000:6.0f} kB kept"
        )
    record = _decoding_record(dataset, len(paths), frames, measured)
    text = json.dumps(record, indent=1) + "\n"
    for path in write_files(out, {FILE: text.encode()}):
        typer.echo(path)


def _decoding_record(
    dataset: Dataset, clips: int, frames: int, measured: Decoding
) -> Mapping[str, object]:
    """What `cmkd.report.decoding` reads."""
    import platform

    from cmkd import __version__

    info = dataset.info
    return {
        "data": info.name,
        "data_id": dataset.id,
        "data_kind": info.kind,
        "clips": clips,
        "of_clips": len(dataset.clips),
        "length": measured.length,
        "num_frames": frames,
        "width": info.encoding.width,
        "height": info.encoding.height,
        "gop": info.encoding.gop,
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "version": f"cmkd {__version__}",
        "ways": [asdict(way) for way in measured.ways],
    }
