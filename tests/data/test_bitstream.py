import struct
import subprocess
import sys

import av
import numpy as np
import pytest

from cmkd.config.data import EncodingConfig
from cmkd.data.mpeg4 import VECTORS, open_mpeg4
from cmkd.data.video import decode_rgb, encode, probe
from cmkd.errors import DataError, InfrastructureError

SIZE = 64
ENCODING = EncodingConfig(width=SIZE, height=SIZE, gop=12, qscale=2)


def kinds_of(path):
    with open_mpeg4(path) as video:
        return "".join(video.kinds)


def read_frames(path):
    """All that can be read of every frame."""
    with open_mpeg4(path) as video:
        p_frames = [index for index, kind in enumerate(video.kinds) if kind == "P"]
        return list(video.frames(range(len(video.kinds)), p_frames))


# Writing


def test_gop_is_as_configured_without_b_frames(good):
    assert kinds_of(good) == "".join(frame.kind for frame in read_frames(good))
    assert kinds_of(good) == ("I" + "P" * 11) * 2


def test_a_scene_cut_makes_no_extra_i_frame(tmp_path, panning):
    path = tmp_path / "cut.mp4"
    encode(panning[:6] + [255 - f for f in panning[:6]], path, ENCODING)
    assert kinds_of(path) == "I" + "P" * 11
    assert len(read_frames(path)[6].vectors) < 12, "the cut must be coded with intra macroblocks"


def test_decoded_frames_are_the_encoded_ones(good, panning):
    error = [
        np.abs(decoded.astype(int) - frame).mean()
        for decoded, frame in zip(decode_rgb(good), panning, strict=True)
    ]
    # Measured 1.1-1.9 at qscale 2; nearest-neighbour chroma and quantisation are what remains.
    assert max(error) < 4


def test_equal_frames_give_equal_bytes(good, tmp_path, panning):
    again = tmp_path / "other-name.mp4"
    encode(panning, again, ENCODING)
    assert again.read_bytes() == good.read_bytes()
    assert b"Lav" not in good.read_bytes(), "FFmpeg's version is no part of the content"


@pytest.mark.parametrize("fps", [10.0, 23.976, 29.97, 30000 / 1001, 59.94, 240.0])
def test_frame_rate_is_kept(tmp_path, fps, panning):
    path = tmp_path / "rate.mp4"
    encode(panning[:3], path, ENCODING, fps=fps)
    info = probe(path)
    assert info.fps == pytest.approx(fps, rel=1e-6) and info.frames_declared == 3


def test_quantiser_is_as_configured(tmp_path, panning):
    sizes = []
    for qscale in (1, 2, 31):
        path = tmp_path / f"{qscale}.mp4"
        encode(panning[:4], path, ENCODING.model_copy(update={"qscale": qscale}))
        sizes.append(path.stat().st_size)
    assert sizes[0] > 1.2 * sizes[1] > 3 * sizes[2]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, panning):
    path = tmp_path / "clip.mp4"
    encode(panning[:2], path, ENCODING)
    before = path.read_bytes()

    def dying():
        yield from panning[:3]
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        encode(dying(), path, ENCODING)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_that_cannot_be_written_is_named(tmp_path, panning):
    (tmp_path / "file").touch()
    with pytest.raises(InfrastructureError, match="file/clip.mp4: cannot be written"):
        encode(panning, tmp_path / "file" / "clip.mp4", ENCODING)


def test_frames_of_another_size_are_our_mistake(tmp_path):
    with pytest.raises(AssertionError):
        encode([np.zeros((32, 64, 3), np.uint8)], tmp_path / "x.mp4", ENCODING)
    assert not list(tmp_path.iterdir())


# Reading planes and vectors


def test_planes_are_those_of_pyav(tmp_path, panning):
    # 48 pixels: FFmpeg pads the lines of such planes.
    path = tmp_path / "padded.mp4"
    frames = [frame[:48, :48] for frame in panning[:3]]
    encode(frames, path, EncodingConfig(width=48, height=48, gop=12, qscale=2))
    with av.open(str(path)) as container:
        expected = [frame.to_ndarray() for frame in container.decode(video=0)]
    for frame, whole in zip(read_frames(path), expected, strict=True):
        y, u, v = frame.picture
        assert (y == whole[:48]).all()
        assert (u == whole[48:60].reshape(24, 24)).all()
        assert (v == whole[60:].reshape(24, 24)).all()


def test_vectors_point_from_a_block_to_its_source_in_half_pels(good):
    """Content moves by (-4, +2), so its source lies at (+4, -2): 8 and -4 half-pels."""
    frames = read_frames(good)
    for frame in frames:
        assert frame.vectors is None if frame.kind == "I" else len(frame.vectors) == 16
    assert frames[3].vectors.dtype == VECTORS
    inner = frames[3].vectors[(frames[3].vectors["dst_x"] < 48)]
    inner = inner[inner["dst_y"] > 16]
    centres = [(x, y) for y in (24, 40, 56) for x in (8, 24, 40)]
    assert list(zip(inner["dst_x"].tolist(), inner["dst_y"].tolist(), strict=True)) == centres
    assert set(inner["motion_x"]) == {8} and set(inner["motion_y"]) == {-4}
    assert (inner["src_x"] - inner["dst_x"] == 4).all()
    assert (inner["src_y"] - inner["dst_y"] == -2).all()
    assert set(inner["motion_scale"]) == {2}


def test_skipped_macroblocks_have_a_vector_of_zero(tmp_path, texture):
    path = tmp_path / "still.mp4"
    encode([texture[:SIZE, :SIZE]] * 6, path, ENCODING)
    sizes = _packet_sizes(path)
    assert max(sizes[1:]) < 20, "16 macroblocks in so few bytes are all skipped"
    for picture in read_frames(path)[1:]:
        assert len(picture.vectors) == 16
        assert not picture.vectors["motion_x"].any() and not picture.vectors["motion_y"].any()


def _packet_sizes(path):
    with av.open(str(path)) as container:
        return [packet.size for packet in container.demux(video=0) if packet.size]


def test_planes_and_vectors_of_what_is_asked_for(good):
    """GOPs at 0 and 12; frames 14 and 16 with their planes, 15 with its residual."""
    with open_mpeg4(good) as video:
        frames = list(video.frames([14, 16], [15]))
        again = list(video.frames([3]))
    assert [frame.index for frame in frames] == [12, 13, 14, 15, 16]
    assert [frame.index for frame in frames if frame.picture is not None] == [12, 14, 15, 16]
    assert [frame.index for frame in frames if frame.warped is not None] == [15]
    assert [frame.index for frame in frames if frame.vectors is not None] == [13, 14, 15]
    assert [frame.index for frame in again] == [0, 1, 2, 3]
    assert all(frame.vectors is None and frame.warped is None for frame in again)
    whole = read_frames(good)
    for frame in (*frames, *again):
        for name in ("picture", "warped"):
            planes = getattr(frame, name)
            if planes is not None:
                for one, other in zip(planes, getattr(whole[frame.index], name), strict=True):
                    assert np.array_equal(one, other)


def test_planes_outlive_the_file(good):
    with open_mpeg4(good) as video:
        kept = [frame.picture for frame in video.frames(range(24))]
    for planes, wanted in zip(kept, read_frames(good), strict=True):
        assert np.array_equal(planes.y, wanted.picture.y)


def test_without_residuals_p_frames_are_others(good):
    for frame in read_frames(good):
        if frame.kind == "P":
            pairs = zip(frame.picture, frame.warped, strict=True)
            assert not all(np.array_equal(a, b) for a, b in pairs)


def test_damage_is_seen_in_gops_that_are_read(good, tmp_path):
    """Sixty bytes in the middle of the second GOP's I-frame."""
    with av.open(str(good)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        start = packets[12].pos + packets[12].size // 2
    data = bytearray(good.read_bytes())
    data[start : start + 60] = bytes(byte ^ 0x55 for byte in data[start : start + 60])
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    with open_mpeg4(path) as video:
        assert len(list(video.frames([11]))) == 12
    with pytest.raises(DataError, match="frame 12 is corrupt"), open_mpeg4(path) as video:
        list(video.frames([13]))


EXTRACT = """
import sys
import numpy as np
from mvextractor.videocap import VideoCap
video, rows = VideoCap(), []
assert video.open(sys.argv[1])
index = 0
while True:
    success, _, vectors, kind, *_ = video.read()
    if not success:
        break
    rows += [(index, *row) for row in vectors.tolist()]
    index += 1
np.save(sys.argv[2], np.array(rows, np.int64))
"""


def test_vectors_equal_those_of_motion_vector_extractor(shared_video, tmp_path):
    """On a real UCF-101 clip. In a process of its own: it brings another FFmpeg along."""
    pytest.importorskip("mvextractor", reason="motion-vector-extractor is not installed")
    path = shared_video / "clips" / "v_SoccerJuggling_g23_c01.avi"
    saved = tmp_path / "vectors.npy"
    subprocess.run([sys.executable, "-c", EXTRACT, str(path), str(saved)], check=True, timeout=120)
    fields = "source w h src_x src_y dst_x dst_y motion_x motion_y motion_scale".split()
    ours = [
        (index, *(int(vector[field]) for field in fields))
        for index, frame in enumerate(read_frames(path))
        for vector in (frame.vectors if frame.vectors is not None else ())
    ]
    theirs = np.load(saved)
    assert len(theirs) > 10_000
    assert np.array_equal(np.array(ours, np.int64), theirs)


# Reading any codec


@pytest.mark.parametrize("b_frames", [0, 3])
def test_h264_is_read_in_display_order(tmp_path, b_frames, panning, write_with_av):
    path = write_with_av(tmp_path / "x.mp4", "libx264", b_frames=b_frames)
    frames = list(decode_rgb(path))
    assert len(frames) == 24
    for frame, wanted in zip(frames, panning, strict=True):
        assert frame.shape == (SIZE, SIZE, 3) and frame.dtype == np.uint8
        assert np.abs(frame.astype(int) - wanted).mean() < 12


def rotated(source, target):
    """Write a clip with the display matrix of a phone held upright: 90 degrees clockwise."""
    data = bytearray(source.read_bytes())
    unit, height = 1 << 16, SIZE << 16
    identity = struct.pack(">9i", unit, 0, 0, 0, unit, 0, 0, 0, 1 << 30)
    at = data.index(identity, data.index(b"tkhd"))
    data[at : at + 36] = struct.pack(">9i", 0, unit, 0, -unit, 0, 0, height, 0, 1 << 30)
    target.write_bytes(data)
    return target


def test_rotation_is_applied(good, tmp_path):
    path = rotated(good, tmp_path / "rotated.mp4")
    for upright, plain in zip(decode_rgb(path), decode_rgb(good), strict=True):
        # Clockwise: what was the left column, read upwards, is the first row.
        assert (upright[0] == plain[::-1, 0]).all() and (upright == np.rot90(plain, -1)).all()


@pytest.mark.parametrize(
    ("angle", "shape"), [(0, (320, 568)), (90, (568, 320)), (180, (320, 568)), (270, (568, 320))]
)
def test_real_rotated_clips_come_out_upright(shared_video, angle, shape):
    path = shared_video / "clips" / "edge_cases" / f"decord_video_{angle}.mov"
    frames = list(decode_rgb(path))
    assert len(frames) == 3
    assert all(frame.shape == (*shape, 3) and frame.flags["C_CONTIGUOUS"] for frame in frames)


def test_metadata_that_is_not_utf8_is_no_obstacle(tmp_path, write_with_av):
    path = tmp_path / "title.mp4"
    write_with_av(path)
    with av.open(str(path)) as source, av.open(str(tmp_path / "t.mp4"), "w") as target:
        target.metadata["title"] = "QQQQQQ"
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    data = (tmp_path / "t.mp4").read_bytes()
    assert data.count(b"QQQQQQ") == 1
    path.write_bytes(data.replace(b"QQQQQQ", b"\xff\xfe\xe9\xe9\xff\x80"))
    assert len(list(decode_rgb(path))) == len(kinds_of(path)) == 24


def test_real_clip_with_such_metadata(shared_video):
    (path,) = (shared_video / "clips").glob("hmdb51_*.avi")
    # One frame fewer than declared: packed B-frames, legitimate in an AVI.
    assert len(list(decode_rgb(path))) == probe(path).frames_declared - 1 == 83


def test_probe_reads_the_header(good):
    info = probe(good)
    assert (info.frames_declared, info.fps) == (24, 25.0)
