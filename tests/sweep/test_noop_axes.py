"""Axes that change something at the first step, and axes that do not."""

from __future__ import annotations

from pathlib import Path

from cmkd.config.sweep import load_sweep
from cmkd.config.trial import Setting
from cmkd.sweep.plan import axes_of, flat
from cmkd.sweep.preflight import noop_axes, pairs_to_try
from cmkd.training.cost import ProbeTask, probe


def settings_of(tmp_path: Path, blocks: str) -> list[Setting]:
    path = tmp_path / "s.yaml"
    small = "student.width: 4, teacher.width: 4, method.heads: 1, method.hidden: 4"
    path.write_text(f"name: s\ndescription: d\nbase: {{{small}}}\nblocks:\n{blocks}")
    return [arm.setting for arm in load_sweep(str(path)).arms]


def dead(settings: list[Setting]) -> list[str]:
    """Axes that a real step of real students shows to change nothing."""
    pairs = pairs_to_try(settings)
    probes, _ = probe(ProbeTask(tuple(settings), (), (32, 32), 3))
    assert not any(one.failure for one in probes)
    marks = {one.id: found.fingerprint for one, found in zip(settings, probes, strict=True)}
    return noop_axes(pairs, marks)


def test_axes_are_what_not_all_settings_share(tmp_path: Path) -> None:
    first, second = settings_of(tmp_path, "  a: {method.tg: [[1], [1, 2]], training.lr: [0.1]}\n")
    assert axes_of([first, second]) == {
        first.id: {"method.tg": "[1]"},
        second.id: {"method.tg": "[1, 2]"},
    }
    assert flat({"a": {"b": 1, "c": "x"}, "d": None}) == {"a.b": "1", "a.c": "x", "d": "null"}


def test_pairs_differ_in_one_axis_alone(tmp_path: Path) -> None:
    settings = settings_of(
        tmp_path,
        "  grid: {method.lambda_1: [0.1, 0.2], method.gate: ['off', softmax], training.lr: [0.1]}\n"
        "  far: {method.heads: [2], method.content: [value], training.lr: [0.2]}\n",
    )
    pairs = pairs_to_try(settings)
    assert list(pairs) == ["method.lambda_1", "method.gate"], "others never vary by themselves"
    by_id = axes_of(settings)
    for key, tried in pairs.items():
        assert len(tried) == 2
        for one, other in tried:
            assert {k for k in by_id[one] if by_id[one][k] != by_id[other][k]} == {key}


def test_every_part_of_the_method_is_alive(tmp_path: Path) -> None:
    assert dead(settings_of(tmp_path, COMPONENTS)) == []


COMPONENTS = """
  gate: {method.gate: ["off", softmax, sigmoid]}
  learns: {method.gate: [softmax], method.gate_learns: [loss]}
  squeeze: {method.gate: [softmax], method.gate_squeeze: [frames]}
  graphs: {method.tg: [[1], [2], [3], [1, 2], [1, 3], [2, 3]]}
  features: {method.tg_features: [pooled]}
  kernel: {method.tg_kernel: [scalar]}
  edge: {method.tg_edge: [max, raw]}
  attention: {method.attention: [block]}
  content: {method.content: [value, literal]}
  weights: {method.lambda_1: [0.0, 0.01, 1.0], method.lambda_2: [0.0, 0.1, 5.0]}
  logits: {method.logits: [mse, kl]}
  reduction: {method.reduction: [sum, mean]}
  backbone: {student.backbone: [tiny_tdn]}
"""


def test_an_axis_whose_condition_is_off_is_dead(tmp_path: Path) -> None:
    for blocks, axis in {
        "  a: {method.lambda_logits: [0.5, 2.0]}\n": "method.lambda_logits",
        "  a: {method.gate: ['off'], method.gate_learns: [pooling, loss]}\n": "method.gate_learns",
        "  a: {method.lambda_2: [0.0], method.tg: [[1], [2]]}\n": "method.tg",
    }.items():
        assert dead(settings_of(tmp_path, blocks)) == [axis]


def test_one_living_pair_keeps_an_axis_alive(tmp_path: Path) -> None:
    product = "  a: {method.lambda_2: [0.0, 1.0], method.tg: [[1], [2]]}\n"
    assert dead(settings_of(tmp_path, product)) == []


def test_axes_of_data_and_optimisation_are_not_asked(tmp_path: Path) -> None:
    blocks = (
        "  a: {training.epochs: [1, 2], inputs.motion: [accumulated, per_frame]}\n"
        "  svm: {model: [motion_svm], inputs.motion: [accumulated, per_frame]}\n"
    )
    assert pairs_to_try(settings_of(tmp_path, blocks)) == {}
