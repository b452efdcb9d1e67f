import gc
import itertools
from typing import NamedTuple

import av
import numpy as np
import pytest

from cmkd.config.data import EncodingConfig, InputConfig, ReaderConfig
from cmkd.data.clip import read_clip
from cmkd.data.motion import residual, step
from cmkd.data.mpeg4 import Mpeg4Reader, open_mpeg4
from cmkd.data.video import decode_rgb, encode
from cmkd.errors import DataError

SIZE = 64
ENCODING = EncodingConfig(width=SIZE, height=SIZE, gop=16, qscale=4)


def scene(count=16, *, appear=None, pan=(2.0, 1.0), seed=0):
    """A texture with noise under a panning camera; a red disc enters at frame `appear`."""
    rng = np.random.default_rng(seed)
    world = np.kron(rng.integers(70, 186, (40, 40, 3)), np.ones((4, 4, 1)))
    y, x = np.mgrid[:SIZE, :SIZE]
    for t in range(count):
        frame = window(world, pan[0] * t, pan[1] * t)
        if appear is not None and t >= appear:
            # Moves by half-pels as well: its intra blocks are carried on by vectors.
            frame[(y - 30) ** 2 + (x - 20 - 1.5 * (t - appear)) ** 2 < 17**2] = (250, 20, 40)
        yield np.clip(frame + rng.normal(0, 2, frame.shape), 0, 255).astype(np.uint8)


def window(world, x, y):
    """What a camera at (x, y) sees, interpolated between pixels."""
    column, row = int(x), int(y)
    patch = world[row : row + SIZE + 1, column : column + SIZE + 1]
    patch = patch[:-1] * (1 - y + row) + patch[1:] * (y - row)
    return patch[:, :-1] * (1 - x + column) + patch[:, 1:] * (x - column)


def write(path, frames, encoding=ENCODING):
    encode(frames, path, encoding)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write(tmp_path_factory.mktemp("plain") / "plain.mp4", scene())


@pytest.fixture(scope="module")
def appearing(tmp_path_factory):
    return write(tmp_path_factory.mktemp("appear") / "appear.mp4", scene(appear=5))


def reading(num_frames, *, raw=1, compressed=1, **inputs):
    inputs = InputConfig(num_frames=num_frames, **inputs)
    return ReaderConfig(inputs=inputs, raw_segment=raw, compressed_segment=compressed)


def read_frames(path):
    """All that can be read of every frame."""
    with open_mpeg4(path) as video:
        p_frames = [index for index, kind in enumerate(video.kinds) if kind == "P"]
        return list(video.frames(range(len(video.kinds)), p_frames))


def traces_of(frames):
    """The traces of the P-frames by their index."""
    height, width = frames[0].picture.y.shape
    found, latest = {}, None
    for frame in frames:
        latest = None if frame.kind == "I" else step(frame.vectors, height, width, latest)
        found |= {frame.index: latest} if latest else {}
    return found


def move(intra, displacement):
    """The I-frame's planes warped by whole pixels to where `displacement` says they went."""
    moved = []
    for plane, pitch in zip(intra, (1, 2, 2), strict=True):
        there = displacement[::pitch, ::pitch].astype(int)
        # Halves go towards zero.
        there = np.sign(there) * ((np.abs(there) + pitch - 1) // (2 * pitch))
        rows, columns = np.indices(plane.shape) + there.transpose(2, 0, 1)[::-1]
        rows, columns = rows.clip(0, len(plane) - 1), columns.clip(0, plane.shape[1] - 1)
        moved.append(np.asarray(plane)[rows, columns])
    return moved


class Found(NamedTuple):
    """Errors of one P-frame, as planes (Y, U, V)."""

    masks: tuple
    """Tainted samples."""
    rebuilt: list
    """I-frame + accumulated motion + residual."""
    native: list
    """The decoder's own warp + residual."""
    unmoved: list
    """I-frame + residual: what forgetting the motion would cost."""


def difference(one, other):
    return [np.abs(a.astype(int) - b) for a, b in zip(one, other, strict=True)]


def reconstruct(intra, displacement, difference):
    """A P-frame's planes out of I-frame, accumulated motion and residual, at full resolution.

    Exact in marked cells and where all motion is by whole pixels; elsewhere the error is that of
    moving by whole pixels instead of the decoder's chained half-pel interpolation.
    """
    moved = move(intra, displacement)
    return [np.clip(m + d, 0, 255).astype(np.uint8) for m, d in zip(moved, difference, strict=True)]


def errors(path):
    frames = read_frames(path)
    traces = traces_of(frames)
    found = []
    for frame in frames:
        if frame.kind == "I":
            intra = frame.picture
            continue
        at = traces[frame.index]
        added = residual(frame.picture, frame.warped, intra, at)
        native = [a.astype(int) + d for a, d in zip(frame.warped, added, strict=True)]
        found.append(
            Found(
                (up(at.intra_mask), at.intra_mask, at.intra_mask),
                difference(reconstruct(intra, at.displacement, added), frame.picture),
                difference(native, frame.picture),
                difference(reconstruct(intra, 0 * at.displacement, added), frame.picture),
            )
        )
    return found


def up(cells):
    return cells.repeat(2, axis=0).repeat(2, axis=1)


def check_bounds(found, *, mean, percentile):
    """I-frame + motion + residual = P-frame: the error bound.

    Exactly 0 with the decoder's own warp outside marked cells, exactly 0 inside them. Outside,
    with motion by whole pixels, the error is that of the rounded half-pels.
    """
    for one in found:
        for mask, rebuilt, native in zip(one.masks, one.rebuilt, one.native, strict=True):
            assert not rebuilt[mask].any()
            assert not native[~mask].any()
    luma = np.concatenate([one.rebuilt[0][~one.masks[0]] for one in found])
    unmoved = np.concatenate([one.unmoved[0][~one.masks[0]] for one in found])
    assert luma.mean() < mean and np.percentile(luma, 99) < percentile
    assert luma.mean() < 0.5 * unmoved.mean(), "motion must explain most of the picture"


def test_frames_are_free_as_soon_as_they_are_read(plain):
    read_clip(plain, reading(4), frames=False)
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        read_clip(plain, reading(4), frames=False)
        gc.collect()
        waited = [one for one in gc.garbage if type(one).__module__.startswith("av.")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert waited == [], "frames that wait for the collector fill the memory"


def test_reconstruction_of_half_pel_motion(tmp_path):
    path = write(tmp_path / "drift.mp4", scene(pan=(1.5, 0.5)))
    # Measured 6.7 and 27 grey levels, on a texture as hard as they come (16.2 without motion).
    check_bounds(errors(path), mean=8, percentile=32)


def test_reconstruction_with_intra_blocks(appearing):
    found = errors(appearing)
    share = np.mean([one.masks[0].mean() for one in found])
    assert 0.05 < share < 0.6, "the disc must enter through intra macroblocks"
    # Measured 0.27 and 9 (19.6 without motion).
    check_bounds(found, mean=0.5, percentile=15)


def test_reconstruction_of_a_real_clip(shared_video, tmp_path):
    """The first 16 packets of a 1280x720 file, bit by bit those of its own encoder."""
    path = tmp_path / "start.mp4"
    with (
        av.open(str(shared_video / "clips" / "vid_mpeg4_part2.mp4")) as source,
        av.open(str(path), "w") as target,
    ):
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in itertools.islice(source.demux(video=0), 16):
            packet.stream = copy
            target.mux(packet)
    found = errors(path)
    assert len(found) == 14
    # Measured 1.5 and 14 (5.9 without motion).
    check_bounds(found, mean=2, percentile=20)


def test_whole_pixel_motion_reconstructs_exactly(plain):
    """All vectors are even, so map and decoder do the same: luma is exact in every pixel."""
    vectors = [frame.vectors for frame in read_frames(plain)[1:]]
    assert not any((one["motion_x"] % 2 + one["motion_y"] % 2).any() for one in vectors)
    assert all(not one.rebuilt[0].any() for one in errors(plain))


def test_the_residual_is_not_blind_in_intra_blocks(appearing):
    """Without the patch the appearing disc would be 0 in the residual: it must be there, red."""
    frames = read_frames(appearing)
    intra = traces_of(frames)[5].motion.intra(SIZE, SIZE)
    assert intra.sum() >= 2 * 256
    same = frames[5].picture.y == frames[5].warped.y
    assert same[intra].all(), "stock decoding is blind there"
    clip = read_clip(appearing, reading(15))
    # All 15 P-frames: frame 5 is sample 4; of 8 segments it is sample 2.
    assert np.array_equal(clip.frames[4], read_clip(appearing, reading(8)).frames[2])
    seen = clip.residual[4].astype(np.float32)[:, intra[::2, ::2]]
    assert np.abs(seen).mean() > 20
    disc = clip.residual[4].astype(np.float32)[:, 13:17, 8:12].mean(axis=(1, 2))
    assert disc[0] > 60 and disc[1] < -60 and disc[2] < -60


def test_shapes_types_and_alignment(appearing):
    clip = read_clip(appearing, reading(8))
    assert clip.iframes.shape == (1, 3, SIZE, SIZE)
    assert clip.iframes.dtype == clip.frames.dtype == np.uint8
    assert clip.gop.dtype == np.int8 and clip.gop.tolist() == [0] * 8
    assert clip.motion.shape == (8, 2, SIZE // 4, SIZE // 4)
    assert clip.residual.shape == (8, 3, SIZE // 2, SIZE // 2)
    assert clip.motion.dtype == clip.residual.dtype == np.float16
    assert clip.frames.shape == (8, 3, SIZE, SIZE)
    decoded = [frame.transpose(2, 0, 1).astype(int) for frame in decode_rgb(appearing)]
    for frame, wanted in zip([clip.iframes[0], *clip.frames], [0, *range(1, 16, 2)], strict=True):
        # FFmpeg's own conversion interpolates chroma; ours does not.
        assert np.abs(frame - decoded[wanted]).mean() < 2


def test_maps_are_the_means_of_their_cells(appearing):
    frames = read_frames(appearing)
    clip = read_clip(appearing, reading(8))
    per_frame = read_clip(appearing, reading(8, motion="per_frame"))
    traces = traces_of(frames)
    for sample, index in [(3, 7), (5, 11)]:
        cells = traces[index].displacement.reshape(16, 4, 16, 4, 2).mean(axis=(1, 3)) / 2
        assert np.allclose(clip.motion[sample], cells.transpose(2, 0, 1), atol=1e-2)
        field = traces[index].motion.field(SIZE, SIZE)
        cells = field.reshape(16, 4, 16, 4, 2).mean(axis=(1, 3)) / 2
        assert np.array_equal(per_frame.motion[sample], cells.transpose(2, 0, 1))
        y, u, v = residual(
            frames[index].picture, frames[index].warped, frames[0].picture, traces[index]
        )
        luma = 1.164383 * y.reshape(32, 2, 32, 2).mean(axis=(1, 3))
        red = luma + 1.596027 * v
        blue = luma + 2.017232 * u
        assert np.allclose(clip.residual[sample, 0], red, atol=0.2)
        assert np.allclose(clip.residual[sample, 2], blue, atol=0.2)
    assert np.array_equal(per_frame.residual, clip.residual)
    assert not np.array_equal(per_frame.motion, clip.motion)


def test_motion_is_in_pixels_towards_the_i_frame(plain):
    """The camera goes by (+2, +1), content by (-2, -1): its source lies at (+2 t, +1 t)."""
    clip = read_clip(plain, reading(8))
    per_frame = read_clip(plain, reading(8, motion="per_frame"))
    for sample, steps in enumerate(range(1, 12, 2)):
        inner = clip.motion[sample, :, 2:8, 2:8].astype(np.float32)
        assert np.median(inner[0]) == pytest.approx(2 * steps, abs=0.5)
        assert np.median(inner[1]) == pytest.approx(steps, abs=0.5)
        assert np.median(per_frame.motion[sample, 0, 2:8, 2:8]) == 2


def test_phase_takes_earlier_frames(plain):
    late = read_clip(plain, reading(4))
    early = read_clip(plain, reading(4), phase=0.5)
    every = read_clip(plain, reading(15))
    assert np.array_equal(late.frames[1], every.frames[6])
    assert np.array_equal(early.frames[1], every.frames[4])


def test_extra_i_frames_count_by_their_type(tmp_path):
    """A GOP-12 file with an I-frame at 5: arithmetic would take 12 and 0 for I-frames."""
    path = tmp_path / "extra.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 12
        for index, rgb in enumerate(scene(24)):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.pict_type = index, 1 if index == 5 else 0
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert [frame.index for frame in read_frames(path) if frame.kind == "I"] == [0, 5, 17]
    clip = read_clip(path, reading(12))
    # Samples are 1, 3, ..., 23; 5 and 17 are I-frames and give way to 6 and 18.
    assert clip.gop.tolist() == [0] * 2 + [1] * 6 + [2] * 4
    assert clip.iframes.shape[0] == 3
    # Motion restarts: one frame after the I-frame it is that of one frame.
    per_frame = read_clip(path, reading(12, motion="per_frame"))
    for sample in (0, 2, 8):
        assert np.array_equal(clip.motion[sample], per_frame.motion[sample])
    assert not np.array_equal(clip.motion[4], per_frame.motion[4])
    decoded = [f.transpose(2, 0, 1).astype(int) for f in itertools.islice(decode_rgb(path), 24)]
    assert np.abs(clip.frames[2] - decoded[6]).mean() < 2
    assert np.abs(clip.iframes[2] - decoded[17]).mean() < 2


def test_still_video_has_neither_motion_nor_residual_at_fine_quality(tmp_path):
    frame = next(iter(scene(1)))
    path = write(tmp_path / "still.mp4", [frame] * 16)
    clip = read_clip(path, reading(8))
    assert not clip.motion.any()
    assert np.abs(clip.residual).mean() < 1
    assert np.abs(clip.frames.astype(int) - clip.iframes[0]).mean() < 2


def test_moving_the_i_frame_nowhere_gives_the_i_frame(plain):
    intra = read_frames(plain)[0].picture
    moved = move(intra, np.zeros((SIZE, SIZE, 2), np.int16))
    assert all(np.array_equal(a, b) for a, b in zip(moved, intra, strict=True))


def test_chroma_moves_by_half_of_what_luma_does():
    ramp = np.broadcast_to(np.arange(SIZE, dtype=np.uint8), (SIZE, SIZE))
    intra = (ramp, ramp[:32, :32], ramp[:32, :32].T)
    y, u, v = move(intra, np.full((SIZE, SIZE, 2), (8, -16), np.int16))
    assert (y[0, 8], u[16, 8], v[16, 8]) == (8 + 4, 8 + 2, 16 - 4)


@pytest.fixture(scope="module")
def gops(tmp_path_factory):
    """24 frames in four GOPs, and all that can be read of it: 20 P-frames."""
    path = tmp_path_factory.mktemp("gops") / "gops.mp4"
    write(path, scene(24, appear=8), EncodingConfig(width=SIZE, height=SIZE, gop=6, qscale=4))
    return path, read_clip(path, reading(20))


def rank(frame):
    """Which P-frame of `gops` it is."""
    assert frame % 6
    return frame - frame // 6 - 1


def test_gops_are_sampled_with_their_i_frames(gops):
    path, every = gops
    clip = read_clip(path, reading(4, num_gops=2))
    ranks = [rank(frame) for frame in (8, 11, 20, 23)]
    assert clip.gop.tolist() == [0, 0, 1, 1]
    assert np.array_equal(clip.iframes, every.iframes[[1, 3]])
    assert np.array_equal(clip.motion, every.motion[ranks])
    assert np.array_equal(clip.residual, every.residual[ranks])
    assert np.array_equal(clip.frames, every.frames[ranks])


def test_a_clip_with_too_few_gops_fills_every_slot(plain):
    clip = read_clip(plain, reading(8, num_gops=4))
    plainly = read_clip(plain, reading(8))
    assert plainly.iframes.shape[0] == 1 and clip.iframes.shape[0] == 4
    assert np.array_equal(clip.iframes, plainly.iframes[[0] * 4])
    assert clip.gop.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert np.array_equal(clip.frames, plainly.frames)


def test_segments_are_folded_frame_by_frame_around_the_sampled_one(gops):
    """Samples 5, 11, 17, 23 end their GOPs, so what follows is the next GOP's for the teacher."""
    path, every = gops
    clip = read_clip(path, reading(4, raw=5, compressed=5))
    alone = read_clip(path, reading(4))
    assert clip.motion.shape == (4, 10, 16, 16)
    assert clip.residual.shape == (4, 15, 32, 32)
    assert clip.frames.shape == (4, 15, SIZE, SIZE)
    assert np.array_equal(clip.motion[:, 4:6], alone.motion)
    assert np.array_equal(clip.iframes, alone.iframes)
    assert np.array_equal(clip.gop, alone.gop)
    pictures = {6 * number: picture for number, picture in enumerate(every.iframes)}
    pictures |= {at: every.frames[rank(at)] for at in range(24) if at % 6}
    for sample, frame in enumerate((5, 11, 17, 23)):
        ranks = [rank(at) for at in (frame - 2, frame - 1, frame, frame, frame)]
        assert np.array_equal(clip.motion[sample], np.concatenate(every.motion[ranks]))
        assert np.array_equal(clip.residual[sample], np.concatenate(every.residual[ranks]))
        shown = [pictures[min(at, 23)] for at in range(frame - 2, frame + 3)]
        assert np.array_equal(clip.frames[sample], np.concatenate(shown))


def test_only_what_is_used_is_decoded(gops, monkeypatch):
    """24 frames in GOPs of 6, of which the second is sampled at 8 and 10."""
    decoded, real = [], Mpeg4Reader.frames

    def noted(self, *wanted):
        for frame in real(self, *wanted):
            decoded.append((frame.index, frame.picture is not None, frame.warped is not None))
            yield frame

    monkeypatch.setattr(Mpeg4Reader, "frames", noted)
    read_clip(gops[0], reading(2, num_gops=1), phase=0.6)
    nothing, both = (False, False), (True, True)
    assert decoded == [(6, True, False), (7, *nothing), (8, *both), (9, *nothing), (10, *both)]
    decoded.clear()
    read_clip(gops[0], reading(2, num_gops=1, raw=5), phase=0.6, frames=False)
    assert [index for index, *_ in decoded] == [6, 7, 8, 9, 10]
    decoded.clear()
    read_clip(gops[0], reading(2, num_gops=1, raw=5), phase=0.6)
    assert [index for index, *_ in decoded] == [6, 7, 8, 9, 10, 11, 12]


def test_the_students_part_alone_is_the_same(gops):
    for one in (reading(8), reading(4, num_gops=2, raw=5, compressed=5)):
        clip = read_clip(gops[0], one)
        alone = read_clip(gops[0], one, frames=False)
        for name in ("iframes", "gop", "motion", "residual"):
            assert np.array_equal(getattr(alone, name), getattr(clip, name)), name


@pytest.mark.parametrize(
    ("frames", "encoding", "num_frames", "reason"),
    [
        (4, ENCODING, 8, "has 4 frames, 8 are to be sampled"),
        (2, ENCODING.model_copy(update={"gop": 1}), 2, "has no P-frame"),
    ],
)
def test_unusable_clips_are_named(tmp_path, frames, encoding, num_frames, reason):
    path = write(tmp_path / "clip.mp4", scene(frames), encoding)
    with pytest.raises(DataError, match=f"clip.mp4: {reason}"):
        read_clip(path, reading(num_frames))


def test_odd_sizes_are_named(tmp_path):
    path = tmp_path / "odd.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 54, 50, "yuv420p"
        stream.codec_context.max_b_frames = 0
        for rgb in scene(4):
            frame = av.VideoFrame.from_ndarray(rgb[:50, :54].copy(), format="rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with pytest.raises(DataError, match="odd.mp4: sides of 54x50 are no multiples of 4"):
        read_clip(path, reading(2))
