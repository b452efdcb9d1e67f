"""What a trial keeps of its gate and its graphs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmkd.config.method import MethodConfig
from cmkd.config.trial import TrialConfig
from cmkd.data.dataset import open_dataset
from cmkd.data.decoded_cache import open_arrays
from cmkd.method.temporal_graph import mean_square_edges
from cmkd.training.diagnostics import MOST_CLIPS, choose_clips, graphs_of, motion_lengths
from cmkd.training.student import StudentLearner
from cmkd.training.teacher import ensure_teacher
from cmkd.training.trial import TrialRun

MakeTrial = Callable[..., TrialConfig]


def inside_of(config: TrialConfig, cache: Path) -> dict[str, Any]:
    trial = TrialRun(config, cache, device="cpu")
    while not trial.finished:
        trial.train_epoch()
    (path,) = (file for file in trial.finish().files if file.name == "inside.json")
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return stored


def test_a_distilled_trial_shows_gate_and_both_graphs(
    own_cache: Path, make_trial: MakeTrial
) -> None:
    config = make_trial(epochs=1, gate="softmax")
    ensure_teacher(config, own_cache, device="cpu")
    stored = inside_of(config, own_cache)
    dataset = open_dataset(config.data, own_cache)
    arrays = open_arrays(dataset, config.setting.reading, own_cache)
    frames = config.setting.inputs.num_frames
    assert stored["schema"] == 1
    labels = [entry["label"] for entry in stored["clips"]]
    assert len(set(labels)) == len(labels) == min(MOST_CLIPS, len(dataset.info.classes))
    for entry in stored["clips"]:
        assert np.mean(entry["alpha"]) == pytest.approx(1.0, abs=1e-3)
        clip = next(i for i, one in enumerate(dataset.clips) if one.path == entry["clip"])
        vectors = arrays.motion[arrays.test_index[clip, 0]].astype(np.float64)
        lengths = np.sqrt((vectors**2).sum(1)).mean((1, 2))
        assert entry["motion"] == pytest.approx(lengths.tolist(), rel=1e-3, abs=1e-4)
        for side in ("student", "teacher"):
            assert set(entry[side]) == {"1", "2", "3"}
            for edges in map(np.array, entry[side].values()):
                assert edges.shape == (frames, frames)
                assert np.allclose(edges, edges.T, rtol=1e-3, atol=1e-6)
                assert edges.diagonal() == pytest.approx(np.zeros(frames), abs=1e-4)
        assert entry["student"] != entry["teacher"]


def test_without_distillation_there_is_no_teacher_and_without_decoder_no_file(
    own_cache: Path, make_trial: MakeTrial
) -> None:
    control = make_trial(epochs=1, lambda_1=0.0, lambda_2=0.0, gate="off")
    for entry in inside_of(control, own_cache)["clips"]:
        assert entry["teacher"] is None
        assert entry["alpha"] is None
    plain = make_trial(epochs=1, decoder=False, lambda_1=0.0, lambda_2=0.0)
    trial = TrialRun(plain, own_cache, device="cpu")
    trial.train_epoch()
    assert "inside.json" not in {file.name for file in trial.finish().files}


def test_looking_changes_neither_the_selected_nor_the_last_weights(
    own_cache: Path, make_trial: MakeTrial
) -> None:
    trial = TrialRun(make_trial(lambda_1=0.0, lambda_2=0.0), own_cache, device="cpu")
    trial.train_epoch()
    trial.train_epoch()
    learner = trial.learner
    assert isinstance(learner, StudentLearner)
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    learner.diagnose(trial.reader.arrays.test_index[list(trial.split.test), 0][:3])
    for name, value in learner.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_graphs_are_those_of_the_method() -> None:
    config = MethodConfig(tg=(1,))
    h = torch.randn(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    graphs = graphs_of(h, config)
    assert set(graphs) == {1, 2, 3}
    for graph, edges in graphs.items():
        assert torch.equal(edges, mean_square_edges(h.double(), graph, config))
        single = mean_square_edges(h, graph, config)
        assert torch.allclose(edges.float(), single, atol=1e-6 * float(single.max()))
        assert float(edges.diagonal(dim1=1, dim2=2).max()) < 1e-12


def test_lengths_of_vectors_over_several_frames_per_sample() -> None:
    motion = np.zeros((1, 2, 4, 2, 2), dtype=np.float16)
    motion[0, 0, 0], motion[0, 0, 1] = 3, 4
    motion[0, 1, 2] = 2
    assert motion_lengths(motion).tolist() == [[2.5, 1.0]]


def test_first_clip_of_each_class_is_chosen(own_cache: Path, make_trial: MakeTrial) -> None:
    dataset = open_dataset(make_trial().data, own_cache)
    test = dataset.split(0).test
    chosen = choose_clips(dataset, test)
    labels = [dataset.clips[clip].label for clip in chosen]
    assert len(set(labels)) == len(labels)
    for clip, label in zip(chosen, labels, strict=True):
        assert clip == next(one for one in test if dataset.clips[one].label == label)
