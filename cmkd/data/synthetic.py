"""The embedded action set: drawn from seeds, really encoded, generated once per cache."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from cmkd.config.base import Config, content_id
from cmkd.config.data import EncodingConfig, SplitConfig, ViewsConfig
from cmkd.data.bitstream import encode
from cmkd.data.files import make_folder
from cmkd.data.manifest import INFO_FILE, ClipEntry, DatasetPlan, file_sha256, write_dataset
from cmkd.data.pool import OnProgress, run_tasks, usable_cpus
from cmkd.data.synthetic_scene import CLASSES, SceneConfig, render
from cmkd.errors import CmkdError

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
    def plan(self) -> DatasetPlan:
        """The identity card of the data set, less its digest."""
        mirror = {name: name.replace("left", "right") for name in CLASSES if "left" in name}
        return DatasetPlan(
            name=self.name,
            kind="embedded",
            classes=CLASSES,
            encoding=self.encoding,
            views=self.views,
            split=SplitConfig(rule="given"),
            flip_labels={"horizontal": mirror | {right: left for left, right in mirror.items()}},
        )


RECIPES = {
    recipe.name: recipe
    for recipe in (
        SyntheticRecipe(name="synthetic", train=600, val=400, test=1000),
        SyntheticRecipe(name="synthetic-smoke", train=96, val=48, test=48),
    )
}


def folder_of(recipe: SyntheticRecipe, cache: Path) -> Path:
    """Where the recipe's clips lie once generated."""
    return cache / "data" / f"{recipe.name}-{recipe.id}"


def ensure_synthetic(
    recipe: SyntheticRecipe,
    cache: Path,
    *,
    workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> Path:
    """Generate the clips unless the cache has them; safe to call from several processes.

    Args:
        workers: processes; None uses every CPU.

    Returns:
        The data set's folder. It appears complete or not at all.

    Raises:
        InputError: the cache cannot be written.
        InfrastructureError: the disk is full.
    """
    folder = folder_of(recipe, cache)
    make_folder(folder.parent)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not (folder / INFO_FILE).exists():
            draft = folder.with_name(f".{folder.name}.tmp")
            shutil.rmtree(draft, ignore_errors=True)
            try:
                _generate(recipe, draft, workers or usable_cpus(), on_progress)
                draft.rename(folder)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return folder


@dataclass(frozen=True)
class _ClipTask:
    recipe: SyntheticRecipe
    part: str
    index: int
    root: Path


def _generate(
    recipe: SyntheticRecipe, root: Path, workers: int, on_progress: OnProgress | None
) -> None:
    for name in CLASSES:
        (root / name).mkdir(parents=True)
    tasks = [
        _ClipTask(recipe, part, index, root)
        for part, size in recipe.sizes.items()
        for index in range(size)
    ]
    clips: dict[int, ClipEntry] = {}
    made = run_tasks(
        _make_clip, tasks, workers=workers, name=lambda task: f"{root}, {task.part} {task.index}"
    )
    for number, clip in made:
        if isinstance(clip, CmkdError):
            raise clip
        clips[number] = clip
        if on_progress:
            on_progress(len(clips), len(tasks))
    ordered = [clips[number] for number in range(len(tasks))]
    write_dataset(root, recipe.plan.info(ordered), ordered)


def _make_clip(task: _ClipTask) -> ClipEntry:
    recipe, label = task.recipe, task.index % len(CLASSES)
    # The part's number is a word of the seed: no clip of one part can recur in another.
    part = list(recipe.sizes).index(task.part)
    rng = np.random.default_rng([recipe.seed, part, task.index])
    name = f"{CLASSES[label]}/{task.part}_{task.index:04d}.mp4"
    encode(render(recipe.scene, label, rng), task.root / name, recipe.encoding)
    return ClipEntry(name, label, "", task.part, file_sha256(task.root / name))
