"""Files that cannot be used are refused with their name, the reason and a remedy."""

import av
import numpy as np
import pytest

from cmkd.data.mpeg4 import open_mpeg4
from cmkd.data.video import decode_rgb
from cmkd.errors import DataError


def decode_all(path):
    with open_mpeg4(path) as video:
        return list(video.frames(range(len(video.kinds)), range(1, len(video.kinds))))


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def flipped(good, path):
    data = bytearray(good.read_bytes())
    start = data.index(b"mdat") + 400
    data[start : start + 60] = bytes(byte ^ 0x55 for byte in data[start : start + 60])
    path.write_bytes(data)
    return path


def without_first_frame(good, path):
    with av.open(str(good)) as source, av.open(str(path), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(source.demux(video=0)):
            if index and packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    return path


def sound_only(path):
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=44100)
        silence = np.zeros((1, 44100), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 44100
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def text(path, data):
    path.write_bytes(data)
    return path


def copied(good, path):
    path.write_bytes(good.read_bytes())
    return path


REFUSED = {
    "h264": (lambda g, p, w: w(p, "libx264"), "codec is h264"),
    "b_frames": (lambda g, p, w: w(p, b_frames=2), "is a B-frame"),
    "quarter_pel": (lambda g, p, w: w(p, options={"flags": "+qpel"}), "quarter-pel"),
    "first_not_i": (lambda g, p, w: without_first_frame(g, p), "first frame is a P-frame"),
    "corrupt": (lambda g, p, w: flipped(g, p), "frame 0 is corrupt"),
    "truncated": (lambda g, p, w: cut(copied(g, p), 0.5), "cannot be decoded"),
    "empty": (lambda g, p, w: text(p, b""), "cannot be decoded"),
    "text": (lambda g, p, w: text(p, b"not a video\n" * 50), "cannot be decoded"),
    "random": (
        lambda g, p, w: text(p, np.random.default_rng(0).bytes(5000)),
        "cannot be decoded",
    ),
    "absent": (lambda g, p, w: p, "no such file"),
    "folder": (lambda g, p, w: p.mkdir() or p, "no such file"),
    "sound": (lambda g, p, w: sound_only(p), "no video stream"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_file_reason_and_remedy(case, good, tmp_path, write_with_av):
    make, reason = REFUSED[case]
    path = make(good, tmp_path / "clip.mp4", write_with_av)
    with pytest.raises(DataError, match=reason) as caught:
        decode_all(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    remedies = ("re-encode it with: cmkd data prepare", "check the path", "replace the file")
    assert any(remedy in message for remedy in remedies)


@pytest.mark.parametrize("case", ["corrupt", "truncated", "empty", "text", "absent", "sound"])
def test_refused_for_re_encoding_too(case, good, tmp_path, write_with_av):
    path = REFUSED[case][0](good, tmp_path / "clip.mp4", write_with_av)
    with pytest.raises(DataError, match="clip.mp4: "):
        list(decode_rgb(path))


def test_fewer_frames_than_declared_although_ffmpeg_is_content(tmp_path, write_with_av):
    """Index at the front, the end of the data missing: FFmpeg just stops early."""
    path = write_with_av(tmp_path / "short.mp4", container={"movflags": "faststart"})
    with av.open(str(path)) as container:
        sizes = [packet.size for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[: -sum(sizes[-3:])])
    with pytest.raises(DataError, match="declares 24 frames, 21 can be decoded; re-encode"):
        decode_all(path)
    with pytest.raises(DataError, match="24 frames, 21 can be decoded; replace"):
        list(decode_rgb(path))


def test_a_huge_declared_size_is_refused_before_decoding(good, monkeypatch):
    monkeypatch.setattr("cmkd.data.video.LARGEST_SIDE", 63)
    with pytest.raises(DataError, match="size 64x64 is outside 1..63"):
        decode_all(good)


def test_real_corrupt_clip(shared_video):
    path = shared_video / "clips" / "edge_cases" / "decord_corrupted.mp4"
    with pytest.raises(DataError, match="decord_corrupted.mp4: "):
        list(decode_rgb(path))
