"""Imported weights: published layouts in, one content id out, strict loading into our networks."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cmkd.config.backbones import BACKBONES, Size
from cmkd.errors import InputError
from cmkd.method.networks import Teacher
from cmkd.training.weight_layouts import read_tensors, recognise
from cmkd.training.weights import (
    find_weights,
    for_network,
    import_file,
    list_weights,
    load_into_backbone,
    load_into_teacher,
)

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}

Shapes = dict[str, tuple[int, ...]]


def norm(name: str, channels: int) -> Shapes:
    vectors = {
        f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")
    }
    return vectors | {f"{name}.num_batches_tracked": ()}


def conv(name: str, *shape: int, bias: bool) -> Shapes:
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if bias else {})


def stage(name: str, depth: int, number: int, bias: bool = False) -> Shapes:
    """A stage of torchvision's ResNet; `bias` as in TDN's."""
    planes, wide = 64 * 2 ** (number - 1), 1 if depth < 50 else 4
    inputs = 64 if number == 1 else planes * wide // 2
    shapes: Shapes = {}
    for index in range(BLOCKS[depth][number - 1]):
        block = f"{name}.{index}"
        sizes = [(planes, inputs, 3, 3), (planes, planes, 3, 3)]
        if depth >= 50:
            sizes = [(planes, inputs, 1, 1), (planes, planes, 3, 3), (4 * planes, planes, 1, 1)]
        for position, size in enumerate(sizes, 1):
            shapes |= conv(f"{block}.conv{position}", *size, bias=bias)
            shapes |= norm(f"{block}.bn{position}", size[0])
        if index == 0 and inputs != planes * wide:
            shapes |= conv(f"{block}.downsample.0", planes * wide, inputs, 1, 1, bias=bias)
            shapes |= norm(f"{block}.downsample.1", planes * wide)
        inputs = planes * wide
    return shapes


def resnet(depth: int, classes: int | None = 1000) -> Shapes:
    """torchvision's names."""
    shapes = conv("conv1", 64, 3, 7, 7, bias=False) | norm("bn1", 64)
    for number in (1, 2, 3, 4):
        shapes |= stage(f"layer{number}", depth, number)
    channels = 512 if depth < 50 else 2048
    return shapes | ({} if classes is None else conv("fc", classes, channels, bias=True))


def tsm(depth: int, classes: int = 400) -> Shapes:
    """mit-han-lab/temporal-shift-module's names: convolutions wrapped, a classifier outside."""
    shapes: Shapes = {}
    for name, shape in resnet(depth, None).items():
        if name.startswith("layer"):
            name = name.replace(".conv1.", ".conv1.net.")
        shapes[f"module.base_model.{name}"] = shape
    return shapes | conv("module.new_fc", classes, 512 if depth < 50 else 2048, bias=True)


def tdn(classes: int = 174) -> Shapes:
    """MCG-NJU/TDN's names."""
    shapes = conv("conv1", 64, 3, 7, 7, bias=True) | norm("bn1", 64)
    shapes |= conv("conv1_temp", 64, 3, 7, 7, bias=True)
    shapes |= conv("conv1_5.0", 64, 12, 7, 7, bias=False) | norm("conv1_5.1", 64)
    shapes |= stage("resnext_layer1", 50, 1, bias=True) | stage("layer1_bak", 50, 1, bias=True)
    for number in (2, 3, 4):
        shapes |= stage(f"layer{number}_bak", 50, number, bias=True)
        planes = 64 * 2 ** (number - 1)
        few = planes // 16
        for index in range(BLOCKS[50][number - 1]):
            block = f"layer{number}_bak.{index}"
            shapes |= conv(f"{block}.shift.conv", planes, 1, 3, bias=False)
            shapes |= conv(f"{block}.mse.conv1", few, planes, 1, 1, bias=False)
            shapes |= norm(f"{block}.mse.bn1", few)
            shapes |= conv(f"{block}.mse.conv2", few, 1, 3, 3, bias=False)
            shapes |= conv(f"{block}.mse.conv3", planes, few, 1, 1, bias=False)
            shapes |= norm(f"{block}.mse.bn3", planes)
            for scale in (2, 4):
                shapes |= conv(f"{block}.mse.conv3_smallscale{scale}", few, few, 3, 3, bias=False)
                shapes |= norm(f"{block}.mse.bn3_smallscale{scale}", few)
    return {f"module.base_model.{name}": shape for name, shape in shapes.items()} | conv(
        "module.new_fc", classes, 2048, bias=True
    )


def filled(shapes: Shapes) -> dict[str, Tensor]:
    """Random values with which a network in evaluation mode neither dies nor explodes."""
    generator = torch.Generator().manual_seed(0)
    values = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            values[name] = torch.tensor(7)
        elif len(shape) == 1:
            scale = 0.3 + 0.3 * torch.rand(shape, generator=generator)
            offset = 0.1 * torch.randn(shape, generator=generator)
            values[name] = scale if name.endswith(("weight", "var")) else offset
        else:
            fan_in = int(np.prod(shape[1:]))
            values[name] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
    return values


def hollow(shapes: Shapes) -> dict[str, Tensor]:
    """Tensors of these shapes that take no memory."""
    return {
        name: torch.tensor(7) if name.endswith("tracked") else torch.zeros(()).expand(shape)
        for name, shape in shapes.items()
    }


def checkpoint(state: dict[str, Tensor]) -> dict[str, object]:
    """What the training scripts of TSM and TDN save."""
    return {
        "epoch": 50,
        "arch": "resnet50",
        "state_dict": state,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.01, "params": [0]}]},
        "best_prec1": torch.tensor(74.1),
    }


def network(backbone: str, build: str = "temporal", in_channels: int = 3, frames: int = 2):
    family = BACKBONES[backbone]
    return getattr(family, build)(Size(in_channels, frames, family.stride or 16, 8)).eval()


@pytest.fixture(scope="module")
def tsm_state() -> dict[str, Tensor]:
    return filled(tsm(18))


@pytest.fixture(scope="module")
def resnet_50() -> dict[str, Tensor]:
    return filled(resnet(50, None))


@pytest.fixture(scope="module")
def tdn_state() -> dict[str, Tensor]:
    """TDN under our names of a backbone."""
    prefix = "module.base_model."
    shapes = {
        name.removeprefix(prefix): shape
        for name, shape in tdn().items()
        if name.startswith(prefix) and "conv1_temp" not in name
    }
    return filled(shapes)


@pytest.fixture(scope="module")
def imported_tsm(tsm_state, tmp_path_factory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("tsm")
    torch.save(checkpoint(tsm_state), folder / "ckpt.best.pth.tar")
    return import_file(folder / "ckpt.best.pth.tar", folder).weights.id, folder


def test_an_official_tsm_file_is_recognised_and_noted(imported_tsm):
    weights_id, cache = imported_tsm
    (weights,) = list_weights(cache)
    assert weights.id == weights_id
    assert (weights.layout, weights.backbone, weights.num_classes) == ("tsm", "tsm_r18", 400)
    assert (weights.name, weights.source) == ("ckpt.best.pth.tar", "ckpt.best.pth.tar")
    source = (cache / "ckpt.best.pth.tar").read_bytes()
    assert weights.sha256 == hashlib.sha256(source).hexdigest()
    assert weights.path == cache / "weights" / f"{weights_id}.safetensors"


def test_an_imported_teacher_computes_what_its_weights_say(imported_tsm, tsm_state):
    teacher = Teacher(network("tsm_r18"), 512, 400, 0.5).eval()
    assert load_into_teacher(teacher, *imported_tsm) == ()
    by_hand = network("tsm_r18")
    prefix = "module.base_model."
    own = {
        name.removeprefix(prefix).replace(".net.", "."): value
        for name, value in tsm_state.items()
        if name.startswith(prefix)
    }
    by_hand.load_state_dict(own)
    frames = torch.randn(1, 2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        h, logits = teacher(frames)
        expected = by_hand(frames)
        head = tsm_state["module.new_fc.weight"], tsm_state["module.new_fc.bias"]
        per_frame = nn.functional.linear(expected.mean((3, 4)), *head)
    assert expected.std() > 0.01
    assert torch.equal(h, expected)
    torch.testing.assert_close(logits, per_frame.mean(1))


@pytest.mark.parametrize("container", ["before torch 1.6", "safetensors", "no module."])
def test_the_same_weights_in_another_container_have_the_same_id(
    container, imported_tsm, tsm_state, tmp_path
):
    weights_id, cache = imported_tsm
    path = tmp_path / "again"
    if container == "before torch 1.6":
        torch.save(checkpoint(tsm_state), path, _use_new_zipfile_serialization=False)
    elif container == "safetensors":
        save_file(tsm_state, path)
    else:
        torch.save({key.removeprefix("module."): tsm_state[key] for key in tsm_state}, path)
    again = import_file(path, cache, name="again")
    assert again.known
    assert (again.weights.id, again.weights.name) == (weights_id, "ckpt.best.pth.tar")


def test_other_values_have_another_id(tmp_path):
    ids = set()
    for change in (0.0, 1e-7):
        state = network("tiny_tdn").state_dict()
        torch.manual_seed(0)
        state = {f"backbone.{k}": v.new_zeros(v.shape) for k, v in state.items()}
        state["backbone.stem.0.weight"][0, 0, 0, 0] = change
        save_file(state, tmp_path / "file")
        ids.add(import_file(tmp_path / "file", tmp_path).weights.id)
    assert len(ids) == 2


def test_a_teacher_of_ours_comes_back_as_it_was(tmp_path):
    teacher = Teacher(network("tiny_tdn"), 32, 6, 0.0).eval()
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    weights = import_file(tmp_path / "teacher.safetensors", tmp_path).weights
    assert (weights.layout, weights.backbone) == ("cmkd", "tiny_tdn")
    assert (weights.width, weights.num_classes) == (8, 6)
    again = Teacher(network("tiny_tdn"), 32, 6, 0.0).eval()
    load_into_teacher(again, weights.id, tmp_path)
    frames = torch.randn(1, 2, 3, 32, 32)
    assert torch.equal(again(frames)[1], teacher(frames)[1])


def test_a_classifier_of_other_classes_stays_fresh_and_is_named(imported_tsm):
    teacher = Teacher(network("tsm_r18"), 512, 51, 0.5)
    before = teacher.classifier.weight.clone()
    fresh = load_into_teacher(teacher, *imported_tsm)
    assert fresh == ("classifier.weight", "classifier.bias")
    assert torch.equal(teacher.classifier.weight, before)


@pytest.mark.parametrize(("depth", "classes"), [(18, 1000), (34, 1000), (50, 1000), (50, None)])
def test_files_of_torchvision_are_recognised(depth, classes):
    found = recognise(hollow(resnet(depth, classes)), Path("resnet.pth"))
    assert (found.layout, found.backbone) == ("resnet", f"tsm_r{depth}")
    assert found.num_classes == classes


def test_tsm_trained_without_dropout_has_its_classifier_inside():
    state = hollow(tsm(18))
    for part in ("weight", "bias"):
        state[f"module.base_model.fc.{part}"] = state.pop(f"module.new_fc.{part}")
    assert recognise(state, Path("file")).num_classes == 400


def test_an_official_tdn_file_is_recognised_and_the_unused_layer_said():
    found = recognise(hollow(tdn()), Path("best.pth.tar"))
    assert (found.layout, found.backbone, found.num_classes) == ("tdn", "tdn_r50", 174)
    unused = "module.base_model.conv1_temp."
    assert found.dropped == (f"{unused}weight", f"{unused}bias")


def test_counters_that_old_files_lack_are_zero():
    shapes = {name: shape for name, shape in resnet(18).items() if "tracked" not in name}
    found = recognise(hollow(shapes), Path("resnet18-5c106cde.pth"))
    counter = found.tensors["backbone.bn1.num_batches_tracked"]
    assert (counter.dtype, counter.item()) == (torch.int64, 0)


def test_half_precision_is_widened_and_shared_memory_parted(tmp_path):
    state = hollow(resnet(18, None))
    state["conv1.weight"] = torch.ones(64, 3, 7, 7, dtype=torch.bfloat16)
    torch.save(state, tmp_path / "half.pth")
    weights = import_file(tmp_path / "half.pth", tmp_path).weights
    stored = load_file(weights.path)
    assert stored["backbone.conv1.weight"].dtype == torch.float32
    assert stored["backbone.conv1.weight"].eq(1).all()


def test_every_key_that_does_not_fit_is_listed_at_once():
    state = hollow(tsm(18))
    del state["module.base_model.bn1.bias"], state["module.base_model.layer4.1.conv2.weight"]
    state["module.base_model.layer2.0.nl.theta.weight"] = torch.zeros(1)
    state["module.base_model.conv1.weight"] = torch.zeros(64, 10, 7, 7)
    state["module.base_model.layer1.0.bn1.weight"] = torch.zeros(64, dtype=torch.int8)
    state["module.new_fc.bias"] = torch.zeros(401)
    with pytest.raises(InputError) as caught:
        recognise(state, Path("flow.pth.tar"))
    assert str(caught.value) == (
        "flow.pth.tar: is not a whole tsm_r18, the family that it comes closest to; "
        "missing: backbone.bn1.bias, backbone.layer4.1.conv2.weight; "
        "unexpected: module.base_model.layer2.0.nl.theta.weight; "
        "wrong shape: module.base_model.conv1.weight (64, 10, 7, 7) in place of (64, 3, 7, 7), "
        "module.base_model.layer1.0.bn1.weight int8 (64,) in place of (64,), "
        "module.new_fc.bias (401,) in place of (400,); "
        f"use a checkpoint of {', '.join(BACKBONES)}"
    )


def test_a_deeper_network_is_refused():
    with pytest.raises(InputError, match=r"not a whole tsm_r50.*unexpected: layer3\.10\.bn1\.bias"):
        recognise(hollow(resnet(101)), Path("resnet101.pth"))


def test_a_network_that_is_none_of_ours_is_refused_with_its_keys():
    state = {f"module.base_model.{part}.weight": torch.zeros(3) for part in ("stem", "features")}
    with pytest.raises(InputError) as caught:
        recognise(state | hollow({"module.new_fc.weight": (400, 1280)}), Path("mobilenet.pth"))
    assert str(caught.value) == (
        f"mobilenet.pth: is of no network known here ({', '.join(BACKBONES)}); "
        "unexpected: module.base_model.features.weight, "
        "module.base_model.stem.weight, module.new_fc.weight"
    )


def test_a_tensor_under_two_names_is_refused():
    state = hollow(tsm(18)) | {"conv1.weight": torch.zeros(64, 3, 7, 7)}
    with pytest.raises(InputError, match=r"under two names; remove module\.base_model\.conv1"):
        recognise(state, Path("file"))


def test_values_that_are_not_finite_are_refused():
    state = hollow(resnet(18)) | {"fc.bias": torch.full((1000,), torch.nan)}
    with pytest.raises(InputError, match=r"not a number, or infinite: fc\.bias;"):
        recognise(state, Path("diverged.pth"))


class Foreign:
    """Anything a pickle can hold."""


class Runs:
    """Runs a command where pickle is trusted."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


def bad_files() -> Iterator[tuple[str, object, str]]:
    """Name, content (bytes, or what torch saves) and words of the reason."""
    yield "empty", b"", "cut short"
    yield "page", b"\n<!DOCTYPE html><title>Too many requests</title>", "neither safetensors nor"
    yield "text", b"epoch,loss\n1,0.5\n" * 9, "neither safetensors nor"
    yield "safetensors", b"\x10\0\0\0\0\0\0\0{" + b'"a": [1, 2, 3' * 9, "safetensors but cut short"
    yield "zip", b"PK\x03\x04" + b"\0" * 99, "cut short, damaged"
    yield "code", {"state_dict": {}, "args": Runs()}, "needs the Python object posix.system"
    yield "object", {"args": Foreign()}, "needs the Python object"
    yield "scalar", {"best_prec1": np.float64(74)}, "needs the Python object numpy"
    yield "module", nn.Linear(1, 1), "needs the Python object torch.nn.modules.linear.Linear"
    yield "plain pickle", pickle.dumps([1, 2], protocol=2), "cut short, damaged"
    yield "list", [torch.zeros(1)], "holds a list in place of named tensors"
    yield "nothing", {"state_dict": {}}, "holds a dict in place of named tensors"
    yield "mixed", {"a": torch.zeros(1), "lr": 0.1, 3: torch.zeros(1)}, "under a name"
    yield "sparse", {"a": torch.zeros(2).to_sparse()}, "plain tensor under a name"


@pytest.mark.parametrize(("name", "content", "reason"), list(bad_files()))
@pytest.mark.parametrize("new", [True, False])
def test_files_that_cannot_be_used_are_refused(name, content, reason, new, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=new)
    with pytest.raises(InputError) as caught:
        import_file(path, tmp_path / "cache")
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)
    assert "weights_only" not in str(caught.value), "no advice to load it unsafely"
    assert sorted(tmp_path.iterdir()) == [path], "nothing ran and nothing was kept"


def test_the_name_of_a_file_does_not_decide_its_format(tmp_path):
    expected = {"a": torch.ones(2)}
    torch.save(expected, tmp_path / "torch.safetensors")
    save_file(expected, tmp_path / "safetensors.pth")
    for name in ("torch.safetensors", "safetensors.pth"):
        assert torch.equal(read_tensors(tmp_path / name)["a"], expected["a"])


def test_no_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="none.pth: cannot be read"):
        read_tensors(tmp_path / "none.pth")
    with pytest.raises(InputError, match="cannot be read .*directory"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_files_cut_short_are_refused(new, share, tmp_path):
    path = tmp_path / "cut.pth"
    state = {f"layer{k}.weight": torch.zeros(100) for k in range(20)}
    torch.save(state, path, _use_new_zipfile_serialization=new)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match="cut short"):
        read_tensors(path)


def test_a_motion_branch_sees_the_mean_over_rgb(imported_tsm):
    """On inputs whose channels are equal, k of them answer k / 3 times as strongly as RGB."""
    weights_id, cache = imported_tsm
    outputs = {}
    grey = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    for channels in (2, 3, 5):
        branch = network("tsm_r18", in_channels=channels)
        assert load_into_backbone(branch, weights_id, cache, in_channels=channels) == ()
        with torch.inference_mode():
            outputs[channels] = branch.conv1(grey.expand(1, channels, 32, 32))
    torch.testing.assert_close(outputs[2] / 2, outputs[3] / 3, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs[5] / 5, outputs[3] / 3, rtol=1e-4, atol=1e-5)


def test_image_and_shifted_networks_share_weights(imported_tsm, tsm_state):
    branch = network("tsm_r18", "image")
    load_into_backbone(branch, *imported_tsm, in_channels=3)
    expected = tsm_state["module.base_model.layer3.1.conv1.net.weight"]
    assert torch.equal(branch.layer3[1].conv1.weight, expected)


def test_a_network_of_another_family_is_refused(imported_tsm):
    weights_id, cache = imported_tsm
    reason = rf"weights {weights_id} \(ckpt\.best\.pth\.tar\) are of a tsm_r18 and do not fit"
    for other in ("tsm_r34", "tiny_tsm"):
        branch = network(other)
        before = {name: value.clone() for name, value in branch.state_dict().items()}
        with pytest.raises(InputError, match=reason):
            load_into_backbone(branch, weights_id, cache, in_channels=3)
        assert all(torch.equal(before[k], v) for k, v in branch.state_dict().items())


def assigned(backbone: str, build: str, state: dict[str, Tensor]) -> nn.Module:
    """The network with this state, which must be all of it."""
    with torch.device("meta"):
        branch = network(backbone, build)
    branch.load_state_dict(state, assign=True)
    return branch.eval()


def silent(names: Iterable[str], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Values with which the long-term modules of a TDN pass on what they get."""
    values = {name: torch.zeros(like[name].shape) for name in names}
    for name in values:
        if name.endswith("shift.conv.weight"):
            values[name][:, :, 1] = 1
    return values


def meta_state(backbone: str, build: str = "temporal", in_channels: int = 3) -> dict[str, Tensor]:
    """Names and shapes of the network."""
    with torch.device("meta"):
        return network(backbone, build, in_channels).state_dict()


def test_a_tdn_starts_from_resnet_as_the_original_does(resnet_50):
    target = meta_state("tdn_r50")
    state, fresh = for_network(resnet_50, target, 3)
    grey = resnet_50["conv1.weight"].mean(1, keepdim=True)
    torch.testing.assert_close(state["conv1_5.0.weight"], grey.expand(-1, 12, -1, -1))
    for name, value in resnet_50.items():
        if name.startswith("layer1."):
            assert torch.equal(state[f"resnext_{name}"], value)
    assert all(".mse." in k or ".shift." in k or k.startswith("conv1_5.1.") for k in fresh)
    assert (set(state) | set(fresh), set(state) & set(fresh)) == (set(target), set())


def test_a_tdn_without_its_modules_computes_what_its_resnet_does(resnet_50):
    target = meta_state("tdn_r50", "i_temporal")
    state, fresh = for_network(resnet_50, target, 3)
    plain = assigned("tsm_r50", "image", resnet_50)
    long_term = assigned("tdn_r50", "i_temporal", state | silent(fresh, target))
    frames = torch.randn(1, 2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = plain(frames)
        assert expected.std() > 0.01
        torch.testing.assert_close(long_term(frames), expected, rtol=1e-3, atol=1e-4)


def test_a_tdn_gives_its_weights_to_networks_without_its_modules(tdn_state):
    """Biases of its convolutions end in the normalisation of a ResNet, which has none."""
    of_plain, nothing = for_network(tdn_state, meta_state("tdn_r50", "image"), 3)
    state, nothing_either = for_network(tdn_state, meta_state("tdn_r50", "i_temporal"), 3)
    assert nothing == nothing_either == ()
    gates = [name for name in state if re.search(r"mse\.bn3\.(weight|bias)$|shift", name)]
    assert len(gates) == 3 * 13
    plain = assigned("tdn_r50", "image", of_plain)
    long_term = assigned("tdn_r50", "i_temporal", state | silent(gates, state))
    frames = torch.randn(1, 2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = long_term(frames)
        assert expected.std() > 0.01
        torch.testing.assert_close(plain(frames), expected, rtol=1e-3, atol=1e-4)


def test_differences_of_motion_keep_their_order_in_time(tdn_state):
    target = meta_state("tdn_r50", in_channels=2)
    state, fresh = for_network(tdn_state, target, 2)
    assert fresh == ()
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in target.items()}
    adapted, source = state["conv1_5.0.weight"], tdn_state["conv1_5.0.weight"]
    assert adapted.shape == (64, 8, 7, 7)
    for difference in range(4):
        mean = source[:, 3 * difference : 3 * difference + 3].mean(1)
        for channel in (0, 1):
            torch.testing.assert_close(adapted[:, 2 * difference + channel], mean)


def test_an_id_that_is_not_there_names_what_is(imported_tsm, tmp_path):
    weights_id, cache = imported_tsm
    typo = weights_id[:-1] + ("0" if weights_id[-1] != "0" else "1")
    with pytest.raises(InputError, match=rf"{typo}.*did you mean '{weights_id}'.*teacher import"):
        find_weights(typo, cache)
    with pytest.raises(InputError, match=rf"is the name of {weights_id}"):
        find_weights("ckpt.best.pth.tar", cache)
    with pytest.raises(InputError, match="nothing has been imported yet"):
        find_weights(weights_id, tmp_path)


def test_weights_that_changed_on_the_disk_are_refused(tmp_path):
    teacher = Teacher(network("tiny_tsm"), 32, 6, 0.0)
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    weights = import_file(tmp_path / "teacher.safetensors", tmp_path).weights
    whole = weights.path.read_bytes()
    weights.path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match="is damaged or not made by `cmkd teacher import`"):
        load_into_teacher(teacher, weights.id, tmp_path)
    weights.path.write_bytes(whole[:50])
    with pytest.raises(InputError, match="delete it and import again"):
        list_weights(tmp_path)
