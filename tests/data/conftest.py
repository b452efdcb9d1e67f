"""Small real MPEG-4 files for the tests of the data layer."""

from __future__ import annotations

import av
import numpy as np
import pytest

from cmkd.config.data import EncodingConfig
from cmkd.data.video import encode

SIZE = 64


@pytest.fixture(scope="session")
def texture():
    """160 x 160 pixels of random colours in cells of 4 x 4."""
    cells = np.random.default_rng(0).integers(40, 216, (40, 40, 3))
    return np.kron(cells, np.ones((4, 4, 1))).astype(np.uint8)


@pytest.fixture(scope="session")
def panning(texture):
    """24 frames of 64 x 64 whose content moves by (-4, +2) pixels a frame."""
    return [texture[60 - 2 * t :, 4 * t :][:SIZE, :SIZE] for t in range(24)]


@pytest.fixture(scope="session")
def good(panning, tmp_path_factory):
    """`panning` as `encode` writes it: GOP 12, qscale 2."""
    path = tmp_path_factory.mktemp("good") / "good.mp4"
    encode(panning, path, EncodingConfig(width=SIZE, height=SIZE, gop=12, qscale=2))
    return path


@pytest.fixture(scope="session")
def write_with_av(panning):
    """A function that writes `panning` as files that `encode` does not write."""

    def write(path, codec="mpeg4", *, container=None, options=None, intra=(), b_frames=0):
        with av.open(str(path), "w", options=container or {}) as output:
            stream = output.add_stream(codec, rate=25)
            stream.width = stream.height = SIZE
            stream.pix_fmt = "yuv420p"
            stream.codec_context.gop_size = 12
            stream.codec_context.max_b_frames = b_frames
            stream.codec_context.options = options or {}
            for index, rgb in enumerate(panning):
                frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                frame.pts = index
                frame.pict_type = 1 if index in intra else 0
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        return path

    return write
