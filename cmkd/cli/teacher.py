"""``cmkd teacher``: bring in weights that others trained, list those that are there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cmkd.training.weights import Weights

app = typer.Typer(
    help="Bring in weights for teachers and students, and list them.", no_args_is_help=True
)


@app.command("import")
def import_weights(
    file: Annotated[
        Path,
        typer.Argument(
            help="checkpoint (.pth.tar, .pth, .safetensors) of TSM, TDN, torchvision's ResNet or "
            "a teacher.safetensors of cmkd"
        ),
    ],
    name: Annotated[str | None, typer.Option(help="shown in lists; default: the file's")] = None,
) -> None:
    """Check a checkpoint, keep it in the cache and print its id for specs.

    The layout is told by its keys. Nothing inside the file is run. Any key that is missing, left
    over or of another shape is listed, and the file refused.
    """
    from cmkd.config.paths import slug, usable_cache
    from cmkd.errors import InputError
    from cmkd.training.weights import import_file

    if name is not None and slug(name) != name:
        raise InputError(f"--name {name!r}: use letters, digits, _ . - only, as in {slug(name)!r}")
    found = import_file(file, usable_cache(), name)
    weights = found.weights
    note = f" (imported before as {weights.name})" if found.known else ""
    lines = {
        "id": weights.id + note,
        "layout": weights.layout,
        "backbone": weights.backbone + (f", width {weights.width}" if weights.width else ""),
        "classes": weights.num_classes or "none, the file has no classifier",
        "tensors": f"{found.tensors}, all matched",
        "dropped": ", ".join(found.dropped) or "none",
        "file": weights.path,
    }
    for what, value in lines.items():
        typer.echo(f"{what:<10}{value}")
    typer.echo("\nTo start from them, in a spec:")
    for part in ("teacher", "student"):
        typer.echo("\n".join(_lines_of_spec(part, weights)))


@app.command("list")
def list_imported() -> None:
    """Show the imported weights."""
    from cmkd.config.paths import cache_root
    from cmkd.training.weights import list_weights

    rows = [("id", "backbone", "classes", "layout", "name", "file")]
    for weights in list_weights(cache_root()):
        classes = str(weights.num_classes or "none")
        rows.append(
            (weights.id, weights.backbone, classes, weights.layout, weights.name, weights.source)
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())


def _lines_of_spec(part: str, weights: Weights) -> list[str]:
    width = [f"  {part}.width: {weights.width}"] if weights.width else []
    # Quoted, since an id of digits alone would be a number.
    return [f"  {part}.backbone: {weights.backbone}", *width, f'  {part}.weights: "{weights.id}"']
