"""The embedded set: what a clip shows is what its class says, and bytes follow from the recipe."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cmkd.data import synthetic
from cmkd.data.dataset import ensure_synthetic, folder_of, read_folder
from cmkd.data.synthetic import (
    CLASSES,
    COLOURS,
    RECIPES,
    SceneConfig,
    SyntheticRecipe,
    render,
)

PLAIN = SceneConfig(
    late_share=0.0, texture=0.0, pan=0.0, jitter=0.0, noise=0.0, gain=0.0, flicker=0.0,
    colour_spread=0.0, background=(128.0, 128.0),
)  # fmt: skip
MINI = SyntheticRecipe(name="mini", train=12, val=12, test=12)


def actor_pixels(name: str, seed: int, scene: SceneConfig) -> np.ndarray:
    """Where the actor's exact colour is, (frames, y, x)."""
    colour = np.array(COLOURS[name.split("_")[0]])
    frames = render(scene, CLASSES.index(name), np.random.default_rng(seed))
    return np.asarray((frames == colour).all(axis=-1))


def centres(name: str, seed: int) -> np.ndarray:
    """The actor's centre (x, y) in every frame."""
    found = [np.nonzero(mask) for mask in actor_pixels(name, seed, PLAIN)]
    return np.array([(columns.mean(), rows.mean()) for rows, columns in found])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("colour", COLOURS)
def test_profiles_move_as_named(colour: str, seed: int) -> None:
    left, right = (centres(f"{colour}_{side}", seed) for side in ("left", "right"))
    assert 19 <= left[0, 0] - left[-1, 0] <= 33
    assert 19 <= right[-1, 0] - right[0, 0] <= 33
    assert np.ptp(left[:, 1]) < 0.5

    bounce = centres(f"{colour}_bounce", seed)
    away = np.linalg.norm(bounce - bounce[0], axis=1)
    assert away[-1] < 1 and 17 <= away.max() <= 33

    steps = np.linalg.norm(np.diff(centres(f"{colour}_dash", seed), axis=0), axis=1)
    assert 19 <= steps.sum() <= 33
    assert (steps > 0.5).sum() <= 5, "a dash rests before and after its burst"


def test_late_actors_are_absent_from_the_first_frame() -> None:
    late = PLAIN.model_copy(update={"late_share": 1.0})
    for seed in range(10):
        pixels = actor_pixels("green_right", seed, late)
        assert not pixels[0].any() and pixels[5:].any(axis=(1, 2)).all()


def test_seven_in_ten_actors_are_late() -> None:
    scene = PLAIN.model_copy(update={"late_share": SceneConfig().late_share})
    late = sum(not actor_pixels("blue_left", seed, scene)[0].any() for seed in range(200))
    assert 0.6 <= late / 200 <= 0.8


def test_the_distractor_has_another_colour_and_rests() -> None:
    frames = render(PLAIN, CLASSES.index("red_left"), np.random.default_rng(3))
    others = [np.array(COLOURS[name]) for name in ("green", "blue")]
    masks = [(frames == colour).all(axis=-1) for colour in others]
    assert sum(mask.any() for mask in masks) == 1
    resting = next(mask for mask in masks if mask.any())
    assert resting.any(axis=(1, 2)).all()


def test_equal_generators_draw_equal_clips() -> None:
    def draw(seed: int) -> np.ndarray:
        return render(SceneConfig(), 4, np.random.default_rng(seed))

    assert draw(1).shape == (16, 64, 64, 3) and draw(1).dtype == np.uint8
    assert (draw(1) == draw(1)).all() and (draw(1) != draw(2)).any()


def test_recipes_are_balanced_and_distinct() -> None:
    assert RECIPES["synthetic"].sizes == {"train": 600, "val": 400, "test": 1000}
    assert all(size % 12 == 0 for size in RECIPES["synthetic-smoke"].sizes.values())
    assert len({recipe.id for recipe in RECIPES.values()}) == len(RECIPES)
    louder = SceneConfig(noise=5.0)
    assert MINI.id != MINI.model_copy(update={"scene": louder}).id


def test_bytes_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    alone = read_folder(ensure_synthetic(MINI, tmp_path / "a", workers=1))
    together = read_folder(
        ensure_synthetic(
            MINI, tmp_path / "b", workers=2, on_progress=lambda *at: progress.append(at)
        )
    )

    assert alone.info == together.info and alone.clips == together.clips
    assert progress[-1] == (36, 36)
    assert len({clip.sha256 for clip in alone.clips}) == 36, "no clip recurs in another part"
    assert Counter(clip.split for clip in alone.clips) == {"train": 12, "val": 12, "test": 12}
    assert set(Counter(clip.label for clip in alone.clips).values()) == {3}


def test_mirrored_classes_change_places() -> None:
    swap = MINI.info.flip_labels
    assert swap["horizontal"]["red_left"] == "red_right"
    assert swap["horizontal"]["blue_right"] == "blue_left"
    assert "vertical" not in swap and len(swap["horizontal"]) == 6


def test_what_a_killed_run_left_is_no_data_set(tmp_path: Path) -> None:
    folder = folder_of(MINI, tmp_path)
    leftover = folder.with_name(f".{folder.name}.tmp") / "red_left"
    leftover.mkdir(parents=True)
    (leftover / "train_0000.mp4").write_bytes(b"half")

    dataset = read_folder(ensure_synthetic(MINI, tmp_path, workers=1))

    assert len(dataset.clips) == 36 and not leftover.exists()


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(synthetic, "encode", full_disk)
    with pytest.raises(OSError, match="No space left"):
        ensure_synthetic(MINI, tmp_path, workers=1)
    assert [path.name for path in (tmp_path / "data").iterdir() if path.is_dir()] == []
