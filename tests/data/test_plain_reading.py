"""`read_clip` against a reader that decodes everything twice and follows every pixel by itself."""

import itertools
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
import pytest

from cmkd.config.data import EncodingConfig, InputConfig, ReaderConfig
from cmkd.data.clip import read_clip
from cmkd.data.sampling import clip_windows, gop_windows, intra_of, sample_clip
from cmkd.data.video import encode


class Picture(NamedTuple):
    kind: str
    planes: list
    vectors: np.ndarray


def decode(path, **options):
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        codec.thread_count, codec.options = 1, options
        return [picture(frame) for frame in container.decode(video=0)]


def picture(frame):
    planes = [
        np.asarray(memoryview(one), np.uint8).reshape(-1, one.line_size)[: one.height, : one.width]
        for one in frame.planes
    ]
    side = frame.side_data.get("MOTION_VECTORS")
    vectors = side.to_ndarray().copy() if side is not None else ()
    kind = {1: "I", 2: "P"}[int(frame.pict_type)]
    return Picture(kind, [plane.copy() for plane in planes], vectors)


def fetched(plane, displacement, steps_per_pixel):
    """Every pixel from the whole pixel its displacement points to; halves go towards zero."""
    size = np.abs(displacement.astype(int))
    whole = np.sign(displacement) * ((size + max(steps_per_pixel // 2 - 1, 0)) // steps_per_pixel)
    rows, columns = np.indices(plane.shape[:2])
    rows = np.clip(rows + whole[..., 1], 0, plane.shape[0] - 1)
    return plane[rows, np.clip(columns + whole[..., 0], 0, plane.shape[1] - 1)]


def follow(vectors, before):
    """Step to the frame before, displacement to the I-frame, tainted cells."""
    displacement, tainted = before
    height, width = tainted.shape[0] * 2, tainted.shape[1] * 2
    step, covered = np.zeros((height, width, 2), np.int16), np.zeros((height, width), bool)
    for one in sorted(vectors, key=lambda vector: -int(vector["w"])):
        half = int(one["w"]) // 2
        block = np.s_[
            one["dst_y"] - half : one["dst_y"] + half, one["dst_x"] - half : one["dst_x"] + half
        ]
        step[block], covered[block] = (one["motion_x"], one["motion_y"]), True
    total = step + fetched(displacement, step, 2)
    total[~covered] = 0
    reached = ~covered[::2, ::2]
    cells = step[::2, ::2].astype(int)
    for x, y in itertools.product((0, 3), repeat=2):  # both neighbours of a step of part of a cell
        whole = np.stack([(cells[..., 0] + x) // 4, (cells[..., 1] + y) // 4], -1)
        reached = reached | fetched(tainted, whole, 1)
    return step, total, reached


def cells_of(maps, side):
    """Sums over cells of `side` x `side`."""
    height, width = maps.shape[0] // side, maps.shape[1] // side
    return maps.astype(np.int32).reshape(height, side, width, side, -1).sum(axis=(1, 3))


Y, RV, GU, GV, BU = (round(65536 * c) for c in (1.164383, 1.596027, 0.391762, 0.812968, 2.017232))


def in_rgb(y, u, v):
    luma = (y.astype(int) - 16) * Y + 32768
    blue, red = (c.astype(int).repeat(2, axis=0).repeat(2, axis=1) - 128 for c in (u, v))
    rgb = np.stack([luma + RV * red, luma - GU * blue - GV * red, luma + BU * blue])
    return (rgb >> 16).clip(0, 255).astype(np.uint8)


def difference_in_rgb(y, u, v):
    """In single precision, rounded after every step."""
    yy, rv, gu, gv, bu = (np.float32(c / 65536) for c in (Y, RV, -GU, GV, BU))
    luma = y * yy
    return np.stack([luma + rv * v, luma + (gu * u - gv * v), luma + bu * u])


def read_plainly(path, reading, phase):
    full, bare = decode(path, flags2="+export_mvs"), decode(path, skip_idct="nokey")
    kinds = [one.kind for one in full]
    inputs = reading.inputs
    sample = sample_clip(kinds, inputs.num_frames, inputs.num_gops, phase)
    height, width = full[0].planes[0].shape
    start = np.zeros((height, width, 2), np.int16), np.zeros((height // 2, width // 2), bool)
    motion, residual, latest = {}, {}, start
    for index, (one, warped) in enumerate(zip(full, bare, strict=True)):
        if one.kind == "I":
            intra, latest = one.planes, start
            continue
        step, total, tainted = follow(one.vectors, latest)
        latest = total, tainted
        field = total if inputs.motion == "accumulated" else step
        motion[index] = (cells_of(field, 4) / 32).transpose(2, 0, 1).astype(np.float16)
        masks = (tainted.repeat(2, axis=0).repeat(2, axis=1), tainted, tainted)
        moved = [
            fetched(plane, total[::side, ::side], 2 * side)
            for plane, side in zip(intra, (1, 2, 2), strict=True)
        ]
        y, u, v = (
            plane.astype(np.int16) - np.where(mask, ours, native)
            for plane, mask, ours, native in zip(
                one.planes, masks, moved, warped.planes, strict=True
            )
        )
        luma = (cells_of(y, 2)[..., 0] / 4).astype(np.float32)
        residual[index] = difference_in_rgb(luma, np.float32(u), np.float32(v)).astype(np.float16)

    def rgb(index):
        return in_rgb(*full[index].planes)

    changed = gop_windows(kinds, sample.positions, reading.compressed_segment)
    shown = clip_windows(kinds, sample.positions, reading.raw_segment)
    opening = intra_of(kinds)
    assert [sample.intra[slot] for slot in sample.slot] == [opening[at] for at in sample.positions]
    return {
        "iframes": np.stack([rgb(at) for at in sample.intra]),
        "gop": np.array(sample.slot, np.int8),
        "motion": np.stack([np.concatenate([motion[at] for at in one]) for one in changed]),
        "residual": np.stack([np.concatenate([residual[at] for at in one]) for one in changed]),
        "frames": np.stack([np.concatenate([rgb(at) for at in one]) for one in shown]),
    }


def scene(count, height=80, width=112):
    """Texture under a fast shaking camera, cuts, and a disc: intra blocks, vectors off the edge."""
    rng = np.random.default_rng(3)
    world = np.kron(rng.integers(0, 256, (70, 80, 3)), np.ones((4, 4, 1)))
    y, x = np.mgrid[:height, :width]
    for t in range(count):
        at = (50 + 23 * np.sin(t / 2) + 30 * (t // 17), 60 + 29 * np.cos(t / 3))
        frame = world[int(at[0]) :, int(at[1]) :][:height, :width].copy()
        frame[(y - 5 * (t % 17)) ** 2 + (x - 60) ** 2 < 15**2] = (250, 20, 40)
        yield np.clip(frame + rng.normal(0, 3, frame.shape), 0, 255).astype(np.uint8)


def write_with_av(path, width, height, flags):
    """Sides that are no multiples of 16, four vectors a macroblock, a bit rate too low."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        codec = stream.codec_context
        codec.gop_size, codec.max_b_frames, codec.bit_rate, codec.options = 9, 0, 200_000, flags
        for index, rgb in enumerate(scene(30, height, width)):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    own = EncodingConfig(width=112, height=80, gop=12, qscale=4)
    encode(scene(40), folder / "own.mp4", own)
    encode(scene(40), folder / "one_gop.mp4", own.model_copy(update={"gop": 40, "qscale": 31}))
    write_with_av(folder / "four_vectors.mp4", 100, 76, {"flags": "+mv4"})
    write_with_av(folder / "other_container.avi", 60, 44, {})
    return folder


READINGS = {
    "spread": (ReaderConfig(inputs=InputConfig(num_frames=8)), 0.0),
    "per_frame": (
        ReaderConfig(inputs=InputConfig(num_frames=8, num_gops=2, motion="per_frame")),
        0.4,
    ),
    "segments": (
        ReaderConfig(
            inputs=InputConfig(num_frames=4, num_gops=4), raw_segment=5, compressed_segment=5
        ),
        0.0,
    ),
    "every": (ReaderConfig(inputs=InputConfig(num_frames=20)), 0.7),
}


@pytest.mark.parametrize("which", READINGS)
@pytest.mark.parametrize(
    "name", ["own.mp4", "one_gop.mp4", "four_vectors.mp4", "other_container.avi"]
)
def test_every_value_is_that_of_the_plain_reader(files, name, which):
    check(files / name, which)


@pytest.mark.slow
@pytest.mark.parametrize("which", READINGS)
def test_every_value_of_a_real_clip_is_that_of_the_plain_reader(shared_video, which):
    """A file of UCF-101: another encoder, and 320 x 240 pixels."""
    check(shared_video / "clips" / "v_SoccerJuggling_g23_c01.avi", which)


def check(path, which):
    reading, phase = READINGS[which]
    ours = vars(read_clip(path, reading, phase=phase))
    for key, wanted in read_plainly(path, reading, phase).items():
        assert ours[key].dtype == wanted.dtype
        assert np.array_equal(ours[key], wanted), key


def test_the_files_are_hard_enough(files):
    vectors = [one.vectors for one in decode(files / "one_gop.mp4", flags2="+export_mvs")[1:]]
    assert any(len(one) < 30 for one in vectors), "intra blocks"
    assert any((np.abs(one["src_y"] - 40) > 40).any() for one in vectors), "vectors off the edge"
    sizes = [
        one.vectors["w"]
        for one in decode(files / "four_vectors.mp4", flags2="+export_mvs")
        if one.kind == "P"
    ]
    assert any((one == 8).any() for one in sizes) and any((one == 16).any() for one in sizes)
