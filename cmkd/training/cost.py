"""Cost of networks: GMACs and parameters; time and memory of a training step.

The literature's "GFLOPs" are multiply-accumulates of convolutions and matrix products at 224 x 224,
and so are the GMACs here, by torch's own counter. Normalisation, activations and the shift are not
counted, as in that literature.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cmkd.config.backbones import find_backbone
from cmkd.config.base import content_id
from cmkd.config.method import NO_KD
from cmkd.config.trial import Setting, TrainingConfig, preset
from cmkd.data.dataset import Dataset
from cmkd.data.stream import ClipStream, Rows
from cmkd.method.losses import TeacherTargets, total_loss
from cmkd.method.networks import Side
from cmkd.training.build import Role, build, grid_of, noise, random_inputs
from cmkd.training.optim import make_optimizer, prepare
from cmkd.training.runtime import autocast, configure, pick_device, to_device

SIDE = 224
"""Pixels of a square view."""
NUM_CLASSES = 174
"""Classes of Something-Something V2; the classifier hardly weighs in the cost."""
COPIES = 5
"""Copies of the parameters: weights, gradients, two moments of Adam, best weights so far."""
MARGIN = 1.5
"""Factor on activations: gradients of maps, workspaces and the next batch come on top."""


GPU_MACS: Mapping[str, float] = {"A100": 5e13, "H100": 1.6e14, "H200": 1.6e14}
"""Multiply-accumulates per second: a third of what a GPU could in bf16."""
FED_CLIPS = 32
"""Clips that the speed of reading is measured on."""


@dataclass(frozen=True)
class Subject:
    """Network of a table: the teacher or the student of a setting."""

    setting: Setting
    role: Role

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
    return setting.model_copy(update={"inputs": setting.inputs.model_copy(update=change)})


def _baseline(setting: Setting) -> Setting:
    change = {**NO_KD, "decoder": False}
    return setting.model_copy(update={"method": setting.method.model_copy(update=change)})


def count(subject: Subject) -> Cost:
    """Count a network on torch's ``meta`` device, which knows shapes and holds no values."""
    device = torch.device("meta")
    with device:
        network = build(subject.setting, subject.role, (SIDE, SIDE), NUM_CLASSES).eval()
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        network(*random_inputs(subject.setting, subject.role, (SIDE, SIDE), 1, device))
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


@dataclass(frozen=True)
class StepCost:
    """Cost of training a network at views of `SIDE`, counted without values.

    Attributes:
        gmacs: 10^9 multiply-accumulates of a clip, forward and backward.
        forward: those of a forward pass alone.
        memory: bytes on the device for a batch, see `Footprint`.
    """

    gmacs: float
    forward: float
    memory: int


def step_cost(subject: Subject, num_classes: int) -> StepCost:
    """Count a training step on torch's ``meta`` device; losses hardly weigh in it."""
    setting, teaches = subject.setting, subject.role == "teacher"
    config: TrainingConfig = setting.teacher.training if teaches else setting.training
    device, picture = torch.device("meta"), (SIDE, SIDE)
    with device:
        model = build(setting, subject.role, picture, num_classes).train()
    inputs = random_inputs(setting, subject.role, picture, 1, device)

    def loss() -> Tensor:
        output = model(*inputs)
        parts = output if teaches else (output.logits, output.h_hat)
        return torch.stack([part.sum() for part in parts if part is not None]).sum()

    counter = FlopCounterMode(display=False)
    with counter:
        measured, value = footprint(model, loss, 1)
        forward = counter.get_total_flops() / 2e9
        value.backward()
    gmacs = counter.get_total_flops() / 2e9
    share = 0.5 if config.precision == "bf16" else 1.0
    halved = Footprint(measured.fixed, share * measured.per_clip)
    memory = halved.bytes(-(-config.batch_size // config.accumulate))
    return StepCost(gmacs, forward, memory)


@dataclass(frozen=True)
class Feed:
    """Clips per second that one core reads for training, and that each GPU trains on."""

    read: float
    trained: Mapping[str, float]


def feed(setting: Setting, dataset: Dataset) -> Feed:
    """Measure how fast this machine reads fresh views of a setting, for student and teacher.

    Raises:
        FileError: a clip cannot be read.
    """
    # Views at test play no part, and the data set may have none for three crops.
    inputs = setting.inputs.model_copy(update={"test_clips": 1, "test_crops": 1})
    reading = setting.reading.model_copy(update={"inputs": inputs})
    stream = ClipStream(dataset, reading, 0, processes=0, pinned=False)
    clips = range(0, len(dataset.clips), max(1, len(dataset.clips) // FED_CLIPS))
    rows = stream.epoch_rows(clips, 0)

    def read(chosen: Rows) -> None:
        for chunks in stream.read([chosen], compressed=True, frames=setting.needs_teacher):
            for _ in chunks:
                pass

    read(rows[:1])
    started = time.perf_counter()
    read(rows)
    speed = len(rows) / (time.perf_counter() - started)
    classes = len(dataset.info.classes)
    gmacs = step_cost(Subject(setting, "student"), classes).gmacs
    if setting.needs_teacher:
        gmacs += step_cost(Subject(setting, "teacher"), classes).forward
    return Feed(speed, {name: macs / (gmacs * 1e9) for name, macs in GPU_MACS.items()})


@dataclass(frozen=True)
class Footprint:
    """Memory of a training: `fixed` bytes, and `per_clip` bytes of one backward pass."""

    fixed: int
    per_clip: float

    def bytes(self, clips: int) -> int:
        """Bytes for backward passes of this many clips."""
        return self.fixed + round(MARGIN * self.per_clip * clips)


def footprint(model: nn.Module, loss: Callable[[], Tensor], clips: int) -> tuple[Footprint, Tensor]:
    """Footprint of `model`, and the loss that was computed for it.

    Args:
        loss: a forward pass of `clips` clips; the tensors it keeps for its backward pass are
            counted, on any device.
    """
    kept: dict[int, int] = {}
    # Not its address, which is 0 on the meta device.
    own = {p.untyped_storage()._cdata for p in (*model.parameters(), *model.buffers())}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        value = loss()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    activations = sum(size for pointer, size in kept.items() if pointer not in own)
    return Footprint(COPIES * weights, activations / clips), value


@dataclass(frozen=True)
class Probe:
    """Result of a training step on random tensors.

    Attributes:
        fingerprint: equal for steps with the same parameters, loss and gradients.
        seconds: of a step, per clip.
        memory: bytes that training takes on its device, on top of a bare process.
        failure: error of a step that failed, on one line.
    """

    fingerprint: str = ""
    seconds: float = 0.0
    memory: int = 0
    failure: str = ""


def probe(subject: Subject, picture: Side, num_classes: int) -> Probe:
    """Take training steps of a network in this process, whose torch is configured for it.

    Args:
        picture: (height, width) of the frames.
    """
    configure(threads=1)
    try:
        return _step(subject, picture, num_classes)
    except Exception as error:
        return Probe(failure=f"{type(error).__name__}: {' '.join(str(error).split())}")


def _step(subject: Subject, picture: Side, num_classes: int) -> Probe:
    """A step for its fingerprint, and one for its time."""
    setting, device, teaches = subject.setting, pick_device("auto"), subject.role == "teacher"
    backbone = setting.teacher.backbone if teaches else setting.student.backbone
    config: TrainingConfig = setting.teacher.training if teaches else setting.training
    torch.manual_seed(0)
    model = build(setting, subject.role, picture, num_classes)
    model = to_device(model, device)
    clips = min(find_backbone(backbone).probe_batch, config.batch_size)
    inputs = random_inputs(setting, subject.role, picture, clips, device)
    labels = torch.arange(clips, device=device) % num_classes
    targets = None
    if setting.method.needs_teacher and not teaches:
        grid = grid_of(setting.teacher.backbone, picture)
        shape = (clips, setting.inputs.num_frames, setting.teacher.channels, *grid)
        logits = noise((clips, num_classes), device)
        targets = TeacherTargets(
            noise(shape, device), logits, dict.fromkeys(setting.method.tg, 1.0)
        )

    def loss() -> Tensor:
        with autocast(config.precision, device):
            output = model(*inputs)
        if teaches:
            return F.cross_entropy(output[1].float(), labels)
        return total_loss(output, labels, targets, setting.method).total

    def update(value: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()

    frozen = prepare(model, config)
    optimizer = make_optimizer(model, config)
    model.train()
    for module in frozen:
        module.eval()
    torch.manual_seed(0)
    measured, value = footprint(model, loss, clips)
    update(value)
    gradients = [
        f"{name} {tuple(p.shape)} {'none' if p.grad is None else f'{float(p.grad.norm()):.5g}'}"
        for name, p in model.named_parameters()
    ]
    fingerprint = content_id("step", f"{float(value.detach()):.6g}", *gradients)
    started = time.perf_counter()
    # Reading the loss waits for a GPU.
    value = loss()
    update(value)
    float(value.detach())
    seconds = (time.perf_counter() - started) / clips
    together = -(-config.batch_size // config.accumulate)
    return Probe(fingerprint, seconds, measured.bytes(together))
