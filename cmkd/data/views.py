"""Views of a clip: one affine map for I-frames, vectors, residuals and RGB frames (A7).

Crops are those of TSM (mit-han-lab/temporal-shift-module, ops/transforms.py): the centre,
`GroupMultiScaleCrop` for training, the places of `GroupFullResSample` for three crops at test.
They are resized bilinearly without smoothing, where PIL's smooth a little on scale 1.

Coordinates are normalised as `torch.nn.functional.affine_grid` takes them (-1 and 1 are the
outer edges of the picture, ``align_corners=False``), so one matrix serves maps of all strides.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float, Float64, Int64

from cmkd.config.data import DatasetInfo, InputConfig, ViewsConfig
from cmkd.data.clip import MOTION_CELL, RESIDUAL_CELL, Clip
from cmkd.data.color import to_bytes
from cmkd.data.dataset import Dataset
from cmkd.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

Row = tuple[float, float, float]
IDENTITY: tuple[Row, Row] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
COARSEST_STRIDE = MOTION_CELL
"""Pixels per cell of the motion map; a shift by a multiple of it interpolates nowhere."""
CROP_SCALES = (1.0, 0.875, 0.75, 0.66)
"""Sides of training crops, in shorter sides of the picture."""
CROP_PLACES = (
    *((0, 0), (4, 0), (0, 4), (4, 4), (2, 2)),
    *((0, 2), (4, 2), (2, 4), (2, 0)),
    *((1, 1), (3, 1), (1, 3), (3, 3)),
)
"""Positions of training crops, in quarters of the free space to their left and above them."""


@dataclass(frozen=True)
class View:
    """One view.

    Attributes:
        matrix: 2 x 3, from output to input coordinates (x, y), both normalised.
        phase: in [0, 1), how much earlier inside its segment each frame is sampled.
        flipped_x: mirrored left to right.
        flipped_y: mirrored top to bottom.
        crop: side of the square that comes out, in pixels; None leaves the size.
    """

    matrix: tuple[Row, Row] = IDENTITY
    phase: float = 0.0
    flipped_x: bool = False
    flipped_y: bool = False
    crop: int | None = None


def make_views(config: ViewsConfig, clip_key: str, height: int, width: int) -> tuple[View, ...]:
    """The views of a clip, the same on every machine; view 0 is `plain_view`.

    Flips take turns (plain, x, y, both; or plain, x), so that every clip is seen in all of them.
    Shifts are multiples of 4 pixels where nothing is zoomed or turned.

    Args:
        clip_key: decides shifts, zooms, angles, crops and phases; use the clip's path.
        height, width: of the frames, in pixels.
    """
    plain = plain_view(config, height, width)
    return (plain, *(_view(config, clip_key, n, height, width) for n in range(1, config.count)))


def plain_view(config: ViewsConfig, height: int, width: int) -> View:
    """The clip itself, or its centre where the data set has a crop."""
    if config.crop is None:
        return View()
    return _cut(config.crop, 2, 2, height, width)


def views_at_test(
    views: ViewsConfig, inputs: InputConfig, height: int, width: int
) -> tuple[View, ...]:
    """The views of a test clip, `test_crops` for each of `test_clips` phases; one is `plain_view`.

    Raises:
        DataError: three crops of a data set that has none, or only a single place for them.
    """
    plain = plain_view(views, height, width)
    crops = [plain]
    if inputs.test_crops == 3:
        if views.crop is None or views.crop == max(height, width):
            raise DataError(
                "inputs.test_crops: 3 needs room beside the crop, and the data set shows whole "
                f"pictures of {width}x{height}",
                "prepare it again with a --crop smaller than that, or set test_crops to 1",
            )
        ends = [(0, 2), (4, 2)] if width >= height else [(2, 0), (2, 4)]
        first, last = (_cut(views.crop, x, y, height, width) for x, y in ends)
        crops = [first, plain, last]
    phases = [number / inputs.test_clips for number in range(inputs.test_clips)]
    return tuple(replace(crop, phase=phase) for phase in phases for crop in crops)


def _cut(crop: int, x: int, y: int, height: int, width: int) -> View:
    left, top = x * ((width - crop) // 4), y * ((height - crop) // 4)
    return View(_window(left, top, crop, crop, height, width), crop=crop)


def _window(
    left: int, top: int, across: int, down: int, height: int, width: int
) -> tuple[Row, Row]:
    return (
        (across / width, 0.0, (2 * left + across) / width - 1),
        (0.0, down / height, (2 * top + down) / height - 1),
    )


def draw_view(config: ViewsConfig, key: str, height: int, width: int) -> View:
    """A view whose flips are drawn too, the same for equal keys on every machine.

    Args:
        key: decides all of it.
        height, width: of the frames, in pixels.
    """
    rng = _generator(key)
    flip_x = config.flip != "none" and rng.random() < 0.5
    flip_y = config.flip == "both" and rng.random() < 0.5
    return _drawn(config, rng, flip_x, flip_y, height, width)


def _view(config: ViewsConfig, clip_key: str, number: int, height: int, width: int) -> View:
    flip_x = config.flip != "none" and number % 2 == 1
    flip_y = config.flip == "both" and number // 2 % 2 == 1
    rng = _generator(f"{clip_key}\0{number}")
    return _drawn(config, rng, flip_x, flip_y, height, width)


def _generator(key: str) -> np.random.Generator:
    seed = hashlib.sha256(key.encode()).digest()[:8]
    return np.random.default_rng(int.from_bytes(seed, "little"))


def _drawn(
    config: ViewsConfig,
    rng: np.random.Generator,
    flip_x: bool,
    flip_y: bool,
    height: int,
    width: int,
) -> View:
    mirror_x, mirror_y = (-1.0 if flip_x else 1.0), (-1.0 if flip_y else 1.0)
    if config.crop is None:
        (xx, xy, x), (yx, yy, y) = _moved(config, rng, height, width)
    else:
        (xx, xy, x), (yx, yy, y) = _multi_scale(config.crop, rng, height, width)
    matrix = ((xx * mirror_x, xy * mirror_y, x), (yx * mirror_x, yy * mirror_y, y))
    phase = rng.random() if config.phase else 0.0
    return View(matrix, phase, flip_x, flip_y, config.crop)


def _multi_scale(crop: int, rng: np.random.Generator, height: int, width: int) -> tuple[Row, Row]:
    sides = [int(min(height, width) * scale) for scale in CROP_SCALES]
    # As TSM has it, a side that is nearly the crop's is not resized for a pixel or two.
    sides = [crop if abs(side - crop) < 3 else side for side in sides]
    steps = range(len(sides))
    pairs = [(w, h) for h in steps for w in steps if abs(w - h) <= 1]
    across, down = (sides[step] for step in pairs[rng.integers(len(pairs))])
    x, y = CROP_PLACES[rng.integers(len(CROP_PLACES))]
    left, top = x * ((width - across) // 4), y * ((height - down) // 4)
    return _window(left, top, across, down, height, width)


def _moved(
    config: ViewsConfig, rng: np.random.Generator, height: int, width: int
) -> tuple[Row, Row]:
    step = COARSEST_STRIDE if config.scale == config.rotation == 0 else 0
    shift_x = _shift(rng, config.shift * width, step) * 2 / width
    shift_y = _shift(rng, config.shift * height, step) * 2 / height
    zoom = 1 + rng.uniform(-config.scale, config.scale)
    angle = math.radians(rng.uniform(-config.rotation, config.rotation))
    # A turn is rigid in pixels; in normalised coordinates it carries the aspect ratio.
    aspect = height / width
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    return (cos, -sin * aspect, shift_x), (sin / aspect, cos, shift_y)


def _shift(rng: np.random.Generator, largest: float, step: int) -> float:
    if step == 0:
        return float(rng.uniform(-largest, largest))
    steps = int(largest // step)
    return float(step * rng.integers(-steps, steps + 1))


def label_of(info: DatasetInfo, label: int, view: View) -> int:
    """The class a view shows: mirrored classes change places as `flip_labels` says."""
    name = info.classes[label]
    for flipped, axis in ((view.flipped_x, "horizontal"), (view.flipped_y, "vertical")):
        if flipped:
            name = info.flip_labels.get(axis, {}).get(name, name)
    return info.classes.index(name)


@dataclass(frozen=True)
class ViewIndex:
    """Rows of the arrays, in the order of the clips.

    Attributes:
        views: of each clip; its rows follow one another in this order.
        labels: class that each row shows.
        index: row of (clip, view), -1 where a clip has no such view.
        test_index: row of (clip, view at test), -1 for clips that no fold tests.
    """

    views: tuple[tuple[View, ...], ...]
    labels: Int64[np.ndarray, " R"]
    index: Int64[np.ndarray, "N V"]
    test_index: Int64[np.ndarray, "N M"]


def view_index(dataset: Dataset, inputs: InputConfig) -> ViewIndex:
    """All views of clips that some fold trains on, those at test of clips that some fold tests.

    Other clips have view 0 only, which is also one of those at test.

    Raises:
        DataError: `inputs` asks for crops that the data set cannot have.
    """
    info = dataset.info
    height, width = info.encoding.height, info.encoding.width
    splits = [dataset.split(fold) for fold in range(dataset.num_folds)]
    trained = {clip for split in splits for clip in split.train}
    tested = {clip for split in splits for clip in split.test}
    at_test = views_at_test(info.views, inputs, height, width)
    plain = plain_view(info.views, height, width)
    views: list[tuple[View, ...]] = []
    labels: list[int] = []
    index: list[list[int]] = []
    test_index: list[list[int]] = []
    for number, clip in enumerate(dataset.clips):
        train = number in trained
        shown = make_views(info.views, clip.path, height, width) if train else (plain,)
        asked = at_test if number in tested else ()
        all_views = (*shown, *(view for view in asked if view != plain))
        index.append([len(labels) + at for at in range(len(shown))])
        test_index.append([len(labels) + all_views.index(view) for view in asked])
        views.append(all_views)
        labels += [label_of(info, clip.label, view) for view in all_views]
    return ViewIndex(
        tuple(views),
        np.array(labels, np.int64),
        _padded(index, max(map(len, index))),
        _padded(test_index, len(at_test)),
    )


def _padded(rows: Sequence[Sequence[int]], width: int) -> Int64[np.ndarray, "N width"]:
    return np.array([[*row, *[-1] * (width - len(row))] for row in rows], np.int64)


def apply_view(clip: Clip, view: View) -> Clip:
    """Resample every map of a clip by the view's one affine map, bilinearly.

    A crop of side c gives pictures of c x c pixels, motion of c/4 x c/4 cells and residuals of
    c/2 x c/2; cut on whole cells and not resized, they are exact slices.

    Padding is edge replication for I-frames and RGB, zeros for motion and residual. Vectors turn
    with the picture: they are multiplied by the inverse of the linear part, so a horizontal flip
    negates their x. The view's phase is not applied here; it decides which frames
    `cmkd.data.clip.read_clip` reads.
    """
    height, width = clip.iframes.shape[-2:]
    shown = (view.crop or height, view.crop or width)
    if view.matrix == IDENTITY and shown == (height, width):
        return clip
    if (corner := _corner(view, height, width)) is not None:
        return _sliced(clip, *corner, *shown)
    linear = vector_turn(view, height, width)
    vectors = clip.motion.astype(np.float64).reshape(-1, 2, *clip.motion.shape[2:])
    turned = np.einsum("ij,njhw->nihw", linear, vectors).reshape(clip.motion.shape)
    outside = outside_of(view.crop)
    return replace(
        clip,
        iframes=to_bytes(_resample(clip.iframes, view, 1, "border")),
        motion=_resample(turned, view, MOTION_CELL, outside).astype(np.float16),
        residual=_resample(clip.residual, view, RESIDUAL_CELL, outside).astype(np.float16),
        frames=to_bytes(_resample(clip.frames, view, 1, "border")),
    )


def outside_of(crop: int | None) -> Literal["border", "zeros"]:
    """Padding of motion and residual. A crop has no outside: half a cell at most lies there."""
    return "zeros" if crop is None else "border"


def _corner(view: View, height: int, width: int) -> tuple[int, int] | None:
    """(left, top) of a square that is cut on whole cells and not resized; else None."""
    if view.crop is None:
        return None
    left = round(((view.matrix[0][2] + 1) * width - view.crop) / 2)
    top = round(((view.matrix[1][2] + 1) * height - view.crop) / 2)
    is_cut = view.matrix == _window(left, top, view.crop, view.crop, height, width)
    return (left, top) if is_cut and left % MOTION_CELL == top % MOTION_CELL == 0 else None


def _sliced(clip: Clip, left: int, top: int, height: int, width: int) -> Clip:
    def cut(maps: np.ndarray, cell: int) -> np.ndarray:
        rows = slice(top // cell, (top + height) // cell)
        columns = slice(left // cell, (left + width) // cell)
        return np.ascontiguousarray(maps[..., rows, columns])

    return replace(
        clip,
        iframes=cut(clip.iframes, 1),
        motion=cut(clip.motion, MOTION_CELL),
        residual=cut(clip.residual, RESIDUAL_CELL),
        frames=cut(clip.frames, 1),
    )


def vector_turn(view: View, height: int, width: int) -> Float64[np.ndarray, "2 2"]:
    """Matrix that vectors (x, y) of pictures of this size are multiplied by."""
    linear = np.array(view.matrix)[:, :2]
    before = np.array((width, height), np.float64)
    after = np.array((view.crop or width, view.crop or height), np.float64)
    turn: Float64[np.ndarray, "2 2"] = np.linalg.inv(linear * before[:, None] / after[None, :])
    return turn


def _resample(
    maps: np.ndarray, view: View, cell: int, padding: Literal["border", "zeros"]
) -> Float64[np.ndarray, "N C h w"]:
    # A sweep that finds its clips decoded loads no torch.
    import torch

    # Double precision keeps aligned shifts exact for widths that are no power of two: what
    # leaks from a neighbour is below half a grey level and below float16's smallest number.
    batch = torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float64))
    matrix = torch.tensor([view.matrix], dtype=torch.float64)
    return np.asarray(resample(batch[None], matrix, view.crop, cell, padding)[0].numpy())


def resample(
    maps: Float[Tensor, "B N C H W"],
    matrices: Float[Tensor, "B 2 3"],
    crop: int | None,
    cell: int,
    padding: Literal["border", "zeros"],
) -> Float[Tensor, "B N C h w"]:
    """Maps of B clips, each by the `View.matrix` of its own, bilinearly and on their device.

    Args:
        crop: `View.crop` of all of them.
        cell: pixels a side of one value.
        padding: beyond the edges, the value there or zeros.
    """
    from torch.nn.functional import affine_grid, grid_sample

    folded = maps.flatten(1, 2)
    sides = [crop // cell] * 2 if crop else list(maps.shape[-2:])
    grid = affine_grid(matrices, [*folded.shape[:2], *sides], align_corners=False)
    moved: Tensor = grid_sample(
        folded, grid, mode="bilinear", padding_mode=padding, align_corners=False
    )
    unfolded: Tensor = moved.unflatten(1, maps.shape[1:3])
    return unfolded
