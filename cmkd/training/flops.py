"""Cost of the networks of Tables 2 and 3: GMACs, parameters, and speed on this machine.

The literature's "GFLOPs" are multiply-accumulates of convolutions and matrix products at 224 x 224,
and so are the GMACs here, by torch's own counter. Normalisation, activations and the shift are not
counted, as in that literature.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cmkd.config.method import NO_KD
from cmkd.config.spec import preset
from cmkd.config.trial import Setting
from cmkd.training.networks import DummyInputs, build_student, build_teacher
from cmkd.training.runtime import autocast, pick_device, to_device

SIDE = 224
"""Pixels of a square view."""
NUM_CLASSES = 174
"""Classes of Something-Something V2; the classifier hardly weighs in the cost."""


@dataclass(frozen=True)
class Subject:
    """Network of a table: the teacher or the student of a setting."""

    setting: Setting
    role: Literal["teacher", "student"]

    @property
    def views(self) -> int:
        """Views of a test clip by the setting's protocol."""
        return self.setting.inputs.test_clips * self.setting.inputs.test_crops


@dataclass(frozen=True)
class Cost:
    """Cost of one view.

    Attributes:
        gmacs: 10^9 multiply-accumulates.
        parts: the same by attribute of the network; work outside of the forward passes of its
            parts is "other". All sum to `gmacs`.
    """

    gmacs: float
    parameters: int
    parts: Mapping[str, float]


@dataclass(frozen=True)
class Speed:
    """Speed of inference.

    Attributes:
        clips_per_second: views of one clip each.
        peak_mib: peak memory of the device, or of the whole process on a CPU.
    """

    device: str
    precision: str
    batch: int
    clips_per_second: float
    peak_mib: float


def subjects() -> Mapping[str, Subject]:
    """The networks with a cost in Tables 2 and 3, by the names of `cmkd.report.paper`."""
    tsm, tdn = preset("tsm-ssv2"), preset("tdn-ssv2")
    tdn_8 = _with_frames(tdn, 8, num_gops=2)
    return {
        "tsm_r50_8f": Subject(_with_frames(tsm, 8), "teacher"),
        "tsm_r50_16f": Subject(_with_frames(tsm, 16), "teacher"),
        "tdn_r50_8f": Subject(_with_frames(tdn, 8), "teacher"),
        "tdn_r50_16f": Subject(_with_frames(tdn, 16), "teacher"),
        "student_tsm_baseline": Subject(_baseline(tsm), "student"),
        "student_tsm": Subject(tsm, "student"),
        "student_tsm_a": Subject(preset("tsm-ssv2-a"), "student"),
        "student_tsm_c": Subject(preset("tsm-ssv2-c"), "student"),
        "student_tdn_8p_baseline": Subject(_baseline(tdn_8), "student"),
        "student_tdn_8p": Subject(tdn_8, "student"),
        "student_tdn_baseline": Subject(_baseline(tdn), "student"),
        "student_tdn": Subject(tdn, "student"),
    }


def _with_frames(setting: Setting, num_frames: int, num_gops: int = 4) -> Setting:
    change = {"num_frames": num_frames, "num_gops": num_gops}
    inputs = setting.inputs.model_copy(update=change)
    return setting.model_copy(update={"inputs": inputs})


def _baseline(setting: Setting) -> Setting:
    change = {**NO_KD, "decoder": False}
    return setting.model_copy(update={"method": setting.method.model_copy(update=change)})


def count(subject: Subject) -> Cost:
    """Count a network on torch's ``meta`` device, which knows shapes and holds no values."""
    device = torch.device("meta")
    with device:
        network = _build(subject)
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        network(*_inputs(subject, 1, device))
    name = type(network).__name__
    flops = {key: sum(by.values()) for key, by in counter.get_flop_counts().items()}
    parts = {
        key.removeprefix(f"{name}."): value / 2e9
        for key, value in flops.items()
        if key.startswith(f"{name}.") and key.count(".") == 1
    }
    parts["other"] = flops[name] / 2e9 - sum(parts.values())
    return Cost(
        gmacs=flops[name] / 2e9,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        parts={key: value for key, value in parts.items() if value > 1e-6},
    )


def measure(name: str, *, device: str = "auto", batch: int = 1, seconds: float = 5.0) -> Speed:
    """Time a network of `subjects` with random weights; bf16 on CUDA, fp32 on a CPU.

    The memory is the peak of this process, so measure one network per process on a CPU.

    Args:
        batch: views computed together.
        seconds: to repeat the forward pass for, after one to warm up.
    """
    where = pick_device(device)
    subject = subjects()[name]
    precision: Literal["fp32", "bf16"] = "bf16" if where.type == "cuda" else "fp32"
    network = to_device(_build(subject), where)
    inputs = _inputs(subject, batch, where)
    with torch.inference_mode(), autocast(precision, where):
        network(*inputs)
        _wait(where)
        started, rounds = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            network(*inputs)
            _wait(where)
            rounds += 1
        spent = time.perf_counter() - started
    return Speed(where.type, precision, batch, batch * rounds / spent, _peak_mib(where))


def _build(subject: Subject) -> nn.Module:
    if subject.role == "teacher":
        return build_teacher(subject.setting, NUM_CLASSES).eval()
    return build_student(subject.setting, (SIDE, SIDE), NUM_CLASSES).eval()


def _inputs(subject: Subject, batch: int, device: torch.device) -> tuple[Tensor, ...]:
    inputs = DummyInputs(subject.setting, (SIDE, SIDE), batch, device)
    return (inputs.frames(),) if subject.role == "teacher" else inputs.compressed()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Linux counts KiB, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
