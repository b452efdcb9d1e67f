"""Commands on networks: ``cmkd teacher``, ``predict``, ``export`` and ``cost``."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from cmkd.cli.work import GENERATED, Out, TrackingUri, aligned, checked_name, progress_console

RunOrFolder = Annotated[
    str,
    typer.Argument(
        metavar="RUN_OR_FOLDER",
        help="Id of a finished run or trial, or its start as reports show it; or folder of its "
        "student.json.",
    ),
]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.")]

teacher = typer.Typer(
    help="Bring in weights for teachers and students, and list them.", no_args_is_help=True
)


@teacher.command("import")
def import_weights(
    file: Annotated[
        Path,
        typer.Argument(
            help="Checkpoint (.pth.tar, .pth, .safetensors) of TSM, TDN, torchvision's ResNet, "
            "EfficientNet-Lite0 or cmkd (teacher.safetensors)."
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Shown in lists; default: the file's.")] = None,
) -> None:
    """Check a checkpoint, keep it in the cache and print its id for specs.

    The layout is told by its keys. Nothing inside the file is run. Any key that is missing, left
    over or of another shape is listed, and the file refused.
    """
    from cmkd.config.paths import usable_cache
    from cmkd.training.weights import import_file

    found = import_file(file, usable_cache(), checked_name(name) if name is not None else None)
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
    for title, value in lines.items():
        typer.echo(f"{title:<10}{value}")
    typer.echo("\nTo start from them, in a spec:")
    for part in ("teacher", "student"):
        typer.echo(f"  {part}.backbone: {weights.backbone}")
        if weights.width:
            typer.echo(f"  {part}.width: {weights.width}")
        # Quoted, since an id of digits alone would be a number.
        typer.echo(f'  {part}.weights: "{weights.id}"')


@teacher.command("list")
def list_imported() -> None:
    """Show the imported weights."""
    from cmkd.config.paths import cache_root
    from cmkd.training.weights import list_weights

    rows = [("id", "backbone", "classes", "layout", "name", "file")]
    rows += [
        (w.id, w.backbone, str(w.num_classes or "none"), w.layout, w.name, w.source)
        for w in list_weights(cache_root())
    ]
    typer.echo("\n".join(aligned(rows)))


def predict(
    student: RunOrFolder,
    videos: Annotated[list[Path], typer.Argument(metavar="VIDEOS", help="Files of any format.")],
    top: Annotated[int, typer.Option(min=1, help="Classes to print per video.")] = 3,
    tracking_uri: TrackingUri = None,
    device: Device = "auto",
) -> None:
    """Print the most probable classes of videos by the student of a finished trial."""
    from cmkd.predict import load_student

    loaded = load_student(student, store=tracking_uri, device=device)
    for video in videos:
        found = loaded.predict(video).probabilities
        best = sorted(found, key=lambda name: -found[name])[:top]
        shown = ", ".join(f"{name} {100 * found[name]:.1f} %" for name in best)
        typer.echo(f"{video}: {shown}")


def export(
    student: RunOrFolder,
    to: Annotated[
        Literal["pt2", "onnx", "safetensors", "mlflow"],
        typer.Option(
            help="torch.export; ONNX; weights alone; or a registered model of MLflow that takes "
            "paths of videos."
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE_OR_NAME",
            help="File to write, or name of the registered model; default: student-TRIAL.",
            show_default=False,
        ),
    ] = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Write the student of a finished trial for other programs, or register it in MLflow.

    Beside a file, a JSON file describes the inputs of the network.
    """
    from cmkd.predict import load_student

    loaded = load_student(student, store=tracking_uri, device="cpu")
    name = out or f"student-{loaded.description.trial_id}"
    if to in ("pt2", "onnx"):
        progress_console(stderr=True).print(f"writing {name}, which takes up to half a minute")
    if to == "mlflow":
        from cmkd.mlflow_model import register

        typer.echo(register(loaded, name, store=tracking_uri))
        return
    from cmkd.export import export_student

    for path in export_student(loaded, to, Path(out or f"{name}.{to}")):
        typer.echo(path)


def cost(
    out: Out = GENERATED,
    feed: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="PRESET DATA",
            help="Instead: CPU cores that feed a GPU which trains PRESET on fresh views of the "
            "prepared data set DATA.",
        ),
    ] = None,
) -> None:
    """Count GMACs and parameters of every network of Tables 2 and 3 that cmkd builds.

    They are also written to cost.json, which `report tables` reads.
    """
    if feed is not None:
        _print_feed(*feed)
        return
    from cmkd.report.build import write_files
    from cmkd.training.cost import SIDE, count, subjects

    typer.echo(f"GMACs of one view at {SIDE} x {SIDE}, and of all views of a test clip (SSV2)")
    records = []
    for name, subject in subjects().items():
        counted = count(subject)
        total = counted.gmacs * subject.views
        record = {
            "model": name,
            "gmacs_per_view": counted.gmacs,
            "views": subject.views,
            "gmacs": total,
            "parameters": counted.parameters,
            "parts": dict(counted.parts),
        }
        records.append(record)
        parts = [f"{key} {value:.1f}" for key, value in counted.parts.items() if value > 0.05]
        typer.echo(
            f"{name:21} {counted.gmacs:6.1f} x {subject.views} = {total:6.1f}   "
            f"{counted.parameters / 1e6:5.1f} M parameters   {', '.join(parts)}"
        )
    (path,) = write_files(out, {"cost.json": f"{json.dumps(records, indent=1)}\n".encode()})
    typer.echo(path)


def _print_feed(preset_name: str, data: str) -> None:
    from cmkd.config.paths import cache_root
    from cmkd.config.trial import preset, presets
    from cmkd.config.yaml_loader import suggest
    from cmkd.data.dataset import open_dataset
    from cmkd.errors import InputError
    from cmkd.training.cost import feed

    if preset_name not in presets():
        raise InputError(f"preset {preset_name!r}: there is none{suggest(preset_name, presets())}")
    found = feed(preset(preset_name), open_dataset(data, cache_root()))
    typer.echo(f"one core of this machine reads {found.read:.1f} clips a second of {data}")
    for gpu, trained in found.trained.items():
        typer.echo(
            f"{gpu}: trains {trained:.1f} clips a second of {preset_name} at a third of its peak; "
            f"{math.ceil(trained / found.read)} cores feed it (inputs.loaders)"
        )
