"""Optimisers, schedules and what of a network learns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cmkd.backbones.tiny import TinyResNet
from cmkd.config.backbones import Size
from cmkd.config.method import MethodConfig
from cmkd.config.trial import TrainingConfig
from cmkd.errors import ConfigError
from cmkd.method.networks import Branches, Student
from cmkd.training.optim import make_optimizer, make_schedule, prepare

PLAIN = TrainingConfig(epochs=3, lr=0.1, weight_decay=0.01)
TSN = PLAIN.model_copy(update={"multipliers": "tsn", "optimizer": "sgd"})


@pytest.fixture
def student() -> Student:
    """A student whose parts have every kind of parameter there is."""
    torch.manual_seed(0)
    branches = Branches(
        i_frame=TinyResNet(Size(3, 1, 4, 4)),
        motion=TinyResNet(Size(2, 4, 4, 4), shift_divisor=4),
        residual=TinyResNet(Size(3, 4, 4, 4), shift_divisor=4),
        channels=16,
        grid=(2, 2),
    )
    return Student(
        branches, 4, 5, 0.0, MethodConfig(attention="block", gate="softmax", heads=2, hidden=4)
    )


def settings(model: nn.Module, config: TrainingConfig) -> dict[str, tuple[float, float]]:
    """Learning rate and decay of every parameter that the optimiser holds, by its name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model, config)
    found = [
        (names[parameter], (group["lr"], group["weight_decay"]))
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    assert len(found) == len(dict(found)), "a parameter in two groups"
    return dict(found)


def test_by_default_all_parameters_are_alike(student: Student) -> None:
    found = settings(student, PLAIN)
    assert list(found) == [name for name, _ in student.named_parameters()]
    assert set(found.values()) == {(0.1, 0.01)}


def test_tsn_puts_every_parameter_in_its_group(student: Student) -> None:
    found = settings(student, TSN)
    assert set(found) == {name for name, _ in student.named_parameters()}
    plain, slow_bias, norm = (0.1, 0.01), (0.2, 0.0), (0.1, 0.0)
    expected = {
        "classifier.weight": (0.5, 0.01),
        "classifier.bias": (1.0, 0.0),
        "motion.stem.0.weight": plain,
        "motion.stem.1.weight": norm,
        "motion.stem.1.bias": norm,
        "gate.excite.0.weight": plain,
        "gate.excite.0.bias": slow_bias,
        "decoder.attention.position_q": plain,
        "decoder.attention.norm_i.bias": norm,
    }
    for name, pair in expected.items():
        assert found[name] == pytest.approx(pair), name
    convolutions = [
        f"{path}.bias"
        for path, module in student.named_modules()
        if isinstance(module, nn.Conv2d) and module.bias is not None
    ]
    assert convolutions
    assert {found[name] for name in convolutions} == {slow_bias}


def test_partial_bn_freezes_all_but_the_first_of_each_branch(student: Student) -> None:
    config = PLAIN.model_copy(update={"partial_bn": True})
    frozen = prepare(student, config)
    norms = {m for m in student.modules() if isinstance(m, nn.BatchNorm2d)}
    first = {student.i_frame.stem[1], student.motion.stem[1], student.residual.stem[1]}  # type: ignore[index,union-attr]
    assert set(frozen) == norms - first
    learning = settings(student, config)
    assert "motion.stem.1.weight" in learning
    assert not {name for name in learning if name.endswith("residual.2.weight")}
    assert len(learning) == len(list(student.parameters())) - 2 * len(frozen)


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sgd"])
def test_steps_divide_the_rate_by_ten_after_each_milestone(optimizer: str) -> None:
    config = TrainingConfig(
        epochs=4, lr=0.1, optimizer=optimizer, schedule="steps", milestones=(1, 3)
    )
    rates = _rates(config, steps_per_epoch=2)
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.01, 0.01, 0.001, 0.001])


def test_one_cycle_reaches_the_peak_of_every_group(student: Student) -> None:
    config = TSN.model_copy(update={"schedule": "one_cycle"})
    optimizer = make_optimizer(student, config)
    schedule = make_schedule(optimizer, config, steps_per_epoch=10)
    peaks = [0.0 for _ in optimizer.param_groups]
    for _ in range(30):
        optimizer.step()
        schedule.step()
        peaks = [max(p, g["lr"]) for p, g in zip(peaks, optimizer.param_groups, strict=True)]
    assert sorted(peaks) == pytest.approx([0.1, 0.1, 0.2, 0.5, 1.0], rel=0.01)
    assert optimizer.param_groups[0]["momentum"] == 0.9


def test_sgd_follows_its_formula() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    config = TrainingConfig(lr=0.1, weight_decay=0.5, optimizer="sgd", schedule="steps")
    optimizer = make_optimizer(model, config)
    weight, velocity = 1.0, 0.0
    for gradient in (1.0, -2.0):
        model.weight.grad = torch.full_like(model.weight, gradient)
        optimizer.step()
        velocity = 0.9 * velocity + gradient + 0.5 * weight
        weight -= 0.1 * velocity
    assert model.weight.item() == pytest.approx(weight)


def test_checkpointing_is_handed_on_or_refused(student: Student) -> None:
    config = PLAIN.model_copy(update={"checkpointing": True})
    with pytest.raises(ConfigError, match=r"training\.checkpointing.*full-size"):
        prepare(student, config)

    class Able(nn.Module):
        checkpointing = False

        def forward(self, x: Tensor) -> Tensor:
            return x

    model = nn.Sequential(Able(), nn.Linear(1, 1))
    prepare(model, config)
    assert model[0].checkpointing


def _rates(config: TrainingConfig, steps_per_epoch: int) -> list[float]:
    """The rate of every step of a training."""
    optimizer = make_optimizer(nn.Linear(1, 1), config)
    schedule = make_schedule(optimizer, config, steps_per_epoch)
    rates = []
    for _ in range(config.epochs * steps_per_epoch):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates
