"""One geometry for all modalities: flips and aligned shifts are exact, vectors turn along."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmkd.config.data import DatasetInfo, EncodingConfig, SplitConfig, ViewsConfig
from cmkd.data.bitstream import encode
from cmkd.data.clips import CompressedClip, RawClip, read_clip
from cmkd.data.views import IDENTITY, View, apply_view, label_of, make_views

HEIGHT, WIDTH = 48, 80


@pytest.fixture
def clip() -> tuple[CompressedClip, RawClip]:
    rng = np.random.default_rng(0)
    compressed = CompressedClip(
        iframes=rng.integers(0, 256, (2, 3, HEIGHT, WIDTH), np.uint8),
        gop=np.array([0, 0, 1], np.int8),
        motion=rng.normal(0, 4, (3, 2, HEIGHT // 4, WIDTH // 4)).astype(np.float16),
        residual=rng.normal(0, 40, (3, 3, HEIGHT // 2, WIDTH // 2)).astype(np.float16),
    )
    return compressed, RawClip(rng.integers(0, 256, (3, 3, HEIGHT, WIDTH), np.uint8))


def shifted(x: int, y: int) -> View:
    return View(((1.0, 0.0, 2 * x / WIDTH), (0.0, 1.0, 2 * y / HEIGHT)))


def test_the_first_view_is_the_clip_itself(clip: tuple[CompressedClip, RawClip]) -> None:
    config = ViewsConfig(count=3, flip="both", shift=0.2, scale=0.1, rotation=5.0, phase=True)
    assert make_views(config, "a.mp4", HEIGHT, WIDTH)[0] == View(IDENTITY, 0.0, False, False)
    assert apply_view(*clip, View()) == clip


def test_views_follow_from_the_key() -> None:
    config = ViewsConfig(count=4, flip="both", shift=0.125, phase=True)
    views = make_views(config, "a.mp4", 64, 64)
    assert views == make_views(config, "a.mp4", 64, 64)
    assert views != make_views(config, "b.mp4", 64, 64)
    more = make_views(config.model_copy(update={"count": 6}), "a.mp4", 64, 64)
    assert more[:4] == views, "a further view changes none of the others"


def test_flips_take_turns() -> None:
    def flips(axis: str) -> list[tuple[bool, bool]]:
        config = ViewsConfig.model_validate({"count": 5, "flip": axis})
        return [(v.flipped_x, v.flipped_y) for v in make_views(config, "k", HEIGHT, WIDTH)]

    plain, x, y, both = (False, False), (True, False), (False, True), (True, True)
    assert flips("both") == [plain, x, y, both, plain]
    assert flips("horizontal") == [plain, x, plain, x, plain]
    assert flips("none") == [plain] * 5


def test_shifts_are_aligned_bounded_and_varied() -> None:
    config = ViewsConfig(count=100, shift=0.125)
    views = make_views(config, "k", 64, 64)[1:]
    pixels = {row[2] * 32 for view in views for row in view.matrix}
    assert pixels == {-8.0, -4.0, 0.0, 4.0, 8.0}


def test_phases_vary_only_when_asked_for() -> None:
    phases = {v.phase for v in make_views(ViewsConfig(count=9, phase=True), "k", 64, 64)[1:]}
    assert len(phases) == 8 and all(0 <= phase < 1 for phase in phases)
    assert {v.phase for v in make_views(ViewsConfig(count=9), "k", 64, 64)} == {0.0}


@pytest.mark.parametrize(("axis", "component"), [("x", 0), ("y", 1)])
def test_a_flip_mirrors_maps_and_negates_one_component(
    clip: tuple[CompressedClip, RawClip], axis: str, component: int
) -> None:
    before, raw = clip
    x, y = (-1.0, 1.0) if axis == "x" else (1.0, -1.0)
    view = View(((x, 0.0, 0.0), (0.0, y, 0.0)), 0.0, axis == "x", axis == "y")
    after, frames = apply_view(before, raw, view)

    side = -1 if axis == "x" else -2
    expected = np.flip(before.motion, side).copy()
    expected[:, component] *= -1
    np.testing.assert_array_equal(after.motion, expected)
    np.testing.assert_array_equal(after.iframes, np.flip(before.iframes, side))
    np.testing.assert_array_equal(after.residual, np.flip(before.residual, side))
    np.testing.assert_array_equal(frames.frames, np.flip(raw.frames, side))
    np.testing.assert_array_equal(after.gop, before.gop)


@pytest.mark.parametrize(("x", "y"), [(4, 0), (-8, 4), (12, -16)])
def test_an_aligned_shift_moves_whole_cells(
    clip: tuple[CompressedClip, RawClip], x: int, y: int
) -> None:
    before, raw = clip
    after, frames = apply_view(before, raw, shifted(x, y))

    for old, new, cell in [
        (before.iframes, after.iframes, 1),
        (raw.frames, frames.frames, 1),
        (before.residual, after.residual, 2),
        (before.motion, after.motion, 4),
    ]:
        rolled = np.roll(old, (-y // cell, -x // cell), (-2, -1))
        inside = slice(16 // cell, -16 // cell)
        np.testing.assert_array_equal(new[..., inside, inside], rolled[..., inside, inside])


def test_outside_is_edge_for_pictures_and_zero_for_changes(
    clip: tuple[CompressedClip, RawClip],
) -> None:
    before, raw = clip
    after, frames = apply_view(before, raw, shifted(-8, 0))

    edge = np.repeat(raw.frames[..., :1], 8, axis=-1)
    np.testing.assert_array_equal(frames.frames[..., :8], edge)
    assert not after.motion[..., :2].any() and not after.residual[..., :4].any()


def test_a_turn_is_rigid_and_zoom_scales_vectors() -> None:
    still = CompressedClip(
        iframes=np.zeros((1, 3, HEIGHT, WIDTH), np.uint8),
        gop=np.zeros(1, np.int8),
        motion=np.zeros((1, 2, HEIGHT // 4, WIDTH // 4), np.float16),
        residual=np.zeros((1, 3, HEIGHT // 2, WIDTH // 2), np.float16),
    )
    still.motion[:, 0] = 3.0
    raw = RawClip(np.zeros((1, 3, HEIGHT, WIDTH), np.uint8))
    middle = (0, slice(None), HEIGHT // 8, WIDTH // 8)

    turned = make_views(ViewsConfig(count=2, rotation=40.0), "k", HEIGHT, WIDTH)[1]
    vector = apply_view(still, raw, turned)[0].motion[middle]
    assert np.hypot(*vector) == pytest.approx(3.0, rel=2e-3)
    assert abs(vector[1]) > 0.1

    zoomed = make_views(ViewsConfig(count=2, scale=0.4), "k", HEIGHT, WIDTH)[1]
    vector = apply_view(still, raw, zoomed)[0].motion[middle]
    assert vector[0] == pytest.approx(3.0 / zoomed.matrix[0][0], rel=2e-3) and vector[1] == 0


def test_a_vector_points_to_where_its_content_went(clip: tuple[CompressedClip, RawClip]) -> None:
    """A dot at p and its source at p + d: after the view, the moved dot plus the moved d."""
    view = make_views(
        ViewsConfig(count=2, flip="horizontal", rotation=30.0, scale=0.2), "k", HEIGHT, WIDTH
    )[1]
    forward = np.linalg.inv(np.vstack([np.array(view.matrix), [0, 0, 1]]))
    size = np.array([WIDTH, HEIGHT]) / 2

    def moved(pixel: np.ndarray) -> np.ndarray:
        return np.asarray((forward @ [*(pixel / size), 1.0])[:2] * size)

    start, step = np.array([3.0, -2.0]), np.array([5.0, 1.0])
    field = np.zeros_like(clip[0].motion)
    field[:, 0], field[:, 1] = step
    compressed = CompressedClip(clip[0].iframes, clip[0].gop, field, clip[0].residual)
    vector = apply_view(compressed, clip[1], view)[0].motion[0, :, HEIGHT // 8, WIDTH // 8]
    np.testing.assert_allclose(vector, moved(start + step) - moved(start), atol=0.02)


@pytest.mark.parametrize(
    "config",
    [
        ViewsConfig(count=4, flip="both", shift=0.125),
        ViewsConfig(count=4, flip="horizontal", shift=0.1, scale=0.15, rotation=8.0),
    ],
)
def test_frames_stay_aligned_with_iframe_and_residual(tmp_path: Path, config: ViewsConfig) -> None:
    """Without motion a decoded frame is its I-frame plus the residual, in every view."""
    spots = np.random.default_rng(0).uniform(40, 150, (HEIGHT // 4, WIDTH // 4))
    scene = np.kron(spots, np.ones((4, 4)))
    down, across = np.mgrid[0:HEIGHT, 0:WIDTH]
    light = 12 * np.exp(-((down - 20) ** 2 + (across - 30) ** 2) / 200)
    frames = [
        np.repeat((scene + min(t, 6) * light)[..., None], 3, axis=-1).round().astype(np.uint8)
        for t in range(16)
    ]
    path = tmp_path / "still.mp4"
    encode(frames, path, EncodingConfig(width=WIDTH, height=HEIGHT, gop=16, qscale=1))
    clip, raw = read_clip(path, 8)

    for view in make_views(config, "still", HEIGHT, WIDTH):
        seen, teacher = apply_view(clip, raw, view)
        gap = half(teacher.frames) - half(seen.iframes[seen.gop]) - seen.residual
        inside = gap[..., 8:-8, 12:-12]
        assert abs(inside).mean() < 0.5, view
        unmoved = half(raw.frames) - half(seen.iframes[seen.gop]) - seen.residual
        if view != View():
            assert abs(unmoved[..., 8:-8, 12:-12]).mean() > 10, "the test can tell"


def half(maps: np.ndarray) -> np.ndarray:
    n, c, h, w = maps.shape
    return np.asarray(maps.reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5)))


def test_labels_follow_the_mirror() -> None:
    info = DatasetInfo(
        name="x",
        kind="embedded",
        classes=("left", "right", "jump"),
        encoding=EncodingConfig(),
        views=ViewsConfig(),
        split=SplitConfig(),
        flip_labels={"horizontal": {"left": "right", "right": "left"}},
        digest="0",
    )
    mirrored = View(flipped_x=True)
    assert [label_of(info, label, mirrored) for label in range(3)] == [1, 0, 2]
    assert [label_of(info, label, View(flipped_y=True)) for label in range(3)] == [0, 1, 2]
    assert [label_of(info, label, View()) for label in range(3)] == [0, 1, 2]
