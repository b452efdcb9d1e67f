"""``cmkd cost``: GMACs and parameters of the full-size networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def cost(
    out: Annotated[
        Path,
        typer.Option(help="Folder that cost.json is written to; `report tables` reads it."),
    ] = Path("reports", "generated"),
) -> None:
    """Count GMACs and parameters of every network of Tables 2 and 3 that cmkd builds."""
    from cmkd.report.build import write_files
    from cmkd.training.cost import SIDE, count, subjects

    typer.echo(f"GMACs of one view at {SIDE} x {SIDE}, and of all views of a test clip (SSV2)")
    records = []
    for name, subject in subjects().items():
        counted = count(subject)
        total = counted.gmacs * subject.views
        records.append(
            {
                "model": name,
                "gmacs_per_view": counted.gmacs,
                "views": subject.views,
                "gmacs": total,
                "parameters": counted.parameters,
                "parts": dict(counted.parts),
            }
        )
        parts = [f"{key} {value:.1f}" for key, value in counted.parts.items() if value > 0.05]
        typer.echo(
            f"{name:21} {counted.gmacs:6.1f} x {subject.views} = {total:6.1f}"
            f"   {counted.parameters / 1e6:5.1f} M parameters   {', '.join(parts)}"
        )
    text = json.dumps(records, indent=1) + "\n"
    for path in write_files(out, {"cost.json": text.encode()}):
        typer.echo(path)
