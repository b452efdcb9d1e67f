"""Trial step of a network on random tensors: its failure, time, memory and fingerprint."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from cmkd.config.backbones import find_backbone
from cmkd.config.base import content_id
from cmkd.config.training import TrainingConfig
from cmkd.config.trial import Setting
from cmkd.method.losses import TeacherTargets, total_loss
from cmkd.training.networks import DummyInputs, build_student, build_teacher, grid_of
from cmkd.training.optim import make_optimizer, prepare
from cmkd.training.runtime import autocast, configure, pick_device, to_device

COPIES = 5
"""Copies of the parameters: weights, gradients, two moments of Adam, best weights so far."""
MARGIN = 1.5
"""Factor on activations: gradients of maps, workspaces and the next batch come on top."""


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
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(count, lambda tensor: tensor):
        value = loss()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    activations = sum(size for pointer, size in kept.items() if pointer not in own)
    return Footprint(COPIES * weights, activations / clips), value


@dataclass(frozen=True)
class ProbeTask:
    """Networks to try.

    Attributes:
        students: settings whose student takes a step.
        teachers: settings whose teacher takes one.
        picture: (height, width) of the frames.
    """

    students: tuple[Setting, ...]
    teachers: tuple[Setting, ...]
    picture: tuple[int, int]
    num_classes: int


@dataclass(frozen=True)
class Probe:
    """Result of a step.

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


def probe(task: ProbeTask) -> tuple[tuple[Probe, ...], tuple[Probe, ...]]:
    """Take the steps of a task in this process; returns those of students and of teachers."""
    configure(threads=1)
    return (
        tuple(_attempt(_student, setting, task) for setting in task.students),
        tuple(_attempt(_teacher, setting, task) for setting in task.teachers),
    )


def _attempt(
    action: Callable[[Setting, ProbeTask], Probe], setting: Setting, task: ProbeTask
) -> Probe:
    try:
        return action(setting, task)
    except Exception as error:
        return Probe(failure=f"{type(error).__name__}: {' '.join(str(error).split())}")


def _student(setting: Setting, task: ProbeTask) -> Probe:
    device = pick_device("auto")
    torch.manual_seed(0)
    student = to_device(build_student(setting, task.picture, task.num_classes), device)
    batch = min(find_backbone(setting.student.backbone).probe_batch, setting.training.batch_size)
    dummy = DummyInputs(setting, task.picture, batch, device)
    inputs = dummy.compressed()
    targets = None
    if setting.method.needs_teacher:
        grid = grid_of(setting.teacher.backbone, task.picture)
        h = dummy.noise(batch, setting.inputs.num_frames, setting.teacher.channels, *grid)
        logits = dummy.noise(batch, task.num_classes)
        targets = TeacherTargets(h, logits, dict.fromkeys(setting.method.tg, 1.0))
    labels = torch.arange(batch, device=device) % task.num_classes

    def loss() -> Tensor:
        with autocast(setting.training.precision, device):
            output = student(*inputs)
        return total_loss(output, labels, targets, setting.method).total

    return _steps(student, setting.training, loss, batch)


def _teacher(setting: Setting, task: ProbeTask) -> Probe:
    device = pick_device("auto")
    torch.manual_seed(0)
    recipe = setting.teacher.training
    teacher = to_device(build_teacher(setting, task.num_classes), device)
    batch = min(find_backbone(setting.teacher.backbone).probe_batch, recipe.batch_size)
    frames = DummyInputs(setting, task.picture, batch, device).frames()
    labels = torch.arange(batch, device=device) % task.num_classes

    def loss() -> Tensor:
        with autocast(recipe.precision, device):
            logits = teacher(frames)[1]
        return F.cross_entropy(logits.float(), labels)

    return _steps(teacher, recipe, loss, batch)


def _steps(
    model: nn.Module, config: TrainingConfig, loss: Callable[[], Tensor], clips: int
) -> Probe:
    """A step for its fingerprint, and one for its time."""
    frozen = prepare(model, config)
    optimizer = make_optimizer(model, config)
    model.train()
    for module in frozen:
        module.eval()
    torch.manual_seed(0)
    measured, value = footprint(model, loss, clips)
    _optimizer_step(value, optimizer)
    fingerprint = content_id("step", f"{float(value.detach()):.6g}", *_gradients(model))
    started = time.perf_counter()
    # Reading the loss waits for a GPU.
    value = loss()
    _optimizer_step(value, optimizer)
    float(value.detach())
    seconds = (time.perf_counter() - started) / clips
    together = -(-config.batch_size // config.accumulate)
    return Probe(fingerprint, seconds, measured.bytes(together))


def _optimizer_step(value: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    optimizer.step()


def _gradients(model: nn.Module) -> Sequence[str]:
    return [
        f"{name} {tuple(p.shape)} {'none' if p.grad is None else f'{float(p.grad.norm()):.5g}'}"
        for name, p in model.named_parameters()
    ]
