"""Each equation of the paper at values that can be checked on paper."""

import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from cmkd.config.method import MethodConfig
from cmkd.method.losses import (
    TeacherTargets,
    logits_loss,
    spatial_loss,
    temporal_loss,
    total_loss,
)
from cmkd.method.networks import AttentionGate, StudentOutput, entropy
from cmkd.method.pseudo_decoder import BiConvLSTM, CrossModalAttention, attn, fused_attention
from cmkd.method.temporal_graph import EPS, adjacency, edges, vertices

OWN = torch.zeros(1, 1, dtype=torch.int64)
LITERAL = MethodConfig(attention="literal", content="literal", heads=1)


def identity_(layer: nn.Module) -> None:
    assert isinstance(layer, nn.Linear)
    nn.init.eye_(layer.weight)


def literal_attention(config: MethodConfig = LITERAL) -> CrossModalAttention:
    module = CrossModalAttention(2, 2, config)
    for layer in (module.w_q, module.w_v, module.w_k_m, module.w_k_r):
        identity_(layer)
    return module


def test_eq_1_literal_value() -> None:
    # One frame, two tokens. q = v = I-frame tokens (1, 0) and (0, 1). Motion keys equal the first
    # token twice, so its scores tie and it returns the mean of the values, (0.5, 0.5). Residual
    # keys are sqrt(2) ln 3 times the tokens, so each token weighs itself 3 : 1.
    f_i = torch.eye(2)[None]
    f_m = torch.tensor([[1.0, 0.0], [1.0, 0.0]])[None, None]
    f_r = math.sqrt(2) * math.log(3) * torch.eye(2)[None, None]
    h_rec = literal_attention()(f_i, OWN, f_m, f_r)
    expected = torch.tensor([[0.5 + 0.75, 0.5 + 0.25], [0.5 + 0.25, 0.5 + 0.75]])
    torch.testing.assert_close(h_rec[0, 0], expected)


def test_eq_1_takes_no_value_from_motion_or_residual() -> None:
    f_i = torch.zeros(1, 2, 2)
    h_rec = literal_attention()(f_i, OWN, torch.randn(1, 1, 2, 2), torch.randn(1, 1, 2, 2))
    assert torch.equal(h_rec, torch.zeros_like(h_rec))


def test_eq_1_content_readings_add_motion_and_residual() -> None:
    f_i, f_m, f_r = (torch.randn(1, 3, 2, 2, generator=_seeded(k)) for k in range(3))
    own = torch.arange(3)[None]
    bare = literal_attention()(f_i[0], own, f_m, f_r)
    added = literal_attention(LITERAL.model_copy(update={"content": "add"}))(f_i[0], own, f_m, f_r)
    torch.testing.assert_close(added, bare + f_m + f_r)
    valued = literal_attention(LITERAL.model_copy(update={"content": "value"}))(
        f_i[0], own, f_m, f_r
    )
    by_hand = attn(f_i, f_m, f_i + f_r, 1) + attn(f_i, f_r, f_i + f_r, 1)
    torch.testing.assert_close(valued, by_hand)


def test_the_kernel_of_gpus_gives_the_same_attention() -> None:
    q, k, v = torch.randn(3, 2, 3, 2, 5, 4, generator=torch.Generator().manual_seed(2))
    expected = torch.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
    torch.testing.assert_close(fused_attention(q, k, v), expected)


def test_attn_heads_are_independent() -> None:
    q, k, v = (torch.randn(2, 3, 5, 8, generator=_seeded(s)) for s in range(3))
    both = attn(q, k, v, 2)
    halves = [attn(q[..., a], k[..., a], v[..., a], 1) for a in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(both, torch.cat(halves, -1))


def test_eq_2_one_step_value() -> None:
    # 1 channel, 1 hidden, 1x1 map: only the centre of each kernel matters. Gates are equal for
    # both directions; with all pre-activations x = ln 3: sigmoid = 0.75, tanh = 0.8.
    module = BiConvLSTM(1, 1, 1)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    with torch.no_grad():
        module.from_input.weight[:, :, 1, 1] = 1.0
        module.project.weight[:] = torch.tensor([1.0, 10.0]).view(1, 2, 1, 1)
        module.project.bias[:] = 0.5
    out = module(torch.full((1, 1, 1, 1, 1), math.log(3)))
    state = 0.75 * math.tanh(0.75 * 0.8)
    assert out.item() == pytest.approx(11 * state + 0.5, abs=1e-6)


def test_eq_2_equals_two_separate_passes() -> None:
    torch.manual_seed(0)
    module = BiConvLSTM(3, 2, 3)
    h_rec = torch.randn(2, 4, 3, 2, 3)
    both = [_one_direction(module, h_rec, 0), _one_direction(module, h_rec.flip(1), 1).flip(1)]
    expected = module.project(torch.cat(both, 2).flatten(0, 1)).unflatten(0, (2, 4))
    torch.testing.assert_close(module(h_rec), expected)


def test_eq_2_sees_past_and_future() -> None:
    torch.manual_seed(0)
    module = BiConvLSTM(1, 2, 1)
    h_rec = torch.zeros(1, 5, 1, 1, 1)
    moved = h_rec.clone()
    moved[0, 2] = 1.0
    change = (module(moved) - module(h_rec)).abs().flatten()
    assert (change > 1e-6).all()


def test_eq_3_value() -> None:
    v = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]])
    expected = torch.tensor([[[0.0, 25.0, 1.0], [25.0, 0.0, 18.0], [1.0, 18.0, 0.0]]])
    torch.testing.assert_close(adjacency(v), expected)


def test_eq_3_keeps_small_distances_of_large_vectors() -> None:
    v = torch.full((1, 2, 4), 1000.0)
    v[0, 1, 0] += 0.5
    assert adjacency(v)[0, 0, 1].item() == pytest.approx(0.25, rel=1e-4)


def test_eq_4_value() -> None:
    # Two frames, errors of squared norm 2 * 2^2 = 8 and 2 * 1^2 = 2, weights 0.5 and 1.5.
    h = torch.tensor([2.0, 1.0]).view(1, 2, 1, 1, 1).expand(1, 2, 1, 1, 2)
    alpha = torch.tensor([[0.5, 1.5]])
    # "level" divides by h w sqrt(C) / 8 = 2 / 8.
    for reduction, expected in {"sum": 3.5, "mean": 1.75, "level": 14.0}.items():
        config = MethodConfig.model_validate({"reduction": reduction})
        loss = spatial_loss(h, torch.zeros_like(h), alpha, config)
        assert loss.item() == pytest.approx(expected)


def test_eq_5_elementwise_values() -> None:
    h = torch.tensor([[[0.0, 2.0]]])
    config = MethodConfig()
    torch.testing.assert_close(vertices(h, 1, config), torch.tensor([[[1.0, math.exp(-2.0)]]]))
    torch.testing.assert_close(vertices(h, 2, config), torch.tensor([[[1.0, math.exp(-1.0)]]]))
    torch.testing.assert_close(vertices(h, 3, config), torch.tensor([[[1.0, 7.0]]]))


def test_eq_5_scalar_values_and_their_underflow() -> None:
    config = MethodConfig(tg_kernel="scalar")
    h = torch.tensor([[[3.0, 4.0]]])
    assert vertices(h, 1, config).item() == pytest.approx(math.exp(-12.5))
    assert vertices(h, 2, config).item() == pytest.approx(math.exp(-2.5), rel=1e-4)
    assert vertices(torch.ones(1, 1, 2048), 1, config).item() == 0.0


def test_eq_6_value() -> None:
    # TG_3 alone, raw edges, one scalar per frame: v = h^2 + h + 1. Teacher h = (0, 1): v = (1, 3),
    # edge 4. Student h = (0, 0): edge 0. Two of four entries differ by 4: mean square 8.
    config = MethodConfig(tg=(3,), tg_edge="raw", reduction="mean")
    h = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1, 1)
    loss = temporal_loss(h, torch.zeros_like(h), {1: 1.0, 2: 1.0, 3: 1.0}, config)
    assert loss.item() == pytest.approx(8.0)


def test_eq_6_sums_the_chosen_graphs() -> None:
    h, h_hat = torch.randn(2, 3, 4, 2, 2), torch.randn(2, 3, 4, 2, 2)
    scale = {1: 0.1, 2: 0.1, 3: 5.0}
    single = [temporal_loss(h, h_hat, scale, MethodConfig(tg=(i,))) for i in (1, 2, 3)]
    torch.testing.assert_close(temporal_loss(h, h_hat, scale, MethodConfig()), sum(single))


def test_edge_readings() -> None:
    h = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1, 1)
    root = edges(h, 3, MethodConfig(), scale=16.0)
    assert root[0, 0, 1].item() == pytest.approx(math.sqrt(4 / 16 + EPS))
    assert root[0, 0, 0].item() == pytest.approx(math.sqrt(EPS))
    largest = edges(h, 3, MethodConfig(tg_edge="max"), scale=16.0)
    torch.testing.assert_close(largest, torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]))


def test_eq_7_value_and_control() -> None:
    output, labels, targets = _example()
    config = MethodConfig(lambda_1=0.1, lambda_2=2.0, logits="mse", lambda_logits=0.5)
    losses = total_loss(output, labels, targets, config)
    terms = losses.terms
    assert list(terms) == ["ce", "spatial", "temporal", "logits"]
    expected = terms["ce"] + 0.1 * terms["spatial"] + 2 * terms["temporal"] + 0.5 * terms["logits"]
    torch.testing.assert_close(losses.total, expected)
    control = total_loss(output, labels, None, MethodConfig(lambda_1=0.0, lambda_2=0.0))
    assert list(control.terms) == ["ce"]
    assert control.total.item() == pytest.approx(math.log(2))


def test_logits_kd_values() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 3.0]])
    for reduction, expected in {"sum": 10.0, "mean": 5.0, "level": 5.0 * math.sqrt(2) / 4}.items():
        config = MethodConfig.model_validate({"logits": "mse", "reduction": reduction})
        assert logits_loss(student, teacher, config).item() == pytest.approx(expected)
    q = 1 / (1 + math.exp(0.5))
    kl = q * math.log(2 * q) + (1 - q) * math.log(2 * (1 - q))
    loss = logits_loss(student, teacher, MethodConfig(logits="kl"))
    assert loss.item() == pytest.approx(16 * kl, rel=1e-5)


@pytest.mark.parametrize("squeeze", ["channels", "frames"])
def test_gate_weights(squeeze: Literal["channels", "frames"]) -> None:
    torch.manual_seed(0)
    f_m, f_r = torch.randn(2, 6, 8, 4, 4), torch.randn(2, 6, 8, 4, 4)
    alpha = AttentionGate(6, 8, "softmax", squeeze)(f_m, f_r)
    torch.testing.assert_close(alpha.mean(1), torch.ones(2))
    sigmoid = AttentionGate(6, 8, "sigmoid", squeeze)(f_m, f_r)
    assert ((sigmoid > 0) & (sigmoid < 1)).all()


def test_gate_entropy() -> None:
    assert entropy(torch.ones(2, 8)).item() == pytest.approx(math.log(8))
    assert entropy(torch.tensor([[5.0, 0.0]])).item() == pytest.approx(0.0, abs=1e-6)


def test_sigmoid_gate_trained_through_eq_4_collapses() -> None:
    # Why the default gate is neither (A8): alpha = 0 minimises Eq. (4) whatever the features.
    torch.manual_seed(0)
    gate = AttentionGate(4, 8, "sigmoid", "frames")
    f_m, f_r = torch.randn(16, 4, 8, 2, 2), torch.randn(16, 4, 8, 2, 2)
    h = torch.randn(16, 4, 8, 2, 2)
    optimizer = torch.optim.Adam(gate.parameters(), lr=0.05)
    config = MethodConfig(gate="sigmoid", gate_learns="loss")
    for _ in range(400):
        loss = spatial_loss(h, torch.zeros_like(h), gate(f_m, f_r), config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert gate(f_m, f_r).max() < 0.01


def _example() -> tuple[StudentOutput, Tensor, TeacherTargets]:
    h = torch.randn(2, 3, 4, 2, 2, generator=_seeded(1))
    output = StudentOutput(torch.zeros(2, 2), torch.zeros(2, 3, 4, 2, 2), torch.ones(2, 3))
    targets = TeacherTargets(h, torch.ones(2, 2), {1: 0.1, 2: 0.1, 3: 5.0})
    return output, torch.tensor([0, 1]), targets


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _one_direction(module: BiConvLSTM, x: Tensor, direction: int) -> Tensor:
    hidden = module.hidden
    part = slice(4 * hidden * direction, 4 * hidden * (direction + 1))
    weight, bias = module.from_input.weight[part], module.from_input.bias
    assert bias is not None
    state = torch.zeros(x.shape[0], hidden, *x.shape[-2:])
    cell = torch.zeros_like(state)
    outputs = []
    for step in range(x.shape[1]):
        gates = nn.functional.conv2d(x[:, step], weight, bias[part], padding=1)
        recurrent = module.from_state.weight[part]
        gates = gates + nn.functional.conv2d(state, recurrent, padding=1)
        i, f, o, g = gates.chunk(4, 1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        state = o.sigmoid() * cell.tanh()
        outputs.append(state)
    return torch.stack(outputs, 1)
