"""Gradients flow where they must and stop where they must."""

import pytest
import torch
from torch import Tensor, nn

from cmkd.config.backbones import BACKBONES, Size
from cmkd.config.method import MethodConfig
from cmkd.method.losses import TeacherTargets, total_loss
from cmkd.method.networks import Branches, Student
from cmkd.method.temporal_graph import edges

T, K = 4, 3


def make_student(config: MethodConfig) -> Student:
    torch.manual_seed(0)
    backbone = BACKBONES["tiny_tsm"]
    branches = Branches(
        i_frame=backbone.image(Size(3, 1, 16, 4)),
        motion=backbone.temporal(Size(2, T, 4, 4)),
        residual=backbone.temporal(Size(3, T, 8, 4)),
        channels=16,
        grid=(2, 2),
    )
    return Student(branches, T, K, 0.0, config)


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return (
        torch.randn(4, 1, 3, 32, 32),
        torch.tensor([[0, 0, 1, 1], [2, 3, 3, 3]]),
        torch.randn(2, T, 2, 8, 8),
        torch.randn(2, T, 3, 16, 16),
    )


def targets(h: Tensor) -> TeacherTargets:
    return TeacherTargets(h, torch.randn(2, K), {1: 0.1, 2: 0.1, 3: 5.0})


def backward(config: MethodConfig) -> Student:
    student = make_student(config)
    h = torch.randn(2, T, 16, 2, 2)
    losses = total_loss(student(*inputs()), torch.tensor([0, 1]), targets(h), config)
    losses.total.backward()
    return student


@pytest.mark.parametrize(
    "config",
    [
        MethodConfig(),
        MethodConfig(lambda_1=0.0),
        MethodConfig(attention="literal", content="value"),
        MethodConfig(tg_edge="max", tg_features="pooled"),
        MethodConfig(logits="kl"),
    ],
)
def test_every_parameter_learns(config: MethodConfig) -> None:
    student = backward(config)
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_baseline_has_no_decoder_and_no_gate() -> None:
    config = MethodConfig(decoder=False, lambda_1=0.0, lambda_2=0.0)
    student = backward(config)
    assert student.decoder is None
    assert student.gate is None
    assert all(parameter.grad is not None for parameter in student.parameters())


def test_arms_with_equal_seeds_start_from_equal_branches() -> None:
    plain = make_student(MethodConfig(decoder=False, lambda_1=0.0, lambda_2=0.0))
    full = make_student(MethodConfig())
    for name in ("i_frame", "motion", "residual"):
        for a, b in zip(
            getattr(plain, name).parameters(), getattr(full, name).parameters(), strict=True
        ):
            assert torch.equal(a, b)


@pytest.mark.parametrize(("learns", "flows"), [("pooling", False), ("loss", True)])
def test_gate_is_trained_through_eq_4_only_when_asked(learns: str, flows: bool) -> None:
    config = MethodConfig.model_validate(
        {"gate": "softmax", "gate_learns": learns, "lambda_2": 0.0}
    )
    student = make_student(config)
    output = student(*inputs())
    h = torch.randn(2, T, 16, 2, 2)
    losses = total_loss(output, torch.tensor([0, 1]), targets(h), config)
    assert student.gate is not None
    if flows:
        losses.terms["spatial"].backward()
        grads = [parameter.grad for parameter in student.gate.parameters()]
        assert any(grad is not None and bool(grad.abs().sum() > 0) for grad in grads)
    else:
        losses.terms["spatial"].backward(retain_graph=True)
        assert all(parameter.grad is None for parameter in student.gate.parameters())
        losses.terms["ce"].backward()
        grads = [parameter.grad for parameter in student.gate.parameters()]
        assert any(grad is not None and bool(grad.abs().sum() > 0) for grad in grads)


def test_largest_edge_is_constant_in_the_backward_pass() -> None:
    # With two frames the normalised edge is 1 whatever h is; a gradient can only come from the
    # numerator, and it does because the maximum is detached: d(a/a*)/dh = 2 (h_0 - h_1) / a*.
    h = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1, 1).requires_grad_()
    config = MethodConfig(tg_edge="max", tg=(3,))
    edge = edges(h, 3, config, scale=1.0)[0, 0, 1]
    edge.backward()
    # v = h^2 + h + 1 = (3, 1), a = 4, da/dh_0 = 2 (v_0 - v_1) (2 h_0 + 1) = 12.
    assert h.grad is not None
    assert h.grad.flatten()[0].item() == pytest.approx(12 / 4)


def test_equal_vertices_give_finite_gradients() -> None:
    h = torch.zeros(1, 3, 2, 1, 1, requires_grad=True)
    for config in (MethodConfig(), MethodConfig(tg_kernel="scalar")):
        for graph in (1, 2, 3):
            edges(h, graph, config, scale=0.1).sum().backward()
    assert h.grad is not None
    assert h.grad.isfinite().all()


def test_teacher_receives_nothing() -> None:
    config = MethodConfig(logits="mse")
    h = torch.randn(2, T, 16, 2, 2, requires_grad=True)
    logits = torch.randn(2, K, requires_grad=True)
    mean_edges = {1: 0.1, 2: 0.1, 3: 5.0}
    output = make_student(config)(*inputs())
    losses = total_loss(output, torch.tensor([0, 1]), TeacherTargets(h, logits, mean_edges), config)
    losses.total.backward()
    assert h.grad is None
    assert logits.grad is None


def test_each_p_frame_attends_to_its_own_i_frame() -> None:
    # A4, seen where the I-frame's features enter the decoder: later layers mix the frames.
    student = make_student(MethodConfig()).eval()
    i_frames, own, motion, residual = inputs()
    changed = i_frames.clone()
    changed[1::2] += 1.0
    before, after = (f_i_of(student, x, own, motion, residual) for x in (i_frames, changed))
    same = (before == after).flatten(2).all(2)
    assert torch.equal(same, own % 2 == 0)


class Logits(nn.Module):
    """A student that returns its logits alone, since torch.export wants plain outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.student = make_student(MethodConfig()).eval()

    def forward(self, *given: Tensor) -> Tensor:
        return self.student(*given).logits


def test_a_student_is_exported_for_any_assignment_of_i_frames() -> None:
    plain = Logits()
    exported = torch.export.export(plain, inputs()).module()
    i_frames, own, motion, residual = inputs()
    moved = (i_frames, own.flip(0), motion, residual)
    torch.testing.assert_close(exported(*moved), plain(*moved))
    assert not torch.equal(plain(*moved), plain(*inputs()))


def f_i_of(student: Student, *batch: Tensor) -> Tensor:
    """What the decoder is given as f^I."""
    seen: list[Tensor] = []
    assert student.decoder is not None
    hook = student.decoder.register_forward_pre_hook(
        lambda _, given: seen.append(given[0][given[1]])
    )
    student(*batch)
    hook.remove()
    return seen[0]
