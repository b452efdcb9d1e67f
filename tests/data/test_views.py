"""One geometry for all modalities: flips and aligned shifts are exact, vectors turn along."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmkd.config.data import (
    DatasetInfo,
    EncodingConfig,
    InputConfig,
    ReaderConfig,
    SplitConfig,
    ViewsConfig,
)
from cmkd.data.clip import CompressedClip, RawClip, read_clip
from cmkd.data.video import encode
from cmkd.data.views import (
    IDENTITY,
    View,
    apply_view,
    label_of,
    make_views,
    plain_view,
    views_at_test,
)
from cmkd.errors import DataError

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
        ViewsConfig(count=6, flip="horizontal", crop=32),
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
    clip, raw = read_clip(path, ReaderConfig())

    views = make_views(config, "still", HEIGHT, WIDTH)
    edge = (..., slice(4, -4), slice(4, -4)) if config.crop else (..., slice(8, -8), slice(12, -12))
    for view, other in zip(views, (*views[1:], views[0]), strict=True):
        seen, teacher = apply_view(clip, raw, view)
        gap = half(teacher.frames) - half(seen.iframes[seen.gop]) - seen.residual
        assert abs(gap[edge]).mean() < 0.5, view
        _, misplaced = apply_view(clip, raw, other)
        gap = half(misplaced.frames) - half(seen.iframes[seen.gop]) - seen.residual
        assert abs(gap[edge]).mean() > 10, "the test can tell"


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


CROPPED = ViewsConfig(count=4, flip="horizontal", crop=32)
CROPPED_READING = ReaderConfig(
    inputs=InputConfig(num_frames=4), raw_segment=5, compressed_segment=5
)


@pytest.fixture(scope="module")
def panning(tmp_path_factory: pytest.TempPathFactory) -> tuple[CompressedClip, RawClip]:
    """A clip of 80 x 48 pixels whose content goes by (-4, +2) a frame, read in segments of five."""
    spots = np.random.default_rng(0).integers(40, 216, (30, 45, 3))
    world = np.kron(spots, np.ones((4, 4, 1))).astype(np.uint8)
    frames = [world[40 - 2 * t :, 4 * t :][:HEIGHT, :WIDTH] for t in range(16)]
    path = tmp_path_factory.mktemp("panning") / "panning.mp4"
    encode(frames, path, EncodingConfig(width=WIDTH, height=HEIGHT, gop=16, qscale=2))
    return read_clip(path, CROPPED_READING)


def assert_slice(clip: CompressedClip, raw: RawClip, view: View, left: int, top: int) -> None:
    """The view is the square of 32 pixels at (left, top), in all modalities, to the bit."""
    seen, teacher = apply_view(clip, raw, view)
    for whole, cut, cell in [
        (clip.iframes, seen.iframes, 1),
        (raw.frames, teacher.frames, 1),
        (clip.residual, seen.residual, 2),
        (clip.motion, seen.motion, 4),
    ]:
        rows, columns = (slice(at // cell, (at + 32) // cell) for at in (top, left))
        np.testing.assert_array_equal(cut, whole[..., rows, columns])
        assert cut.dtype == whole.dtype


def test_view_0_of_a_crop_is_the_centre_to_the_bit(
    panning: tuple[CompressedClip, RawClip],
) -> None:
    view = make_views(CROPPED, "k", HEIGHT, WIDTH)[0]
    assert view == plain_view(CROPPED, HEIGHT, WIDTH)
    assert_slice(*panning, view, (WIDTH - 32) // 2, (HEIGHT - 32) // 2)


def test_three_crops_lie_along_the_longer_side(panning: tuple[CompressedClip, RawClip]) -> None:
    three = InputConfig(test_crops=3)
    for view, left in zip(
        views_at_test(CROPPED, three, HEIGHT, WIDTH), (0, 24, WIDTH - 32), strict=True
    ):
        assert_slice(*panning, view, left, 8)
    clip, raw = panning
    upright = CompressedClip(
        *(m.swapaxes(-1, -2) if m.ndim == 4 else m for m in vars(clip).values())
    )
    tall = RawClip(raw.frames.swapaxes(-1, -2))
    for view, top in zip(
        views_at_test(CROPPED, three, WIDTH, HEIGHT), (0, 24, WIDTH - 32), strict=True
    ):
        assert_slice(upright, tall, view, 8, top)


def test_views_at_test_are_all_pairs_of_phase_and_crop() -> None:
    views = views_at_test(CROPPED, InputConfig(test_clips=4, test_crops=3), HEIGHT, WIDTH)
    assert [view.phase for view in views] == [p for p in (0.0, 0.25, 0.5, 0.75) for _ in range(3)]
    assert len({view.matrix for view in views}) == 3 and len(set(views)) == 12
    assert views[1] == plain_view(CROPPED, HEIGHT, WIDTH)
    assert not any(view.flipped_x for view in views)
    assert views_at_test(ViewsConfig(), InputConfig(), HEIGHT, WIDTH) == (View(),)


@pytest.mark.parametrize(("crop", "sides"), [(None, (80, 48)), (48, (48, 48))])
def test_three_crops_need_room(crop: int | None, sides: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"test_crops: 3 .* whole pictures of {}x{}".format(*sides)):
        views_at_test(ViewsConfig(crop=crop), InputConfig(test_crops=3), sides[1], sides[0])


def test_training_crops_are_those_of_tsm() -> None:
    """Sides and places as `GroupMultiScaleCrop` lists them for 320 x 256 pixels and 224."""
    config = ViewsConfig(count=100, crop=224, phase=True)
    found = set()
    for key in "abcdefgh":
        for view in make_views(config, key, 256, 320)[1:]:
            (across, _, x), (_, down, y) = view.matrix
            width, height = across * 320, down * 256
            left, top = ((x + 1) * 320 - width) / 2, ((y + 1) * 256 - height) / 2
            found.add(tuple(round(value, 6) for value in (width, height, left, top)))
    sides = [256, 224, 192, 168]
    quarters = [
        (0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0),
        (1, 1), (3, 1), (1, 3), (3, 3),
    ]  # fmt: skip
    assert found == {
        (width, height, x * ((320 - width) // 4), y * ((256 - height) // 4))
        for i, width in enumerate(sides)
        for j, height in enumerate(sides)
        if abs(i - j) <= 1
        for x, y in quarters
    }


def test_a_resized_crop_scales_vectors_and_a_flip_negates_their_x(
    panning: tuple[CompressedClip, RawClip],
) -> None:
    clip, raw = panning
    plain = make_views(CROPPED.model_copy(update={"flip": "none", "count": 12}), "k", HEIGHT, WIDTH)
    mirrored = make_views(CROPPED.model_copy(update={"count": 12}), "k", HEIGHT, WIDTH)
    across = [view.matrix[0][0] * WIDTH for view in plain]
    number = next(n for n in range(1, 12, 2) if across[n] > 40)
    seen, teacher = apply_view(clip, raw, plain[number])
    flipped, frames = apply_view(clip, raw, mirrored[number])

    # Content goes left by 4 pixels a frame, so its source lies to the right.
    assert np.median(seen.motion[0, 4]) / np.median(clip.motion[0, 4]) == pytest.approx(
        32 / across[number], rel=2e-3
    )
    sign = np.array([-1, 1] * 5).reshape(10, 1, 1)
    np.testing.assert_allclose(flipped.motion, sign * seen.motion[..., ::-1], atol=0.02)
    np.testing.assert_allclose(flipped.residual, seen.residual[..., ::-1], atol=0.2)
    assert np.median(flipped.motion[0, 4]) < -4
    for one, other in ((flipped.iframes, seen.iframes), (frames.frames, teacher.frames)):
        assert abs(one.astype(int) - other[..., ::-1]).max() <= 1


def test_a_crop_has_its_own_rule_of_place_and_lies_in_the_picture() -> None:
    with pytest.raises(ValueError, match="crop: 32 .* leave out shift, rotation"):
        ViewsConfig(count=2, crop=32, shift=0.1, rotation=3.0)
    with pytest.raises(ValueError, match="views.crop: 96 is more than a side of 320x80"):
        DatasetInfo(
            name="x",
            kind="folder",
            classes=("a", "b"),
            encoding=EncodingConfig(height=80),
            views=ViewsConfig(crop=96),
            split=SplitConfig(),
            digest="0",
        )
