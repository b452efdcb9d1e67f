"""Students of every family: grids, channels, order of I-frames, imported weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cmkd.config.data import InputConfig
from cmkd.config.method import MethodConfig
from cmkd.config.trial import Setting, StudentConfig, TeacherConfig, TrainingConfig
from cmkd.method.networks import Branch, Student
from cmkd.training.build import (
    StudentInputs,
    build_student,
    random_inputs,
    sees_all_i_frames,
)
from cmkd.training.checkpoint import write_tensors
from cmkd.training.weights import import_file

CLIPS, SIDE = 1, 64
"""Side of the pictures: 2 x 2 maps of ResNets, 4 x 4 of the tiny families."""


def setting(
    *, frames: int = 4, gops: int | None = 2, method: dict[str, Any] | None = None, **student: Any
) -> Setting:
    return Setting(
        method=MethodConfig(**{"lambda_1": 0.0, "hidden": 8, **(method or {})}),
        student=StudentConfig(**student),
        inputs=InputConfig(num_frames=frames, num_gops=gops),
    )


def batch(of: Setting) -> StudentInputs:
    """Noise for `CLIPS` clips with two I-frames each."""
    gops, frames = 2, of.inputs.num_frames
    setting = of.model_copy(update={"inputs": of.inputs.model_copy(update={"num_gops": gops})})
    inputs = random_inputs(setting, "student", (SIDE, SIDE), CLIPS, torch.device("cpu"))
    i_frames, own, motion, residual = inputs
    if sees_all_i_frames(of):
        return i_frames, own, motion, residual
    assert own.shape == (CLIPS, frames)
    return i_frames.flatten(0, 1)[:, None], own, motion, residual


def build(of: Setting, cache: Path | None = None) -> Student:
    torch.manual_seed(0)
    return build_student(of, (SIDE, SIDE), 5, cache=cache)


def branch(student: Student, name: str) -> Branch:
    found = getattr(student, name)
    assert isinstance(found, Branch)
    return found


def maps_of(student: Student, name: str, x: Tensor) -> Tensor:
    with torch.no_grad():
        maps: Tensor = getattr(student.eval(), name)(x)
    return maps


@pytest.mark.parametrize(
    ("student", "channels", "grid"),
    [
        ({"backbone": "tiny_tsm", "width": 4}, 16, 4),
        ({"backbone": "tiny_tdn", "width": 4}, 16, 4),
        ({"backbone": "tsm_r18"}, 512, 2),
        ({"backbone": "tsm_r18", "motion_size": 32, "residual_size": 32}, 512, 2),
        ({"backbone": "tsm_r50", "p_backbone": "tsm_r18", "motion_size": 32}, 2048, 2),
        ({"backbone": "tdn_r50", "motion_size": 64, "residual_size": 64}, 2048, 2),
    ],
)
def test_all_maps_end_on_the_i_frames_grid_and_channels(
    student: dict[str, Any], channels: int, grid: int
) -> None:
    of = setting(method={"width": 8}, **student)
    built = build(of)
    with torch.no_grad():
        output = built.eval()(*batch(of))
    assert output.logits.shape == (CLIPS, 5)
    assert output.h_hat is not None
    assert output.h_hat.shape == (CLIPS, 4, channels, grid, grid)
    assert output.logits.isfinite().all()


def test_a_smaller_map_is_interpolated_and_a_narrower_one_widened() -> None:
    of = setting(backbone="tsm_r50", p_backbone="tsm_r18", motion_size=32, residual_size=64)
    motion = branch(build(of), "motion").eval()
    residual = branch(build(of), "residual").eval()
    x = batch(of)[2]
    seen: list[Tensor] = []
    motion.backbone.register_forward_hook(lambda _, given, out: seen.extend([given[0], out]))
    with torch.no_grad():
        maps = motion(x)
        given, own = seen
        # Every vector is one that the file has: "nearest" invents none between two blocks.
        assert given.shape[-2:] == (32, 32)
        assert set(given.unique().tolist()) == set(x.unique().tolist())
        assert own.shape == (CLIPS, 4, 512, 1, 1)
        wide = motion.project(own.flatten(0, 1))
        expected = nn.functional.interpolate(wide, (2, 2), mode="bilinear", align_corners=False)
        torch.testing.assert_close(maps.flatten(0, 1), expected)
    assert residual.weights is None
    # The matrix is no parameter and no part of the weights that are kept.
    assert "motion.weights" not in build(of).state_dict()


def test_interpolation_is_torchs_own() -> None:
    network = nn.Identity()
    fitted = Branch(
        network,
        input_size=(3, 4),
        resized=(3, 4),
        resizing="bilinear",
        stride=1,
        channels=2,
        out_channels=2,
        grid=(7, 5),
    )
    x = torch.randn(1, 2, 2, 3, 4)
    expected = nn.functional.interpolate(x[0], (7, 5), mode="bilinear", align_corners=False)
    torch.testing.assert_close(fitted(x)[0], expected)


def test_the_i_branch_looks_across_i_frames_where_their_number_is_fixed() -> None:
    # A fixed number of GOPs gives I-frames an order. Otherwise each is seen alone.
    for gops, moves in ((2, True), (None, False)):
        of = setting(gops=gops, backbone="tsm_r18", method={"width": 8})
        student = build(of).eval()
        assert sees_all_i_frames(of) is moves
        i_frames, gop, motion, residual = batch(of)
        changed = i_frames.clone()
        changed.flatten(0, 1)[1] += 1
        before, after = (f_i(student, x, gop, motion, residual) for x in (i_frames, changed))
        own = (before != after).flatten(2).any(2)
        assert own[gop == 1].all()
        assert own[gop == 0].any() == moves


def test_f_i_follows_the_slots_of_the_gops() -> None:
    of = setting(frames=4, gops=2, backbone="tsm_r18", method={"width": 8})
    student = build(of).eval()
    i_frames, _, motion, residual = batch(of)
    gop = torch.tensor([[0, 1, 1, 1]])
    with torch.no_grad():
        maps = student.i_frame(i_frames)
    seen = f_i(student, i_frames, gop, motion, residual)
    for clip, slots in enumerate(gop):
        torch.testing.assert_close(seen[clip], maps[clip, slots])


def test_tdn_sees_five_frames_of_motion_and_residual_and_one_i_frame() -> None:
    of = setting(backbone="tdn_r50", motion_size=64, residual_size=64, method={"width": 8})
    assert of.compressed_segment == 5
    student = build(of)
    i_frames, _, motion, residual = batch(of)
    assert (motion.shape[2], residual.shape[2], i_frames.shape[2]) == (10, 15, 3)
    # The short-term module answers to the outer frames, whose own maps nobody computes.
    changed = motion.clone()
    changed[:, :, :2] += 1
    assert not torch.equal(maps_of(student, "motion", motion), maps_of(student, "motion", changed))
    names = {name for name, _ in student.named_modules()}
    assert "motion.backbone.conv1_5" in names
    assert "i_frame.conv1_5" not in names
    assert "i_frame.layer2_bak.0.mse" in names


@pytest.mark.parametrize("width", [None, 8])
def test_width_is_what_the_decoder_works_in(width: int | None) -> None:
    of = setting(backbone="tiny_tsm", width=4, method={"width": width, "heads": 2})
    decoder = build(of).decoder
    assert decoder is not None
    inner = width or 16
    assert decoder.attention.w_q.in_features == inner
    assert decoder.temporal.from_input.in_channels == inner
    assert decoder.temporal.project.out_channels == 16
    narrowed = [decoder.narrow_i, decoder.narrow_m, decoder.narrow_r]
    assert all(isinstance(one, nn.Identity) for one in narrowed) == (width is None)


def test_bf16_autocast_changes_a_student_by_rounding_alone() -> None:
    of = setting(backbone="tsm_r18", motion_size=32, residual_size=32, method={"width": 8})
    student = build(of).eval()
    with torch.no_grad():
        plain = student(*batch(of))
        with torch.autocast("cpu", torch.bfloat16):
            rounded = student(*batch(of))
    assert plain.h_hat is not None
    assert rounded.h_hat is not None
    assert rounded.alpha.dtype == torch.float32
    torch.testing.assert_close(rounded.logits.float(), plain.logits, rtol=0.05, atol=0.05)
    torch.testing.assert_close(rounded.h_hat.float(), plain.h_hat, rtol=0.05, atol=0.05)


def test_imported_weights_start_the_branches(tmp_path: Path) -> None:
    of = setting(backbone="tsm_r18", motion_size=32, residual_size=32, method={"width": 8})
    donor = build(of.model_copy(update={"inputs": InputConfig(num_frames=4)})).i_frame
    with torch.no_grad():
        for parameter in donor.parameters():
            parameter.add_(0.5)
    state = {name: value for name, value in donor.state_dict().items() if name[:5] == "layer"}
    path = tmp_path / "resnet18.safetensors"
    head = {"fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}
    write_tensors(path, {**donor.state_dict(), **head}, {})
    weights_id = import_file(path, tmp_path).weights.id
    starts = of.model_copy(
        update={"student": of.student.model_copy(update={"weights": weights_id})}
    )
    student = build(starts, tmp_path)
    for network in (student.i_frame, branch(student, "motion").backbone):
        for name, value in state.items():
            assert torch.equal(network.state_dict()[name], value), name
    stem = branch(student, "motion").backbone.get_submodule("conv1").weight
    assert stem.shape == (64, 2, 7, 7)
    # Without a cache the same setting starts from random weights: a cost needs no files.
    fresh = build(starts).i_frame.state_dict()["layer1.0.conv1.weight"]
    assert not torch.equal(fresh, state["layer1.0.conv1.weight"])


def test_equal_seeds_give_equal_branches_with_and_without_decoder() -> None:
    plain = {"decoder": False, "lambda_2": 0.0}
    arms = [build(setting(backbone="tsm_r18", method=extra)) for extra in ({"width": 8}, plain)]
    for name in ("i_frame", "motion", "residual"):
        one, other = (getattr(arm, name).state_dict() for arm in arms)
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_unlike_families_cannot_share_maps() -> None:
    with pytest.raises(ValueError, match="maps of different size"):
        Setting(
            student=StudentConfig(backbone="tsm_r18"),
            teacher=TeacherConfig(backbone="tiny_tdn", width=128),
            training=TrainingConfig(),
        )


def f_i(student: Student, *given: Tensor) -> Tensor:
    """Maps of every P-frame's own I-frame, as the decoder is given them."""
    seen: list[Tensor] = []
    assert student.decoder is not None
    hook = student.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0][args[1]]))
    with torch.no_grad():
        student(*given)
    hook.remove()
    return seen[0]
