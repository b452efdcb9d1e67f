import numpy as np
import pytest

from cmkd.config.data import EncodingConfig
from cmkd.data.motion import (
    BlockMotion,
    MotionTrace,
    accumulate,
    block_motion,
    propagate_intra,
    residual,
)
from cmkd.data.mpeg4 import VECTORS, Planes, open_mpeg4
from cmkd.data.video import encode


def read_frames(path):
    with open_mpeg4(path) as video:
        return list(video.frames(range(len(video.kinds)), range(1, len(video.kinds))))


def motion_field(vectors, height, width):
    motion = block_motion(vectors, height, width)
    return motion.field(height, width), ~motion.intra(height, width)


def warp(luma, chroma, displacement):
    """Pixels of an I-frame from which a picture comes that is marked everywhere, and black."""
    intra = Planes(*(np.array(plane, np.uint8) for plane in (luma, chroma, chroma)))
    black = Planes(*(np.zeros_like(plane) for plane in intra))
    nothing = BlockMotion(np.zeros((0, 0, 2), np.int16), np.zeros((0, 0), bool))
    trace = MotionTrace(nothing, displacement, np.ones(intra.u.shape, bool))
    y, u, v = residual(black, black, intra, trace)
    assert np.array_equal(u, v)
    return -y, -u


def vectors(*blocks):
    """Blocks given as (size, centre x, centre y, motion x, motion y)."""
    array = np.zeros(len(blocks), VECTORS)
    for row, (size, x, y, dx, dy) in zip(array, blocks, strict=True):
        row["w"] = row["h"] = size
        row["dst_x"], row["dst_y"] = x, y
        row["motion_x"], row["motion_y"] = dx, dy
        row["motion_scale"] = 2
    return array


def test_blocks_of_both_sizes_cover_their_own_pixels_only():
    field, covered = motion_field(vectors((16, 24, 8, -5, 3), (8, 4, 20, 7, -1)), 32, 32)
    assert field.dtype == np.int16 and field.shape == (32, 32, 2)
    expected = np.zeros((32, 32), bool)
    expected[0:16, 16:32] = expected[16:24, 0:8] = True
    assert (covered == expected).all()
    assert (field[0:16, 16:32] == (-5, 3)).all()
    assert (field[16:24, 0:8] == (7, -1)).all()
    assert not field[~expected].any()


def test_macroblocks_that_stick_out_are_cropped():
    field, covered = motion_field(vectors((16, 24, 24, 2, 4)), 20, 28)
    assert field.shape == (20, 28, 2)
    assert covered.sum() == 4 * 12 and covered[16:, 16:].all()


def test_no_vectors_at_all_is_all_intra():
    field, covered = motion_field(np.empty(0, VECTORS), 16, 16)
    assert not covered.any() and not field.any()


def test_marked_cells_come_from_where_the_displacement_points_and_from_the_edge_beyond_it():
    luma, chroma = np.arange(16).reshape(4, 4), np.array([[20, 30], [40, 50]])
    displacement = np.zeros((4, 4, 2), np.int16)
    displacement[..., 0] = -2
    y, u = warp(luma, chroma, displacement)
    assert (y == [[0, 0, 1, 2], [4, 4, 5, 6], [8, 8, 9, 10], [12, 12, 13, 14]]).all()
    assert (u == chroma).all(), "half a pixel of chroma, which goes towards zero"
    displacement[...] = (0, 6)
    y, u = warp(luma, chroma, displacement)
    assert (y == [[12, 13, 14, 15]] * 4).all() and (u == [[40, 50]] * 2).all()


def test_nearest_pixel_is_taken_and_halves_go_towards_zero():
    ramp = np.broadcast_to(np.arange(24), (18, 24))
    displacement = np.zeros((18, 24, 2), np.int16)
    displacement[..., 0] = np.arange(-4, 5).repeat(2)[:, None]
    y, u = warp(ramp, ramp[:9, :12], displacement)
    assert (y[::2, 10] - 10).tolist() == [-2, -1, -1, 0, 0, 0, 1, 1, 2]
    assert (u[:, 5] - 5).tolist() == [-1, -1, 0, 0, 0, 0, 0, 1, 1]


def test_accumulated_motion_by_hand():
    previous = np.zeros((8, 32, 2), np.int16)
    previous[0, 10] = (10, -4)
    motion = BlockMotion(
        np.array([[(0, 0), (4, 0), (-11, 0), (0, 0)]], np.int16),
        np.array([[True, True, True, False]]),
    )
    total = accumulate(motion, previous)
    assert total[0, 8].tolist() == [14, -4]
    # 5.5 pixels to the left is read at 5, and still counts as 11 half-pels.
    assert total[0, 16].tolist() == [-11, 0] and total[0, 15].tolist() == [4, 0]
    assert total[0, 10].tolist() == [4, 0]
    previous[0, 11] = (1, 1)
    assert accumulate(motion, previous)[0, 16].tolist() == [-10, 1]
    assert not total[:, 24:].any() and not total[1:, :8].any()


def test_beyond_an_edge_the_pixel_at_the_edge_is_read():
    previous = np.zeros((20, 12, 2), np.int16)
    previous[..., 0] = np.arange(12)
    previous[..., 1] = np.arange(20)[:, None]
    for x, y in [(-30, 0), (30, 0), (0, -60), (0, 60), (-5, 9), (90, -90)]:
        motion = BlockMotion(np.full((3, 2, 2), (x, y), np.int16), np.ones((3, 2), bool))
        total = accumulate(motion, previous) - np.array([x, y])
        across, down = int(x / 2), int(y / 2)
        assert (total[..., 0] == np.clip(np.arange(12) + across, 0, 11)).all(), (x, y)
        assert (total[..., 1] == np.clip(np.arange(20) + down, 0, 19)[:, None]).all(), (x, y)


def test_intra_blocks_restart_at_zero():
    previous = np.full((16, 32, 2), 8, np.int16)
    total = accumulate(block_motion(vectors((16, 8, 8, 2, 0)), 16, 32), previous)
    assert (total[:, :16] == (10, 8)).all() and not total[:, 16:].any()


def test_a_mirrored_video_gives_a_mirrored_map():
    rng = np.random.default_rng(0)
    steps = rng.integers(-9, 10, (2, 2, 2)).astype(np.int16)
    previous = rng.integers(-9, 10, (16, 16, 2)).astype(np.int16)
    covered = np.ones((2, 2), bool)

    def mirrored(one):
        return one[:, ::-1] * np.array([-1, 1], np.int16)

    total = accumulate(BlockMotion(steps, covered), previous)
    again = accumulate(BlockMotion(mirrored(steps), covered), mirrored(previous))
    assert (again == mirrored(total)).all()


def test_taint_starts_in_intra_blocks_and_travels_along_the_vectors():
    first = propagate_intra(
        block_motion(vectors((16, 8, 8, 0, 0)), 16, 32), np.zeros((8, 16), bool)
    )
    assert not first[:, :8].any() and first[:, 8:].all()
    for motion, column in [(0, 8), (8, 6), (2, 7), (1, 7), (-4, 8)]:
        blocks = vectors((16, 8, 8, motion, 0), (16, 24, 8, motion, 0))
        reached = propagate_intra(block_motion(blocks, 16, 32), first)
        assert reached[0, :8].tolist() == [index >= column for index in range(8)], motion


@pytest.fixture(scope="module")
def pan(tmp_path_factory):
    """A texture that moves by (+3, -2) pixels a frame, without noise."""
    rng = np.random.default_rng(5)
    world = np.kron(rng.integers(40, 216, (48, 48, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    frames = [world[40 + 2 * t : 104 + 2 * t, 60 - 3 * t : 124 - 3 * t] for t in range(12)]
    path = tmp_path_factory.mktemp("pan") / "pan.mp4"
    encode(frames, path, EncodingConfig(width=64, height=64, gop=12, qscale=2))
    return path


def test_real_motion_accumulates_to_the_distance_travelled(pan):
    total = np.zeros((64, 64, 2), np.int16)
    for step, frame in enumerate(read_frames(pan)[1:], start=1):
        total = accumulate(block_motion(frame.vectors, 64, 64), total)
        # New content enters at the left and at the bottom; the opposite corner is pure motion.
        if step <= 6:
            assert (total[:32, 32:] == (-6 * step, 4 * step)).all(), step


def test_the_decoders_own_half_pel_prediction_is_reproduced_exactly(tmp_path):
    """Sign, unit and block position at once: interpolating by the vectors gives W_t, error 0."""
    rng = np.random.default_rng(2)
    world = np.kron(rng.integers(40, 216, (60, 60, 3)), np.ones((3, 3, 1)))
    frames = [_at(world, 30 + 1.5 * t, 40 - 2.5 * t) for t in range(10)]
    path = tmp_path / "half.mp4"
    encode(frames, path, EncodingConfig(width=64, height=64, gop=10, qscale=3))
    frames = read_frames(path)
    odd = 0
    for index in range(1, 10):
        field, covered = motion_field(frames[index].vectors, 64, 64)
        odd += int((field % 2 != 0).any(axis=-1).sum())
        before = frames[index - 1]
        reference = (before.warped or before.picture).y.astype(int)
        predictions = [_half_pel(reference, field, control) for control in (0, 1)]
        assert covered.mean() > 0.9
        assert any((p == frames[index].warped.y)[covered].all() for p in predictions), index
    assert odd > 3000, "the clip must exercise half-pel vectors"


def _at(world, y, x):
    """A 64 x 64 window at a position in half-pixels, interpolated."""
    rows, columns = int(y), int(x)
    down, right = y - rows, x - columns
    patch = world[rows : rows + 65, columns : columns + 65]
    patch = patch[:64] * (1 - down) + patch[1:] * down
    return (patch[:, :64] * (1 - right) + patch[:, 1:] * right).astype(np.uint8)


def _half_pel(reference, field, rounding_control):
    """Bilinear interpolation of ISO/IEC 14496-2, 7.6.2, with unrestricted vectors."""
    padded = np.pad(reference, 64, mode="edge")
    y, x = np.mgrid[64:128, 64:128]
    y0, x0 = y + (field[..., 1] >> 1), x + (field[..., 0] >> 1)
    y1, x1 = y0 + (field[..., 1] & 1), x0 + (field[..., 0] & 1)
    total = padded[y0, x0] + padded[y0, x1] + padded[y1, x0] + padded[y1, x1]
    straight = padded[y0, x0]
    two = (straight + padded[y1, x1] + 1 - rounding_control) >> 1
    four = (total + 2 - rounding_control) >> 2
    halves = (field & 1).sum(axis=-1)
    return np.select([halves == 0, halves == 1], [straight, two], four)


def by_pixel(motion, previous):
    """What `accumulate` gives, one pixel at a time."""
    height, width = previous.shape[:2]
    found = np.zeros_like(previous)
    for y in range(height):
        for x in range(width):
            step = motion.steps[y // 8, x // 8].astype(int)
            if motion.covered[y // 8, x // 8]:
                # Whole pixels; a half goes towards zero.
                right, down = (int(abs(one)) // 2 * (1 if one > 0 else -1) for one in step)
                source = min(max(y + down, 0), height - 1), min(max(x + right, 0), width - 1)
                found[y, x] = step + previous[source]
    return found


@pytest.mark.parametrize("reach", [3, 40, 4000], ids=["near", "over the edges", "far outside"])
@pytest.mark.parametrize(("height", "width"), [(32, 48), (20, 28), (8, 4)])
def test_motion_accumulates_as_it_does_pixel_by_pixel(height, width, reach):
    draw = np.random.default_rng(reach + height)
    blocks = -(-height // 8), -(-width // 8)
    covered = draw.random(blocks) < 0.8
    steps = draw.integers(-reach, reach + 1, (*blocks, 2)).astype(np.int16)
    steps[~covered] = 0
    motion = BlockMotion(steps, covered)
    previous = draw.integers(-100, 100, (height, width, 2)).astype(np.int16)
    found = accumulate(motion, previous)
    assert found.dtype == np.int16 and np.array_equal(found, by_pixel(motion, previous))
