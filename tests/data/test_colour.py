import hashlib

import numpy as np
import pytest

from cmkd.data.color import difference_to_rgb, planes_to_rgb, rgb_to_planes

# BT.601, 8 bits, limited range: RGB -> (Y, U, V).
KNOWN = {
    (0, 0, 0): (16, 128, 128),
    (255, 255, 255): (235, 128, 128),
    (255, 0, 0): (81, 90, 240),
    (0, 255, 0): (145, 54, 34),
    (0, 0, 255): (41, 240, 110),
}


@pytest.mark.parametrize(("rgb", "yuv"), KNOWN.items())
def test_known_colours_both_ways(rgb, yuv):
    frame = np.full((4, 4, 3), rgb, np.uint8)
    planes = rgb_to_planes(frame)
    assert tuple(int(plane[0, 0]) for plane in planes) == yuv
    assert planes[0].shape == (4, 4) and planes[1].shape == planes[2].shape == (2, 2)
    back = planes_to_rgb(*planes)
    assert back.shape == (3, 4, 4)
    assert np.abs(back.transpose(1, 2, 0).astype(int) - frame).max() <= 2


def test_planes_are_those_that_the_clips_on_disk_were_made_of():
    """Other roundings would be other clips, and so other ids of every data set."""
    frame = np.random.default_rng(0).integers(0, 256, (80, 48, 3), dtype=np.uint8)
    digest = hashlib.sha256(b"".join(plane.tobytes() for plane in rgb_to_planes(frame)))
    assert digest.hexdigest()[:16] == "7e887e531564526e"


def test_chroma_is_the_mean_of_its_four_pixels():
    frame = np.zeros((2, 2, 3), np.uint8)
    frame[0, 0] = frame[1, 1] = (0, 0, 255)
    _, u, v = rgb_to_planes(frame)
    assert (int(u[0, 0]), int(v[0, 0])) == (184, 119)


def test_difference_is_the_linear_part_of_the_conversion():
    rng = np.random.default_rng(0)
    # Colours in gamut, so that nothing is clipped and only rounding separates the two ways.
    a, b = (rng.integers(100, 140, (3, 4, 4)).astype(np.uint8) for _ in range(2))
    a[0], b[0] = a[0] - 10, b[0] + 10
    pictures = [(y.repeat(2, axis=0).repeat(2, axis=1), u, v) for y, u, v in (a, b)]
    rgb = [planes_to_rgb(*planes)[:, ::2, ::2].astype(np.float32) for planes in pictures]
    difference = (np.subtract(p, q, dtype=np.int16) for p, q in zip(*pictures, strict=True))
    assert np.abs(difference_to_rgb(*difference) - (rgb[0] - rgb[1])).max() <= 1.01
