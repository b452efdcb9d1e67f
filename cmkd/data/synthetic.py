"""The embedded action set: drawn from seeds, really encoded, generated once per cache."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from pydantic import Field

from cmkd.config.base import Config, content_id
from cmkd.config.data import DatasetInfo, EncodingConfig, SplitConfig, ViewsConfig
from cmkd.data.splits import ClipEntry
from cmkd.data.video import encode
from cmkd.data.workers import OnProgress, run_tasks
from cmkd.io import file_sha256

COLOURS = {"red": (205, 45, 45), "green": (45, 185, 60), "blue": (50, 75, 215)}
PROFILES = ("left", "right", "bounce", "dash")
CLASSES = tuple(f"{colour}_{profile}" for colour in COLOURS for profile in PROFILES)

Range = tuple[float, float]


class SceneConfig(Config):
    """Parameters of the scenes, part of the data set's recipe. Lengths are pixels."""

    size: int = Field(default=64, ge=32)
    frames: int = Field(default=16, ge=4)
    radius: Range = (8.0, 12.0)
    travel: Range = (20.0, 32.0)
    late_share: float = Field(default=0.7, ge=0, le=1, description="actors absent from frame 0")
    entry: Range = Field(default=(0.1, 0.3), description="when they appear, as a share of the clip")
    burst: float = Field(default=0.2, gt=0, le=1, description="a dash's share of the visible time")
    distractor: Range = Field(default=(6.0, 10.0), description="radius of the motionless disc")
    background: Range = Field(default=(50.0, 205.0), description="grey levels of each channel")
    colour_spread: float = Field(default=20.0, ge=0, description="per channel, grey levels")
    texture: float = Field(default=22.0, ge=0, description="SD of the background, grey levels")
    grain: int = Field(default=4, ge=1, description="pixels from one spot of texture to the next")
    pan: float = Field(default=5.0, ge=0, description="largest camera drift over the clip")
    jitter: float = Field(default=0.6, ge=0, description="SD of the camera's shake per frame")
    noise: float = Field(default=4.0, ge=0, description="SD of the sensor noise, grey levels")
    gain: float = Field(default=0.1, ge=0, lt=1, description="largest change over the clip")
    flicker: float = Field(default=0.02, ge=0, description="SD of each channel's gain per frame")


def render(
    scene: SceneConfig, label: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "frames size size 3"]:
    """Draw one clip.

    Args:
        label: index into `CLASSES`.
        rng: decides everything else; equal states give equal clips.

    Returns:
        RGB frames.
    """
    colour, profile = divmod(label, len(PROFILES))
    palette = np.array(list(COLOURS.values()), np.float32)
    other = (colour + rng.integers(1, len(palette))) % len(palette)
    camera = _camera(scene, rng)
    margin = int(np.ceil(np.abs(camera).max())) + 1
    canvas = _background(scene, margin, rng)
    spot = rng.uniform(0, scene.size, (1, 2)) + margin
    _paint(
        canvas[None],
        spot,
        rng.uniform(*scene.distractor),
        palette[other] + _spread(scene, rng),
        np.ones(1, bool),
    )
    frames = _pan(canvas, camera + margin, scene.size)
    radius = rng.uniform(*scene.radius)
    path, visible = _actor_path(scene, PROFILES[profile], radius, rng)
    _paint(frames, path - camera, radius, palette[colour] + _spread(scene, rng), visible)
    return _expose(scene, frames, rng)


def _camera(scene: SceneConfig, rng: np.random.Generator) -> Float32[np.ndarray, "frames 2"]:
    drift = rng.uniform(-scene.pan, scene.pan, 2)
    steps = np.linspace(0, 1, scene.frames)[:, None] * drift
    return (steps + rng.normal(0, scene.jitter, (scene.frames, 2))).astype(np.float32)


def _spread(scene: SceneConfig, rng: np.random.Generator) -> Float32[np.ndarray, " 3"]:
    return rng.uniform(-scene.colour_spread, scene.colour_spread, 3).astype(np.float32)


def _background(
    scene: SceneConfig, margin: int, rng: np.random.Generator
) -> Float32[np.ndarray, "canvas canvas 3"]:
    """One colour plus smooth noise in every channel on its own: chroma varies, not just luma."""
    side = scene.size + 2 * margin
    count = side // scene.grain + 2
    knots = rng.standard_normal((count, count, 3), np.float32) * scene.texture
    at = np.arange(side) / scene.grain
    low, part = at.astype(int), (at % 1).astype(np.float32)
    rows = knots[low] + part[:, None, None] * (knots[low + 1] - knots[low])
    field = rows[:, low] + part[None, :, None] * (rows[:, low + 1] - rows[:, low])
    base = rng.uniform(*scene.background, 3).astype(np.float32)
    return np.asarray(base + field, np.float32)


def _pan(
    canvas: Float32[np.ndarray, "canvas canvas 3"],
    origin: Float32[np.ndarray, "frames 2"],
    size: int,
) -> Float32[np.ndarray, "frames size size 3"]:
    """Cut a window per frame with its corner at `origin` (x, y), bilinear between pixels."""
    whole = np.floor(origin).astype(int)
    part = (origin - whole).astype(np.float32)
    span = np.arange(size + 1)
    rows, columns = whole[:, 1, None] + span, whole[:, 0, None] + span
    block = canvas[rows[:, :, None], columns[:, None, :]]
    step = np.diff(block, axis=1)
    step *= part[:, 1, None, None, None]
    block = block[:, :-1] + step
    step = np.diff(block, axis=2)
    step *= part[:, 0, None, None, None]
    return np.asarray(block[:, :, :-1] + step, np.float32)


def _actor_path(
    scene: SceneConfig, profile: str, radius: float, rng: np.random.Generator
) -> tuple[Float32[np.ndarray, "frames 2"], np.ndarray]:
    """Centres (x, y) in scene coordinates, and the frames in which the actor is there."""
    late = rng.random() < scene.late_share
    entry = rng.uniform(*scene.entry) * scene.frames if late else 0.0
    time = np.arange(scene.frames)
    moment = np.clip((time - entry) / (scene.frames - 1 - entry), 0, 1)
    axis = 0 if profile in ("left", "right") else int(rng.integers(2))
    sign = {"left": -1.0, "right": 1.0}.get(profile) or rng.choice((-1.0, 1.0))
    travel = rng.uniform(*scene.travel)
    along = rng.uniform(radius, scene.size - radius - travel) + (travel if sign < 0 else 0.0)
    path = np.empty((scene.frames, 2), np.float32)
    path[:, axis] = along + sign * travel * _progress(scene, profile, moment, rng)
    path[:, 1 - axis] = rng.uniform(radius, scene.size - radius)
    return path, time >= entry


def _progress(
    scene: SceneConfig, profile: str, moment: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Share of the travel covered at each moment of the visible time, both in [0, 1]."""
    if profile == "bounce":
        return np.asarray(1 - np.abs(2 * moment - 1))
    if profile == "dash":
        start = rng.uniform(0.3, 0.9 - scene.burst)
        return np.clip((moment - start) / scene.burst, 0, 1)
    return moment


def _paint(
    frames: Float32[np.ndarray, "frames height width 3"],
    centres: np.ndarray,
    radius: float,
    colour: Float32[np.ndarray, " 3"],
    visible: np.ndarray,
) -> None:
    """Blend an antialiased disc into the frames in place."""
    height, width = frames.shape[1:3]
    down = (np.arange(height, dtype=np.float32) - centres[:, 1, None]) ** 2
    across = (np.arange(width, dtype=np.float32) - centres[:, 0, None]) ** 2
    distance = np.sqrt(down[:, :, None] + across[:, None, :])
    cover = np.clip(radius + 0.5 - distance, 0, 1).astype(np.float32)
    cover *= visible[:, None, None]
    frames += cover[..., None] * (colour - frames)


def _expose(
    scene: SceneConfig,
    frames: Float32[np.ndarray, "frames size size 3"],
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "frames size size 3"]:
    """The camera's gain ramp, tint flicker and noise, then rounding to bytes."""
    end = 1 + rng.uniform(-scene.gain, scene.gain)
    ramp = np.linspace(1, end, scene.frames, dtype=np.float32)[:, None]
    tint = ramp * (1 + scene.flicker * rng.standard_normal((scene.frames, 3), np.float32))
    exposed = rng.standard_normal(frames.shape, np.float32)
    exposed *= scene.noise
    exposed += frames * tint[:, None, None, :]
    return np.clip(np.rint(exposed, out=exposed), 0, 255, out=exposed).astype(np.uint8)


RENDERER = 1
"""Raised when equal recipes draw other pixels than before."""


class SyntheticRecipe(Config):
    """Everything that decides the clips; its id is part of the folder's name."""

    name: str
    train: int
    val: int
    test: int
    scene: SceneConfig = SceneConfig()
    encoding: EncodingConfig = EncodingConfig(width=64, height=64, gop=16, qscale=6, num_frames=16)
    views: ViewsConfig = ViewsConfig(count=4, flip="both", shift=0.125)
    seed: int = 20240

    @property
    def id(self) -> str:
        """Content id of the recipe and of the code that draws it."""
        return content_id("synthetic", RENDERER, self)

    @property
    def sizes(self) -> dict[str, int]:
        """Clips of each part."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def info(self) -> DatasetInfo:
        """Metadata of the data set, without a digest."""
        mirror = {name: name.replace("left", "right") for name in CLASSES if "left" in name}
        return DatasetInfo(
            name=self.name,
            kind="embedded",
            classes=CLASSES,
            encoding=self.encoding,
            views=self.views,
            split=SplitConfig(rule="given"),
            flip_labels={"horizontal": mirror | {right: left for left, right in mirror.items()}},
            digest="",
        )


RECIPES = {
    recipe.name: recipe
    for recipe in (
        SyntheticRecipe(name="synthetic", train=600, val=400, test=1000),
        SyntheticRecipe(name="synthetic-second", train=600, val=400, test=1000, seed=20241),
        SyntheticRecipe(name="synthetic-smoke", train=96, val=48, test=48),
    )
}


def draw_clips(
    recipe: SyntheticRecipe, root: Path, workers: int, on_progress: OnProgress | None = None
) -> list[ClipEntry]:
    """Draw and encode every clip of the recipe into a new folder.

    Raises:
        InfrastructureError: the disk is full.
    """
    for name in CLASSES:
        (root / name).mkdir(parents=True)
    tasks = [(part, index) for part, size in recipe.sizes.items() for index in range(size)]
    drawn = run_tasks(
        partial(_draw_clip, recipe, root),
        tasks,
        workers=workers,
        name=lambda task: f"{root}, {task[0]} {task[1]}",
        on_progress=on_progress,
    )
    clips: dict[int, ClipEntry] = {}
    for number, clip in drawn:
        assert isinstance(clip, ClipEntry), clip
        clips[number] = clip
    return [clips[number] for number in range(len(tasks))]


def _draw_clip(recipe: SyntheticRecipe, root: Path, task: tuple[str, int]) -> ClipEntry:
    part, index = task
    label = index % len(CLASSES)
    # The part's number is a word of the seed: no clip of one part can recur in another.
    rng = np.random.default_rng([recipe.seed, list(recipe.sizes).index(part), index])
    name = f"{CLASSES[label]}/{part}_{index:04d}.mp4"
    encode(render(recipe.scene, label, rng), root / name, recipe.encoding)
    return ClipEntry(name, label, "", part, file_sha256(root / name))
