"""Export of a trained student: torch.export, ONNX, or its weights alone.

The exported network is `cmkd.predict.VideoNetwork` in fp32, of any number of views. A JSON file
beside it describes its inputs; `Student.inputs` makes them from a video.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch.export import Dim, ExportedProgram

from cmkd.data.clip import MOTION_CELL, RESIDUAL_CELL
from cmkd.errors import InputError
from cmkd.io import make_folder, write_atomic, write_json
from cmkd.predict import Student
from cmkd.training.build import sees_all_i_frames
from cmkd.training.outcome import STUDENT_FILE

Format = Literal["pt2", "onnx", "safetensors"]
Shape = tuple[int | str, ...]

VIEWS, GOPS = "views", "gops"
"""Names of the dynamic axes."""
TRACED = {VIEWS: 3, GOPS: 2}
"""Their sizes while the network is traced; 0 and 1 would be taken for constants."""


def export_student(student: Student, kind: Format, path: Path) -> tuple[Path, Path]:
    """Write the network, and ``PATH.json`` that describes its inputs; returns both paths.

    Raises:
        InputError: the folder cannot be written, a package for ONNX is missing, or torch cannot
            export a backbone of another package.
        InfrastructureError: the disk is full or fails.
    """
    make_folder(path.parent)
    write_atomic(path, _writer(student, kind))
    beside = path.with_name(f"{path.name}.json")
    write_json(beside, {"format": kind, **describe(student)})
    return path, beside


def describe(student: Student) -> dict[str, Any]:
    """Inputs and output of the network, the preparation of a video, and the student."""
    setting, network = student.setting, student.network
    towards = "the I-frame" if setting.inputs.motion == "accumulated" else "the frame before"
    texts = {
        "iframes": "RGB I-frames, 0 to 255, of the GOPs with sampled P-frames, in order; a view "
        "with fewer of them than another ends in zeros",
        "gop": "index of each sampled P-frame's I-frame, from 0",
        "motion": f"vectors (x, y) towards {towards} in pixels, one per {MOTION_CELL} x "
        f"{MOTION_CELL} pixels; channels are x, y of consecutive P-frames",
        "residual": "RGB difference to the motion-compensated I-frame in grey levels, about -255 "
        f"to 255, one per {RESIDUAL_CELL} x {RESIDUAL_CELL} pixels; channels as those of motion",
    }
    return {
        "inputs": [
            {
                "name": name,
                "dtype": str(dtype).removeprefix("torch."),
                "shape": shape,
                "meaning": texts[name],
            }
            for name, (dtype, shape) in _inputs(student).items()
        ],
        "output": {
            "name": "logits",
            "dtype": "float32",
            "shape": [VIEWS, len(student.classes)],
            "meaning": "scores in the order of student.classes; the probabilities of a video are "
            "the softmax of their mean over its views",
        },
        "preparation": "cmkd.load_student(RUN).inputs(VIDEO) gives all inputs: it re-encodes to "
        "student.encoding where needed, samples P-frames and cuts the views at test",
        "normalisation": {
            "where": "part of the network in pt2 and onnx; comes before that of safetensors",
            "iframes": {
                "mean": network.mean.flatten().tolist(),
                "std": network.std.flatten().tolist(),
            },
            "motion": {"divisor": network.motion_scale},
            "residual": {"divisor": network.residual_scale},
        },
        "student": student.description.as_json(),
    }


def _inputs(student: Student) -> Mapping[str, tuple[torch.dtype, Shape]]:
    """Type and shape of each input, dynamic axes by name."""
    setting, (height, width) = student.setting, student.description.picture
    frames, segment = setting.inputs.num_frames, setting.compressed_segment
    gops = setting.inputs.num_gops if sees_all_i_frames(setting) else None
    motion = (2 * segment, height // MOTION_CELL, width // MOTION_CELL)
    residual = (3 * segment, height // RESIDUAL_CELL, width // RESIDUAL_CELL)
    return {
        "iframes": (torch.uint8, (VIEWS, gops or GOPS, 3, height, width)),
        "gop": (torch.int64, (VIEWS, frames)),
        "motion": (torch.float32, (VIEWS, frames, *motion)),
        "residual": (torch.float32, (VIEWS, frames, *residual)),
    }


def _dynamic(student: Student) -> dict[str, dict[int, str]]:
    """Dynamic axes of each input."""
    return {
        name: {axis: size for axis, size in enumerate(shape) if isinstance(size, str)}
        for name, (_, shape) in _inputs(student).items()
    }


def _writer(student: Student, kind: Format) -> Callable[[Path], object]:
    """Function that writes the file of this format."""
    if kind == "safetensors":
        return lambda path: shutil.copyfile(student.folder / STUDENT_FILE, path)
    if kind == "pt2":
        program = _program(student)
        return lambda path: _save(program, path)
    lacking = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if lacking:
        raise InputError(
            f"--to onnx: lacks the package {' and '.join(lacking)}", "pip install 'cmkd[export]'"
        )
    # Lines on operators of torchvision, which no student uses, and on constants left as they are.
    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # About torch's own code, and equal names of equal axes.
        made = torch.onnx.export(
            _program(student),
            input_names=list(_inputs(student)),
            output_names=["logits"],
            dynamic_shapes=_dynamic(student),
            verbose=False,
        )
    assert made is not None
    return lambda path: made.save(path, external_data=False)


def _save(program: ExportedProgram, path: Path) -> None:
    # A path has to end in .pt2, an open file has not.
    with path.open("wb") as stream:
        torch.export.save(program, stream)


def _program(student: Student) -> ExportedProgram:
    """The network traced in fp32 on the CPU, with dynamic `VIEWS` and `GOPS`."""
    network = student.network.cpu().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    dynamic = {name: Dim(name, min=1) for name in TRACED}
    example = {
        name: torch.zeros(
            [TRACED[size] if isinstance(size, str) else size for size in shape], dtype=dtype
        )
        for name, (dtype, shape) in _inputs(student).items()
    }
    shapes = {
        name: {axis: dynamic[size] for axis, size in axes.items()}
        for name, axes in _dynamic(student).items()
    }
    try:
        return torch.export.export(network, (), example, dynamic_shapes=shapes)
    except Exception as error:  # torch has no common class for what it cannot trace.
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"backbone {student.setting.student.backbone}: torch cannot export it ({reason})",
            "keep its forward pass free of branches on values, or use --to safetensors",
        ) from error
