"""Needs of a sweep: imported weights and, at full size, a published data set and GPU hours.

Costs are counted, not measured: multiply-accumulates of all clips, and bytes of networks, maps and
prepared videos.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from cmkd.config.base import content_id
from cmkd.config.method import NO_KD
from cmkd.config.sweep import Sweep
from cmkd.config.trial import Setting, TrainingConfig
from cmkd.config.weight_names import is_id, named_weights, weights_of, with_ids
from cmkd.errors import DataError, InputError
from cmkd.sweep.plan import SweepRequest
from cmkd.sweep.progress import SweepView
from cmkd.sweep.trials import PlannedTrial

if TYPE_CHECKING:
    from cmkd.data.dataset import Dataset

FRAME_BYTES = 6000
"""Bytes of a frame as `cmkd data prepare` writes it at 320x256; 3,000 to 10,000 on HMDB-51."""
LOADER_BYTES = 600 << 20
"""Memory of a process that decodes clips, with what it reads ahead."""


@dataclass(frozen=True)
class Published:
    """Data set of the paper.

    Attributes:
        train, test: clips in the parts of a fold.
        frames: of all clips together, about.
        options: of `cmkd data prepare`; the views are those of TSM.
    """

    title: str
    train: int
    test: int
    folds: int
    classes: int
    frames: float
    options: str


PUBLISHED: Mapping[str, Published] = {
    "ucf101": Published(
        *("UCF-101", 9_537, 3_783, 3, 101, 2.4e6),
        "UCF-101 --as ucf101 --annotations ucfTrainTestlist --flip",
    ),
    "hmdb51": Published(
        *("HMDB-51", 3_570, 1_530, 3, 51, 0.63e6),
        "hmdb51_org --as hmdb51 --annotations testTrainMulti_7030_splits --flip",
    ),
    "ssv2": Published(
        *("SSV2", 168_913, 24_777, 1, 174, 10e6),
        "20bn-something-something-v2 --as ssv2 --annotations labels --flip",
    ),
    "kinetics400": Published(
        *("Kinetics-400", 240_000, 20_000, 1, 400, 73e6),
        "kinetics400 --as kinetics400 --annotations annotations --flip",
    ),
}
"""By the name under which the packaged sweeps look for it in the cache."""
WEIGHTS: Mapping[str, str] = {
    "imagenet-r50": "resnet50-0676ba61.pth (torchvision, IMAGENET1K_V1)",
    "tsm-k400": "TSM_kinetics_RGB_resnet50_shift8_blockres_avg_segment16_e50.pth "
    "(mit-han-lab/temporal-shift-module)",
    "tdn-k400": "a TDN-ResNet50 checkpoint of Kinetics-400 (MCG-NJU/TDN)",
}
"""File of the weights that the packaged sweeps name."""


def require_weights(trials: Iterable[PlannedTrial], cache: Path) -> None:
    """Check that all imported weights of these trials exist, before training.

    Raises:
        InputError: some are not imported, or damaged.
    """
    settings = {trial.arm: trial.config.setting for trial in trials}
    for name in weights_of(settings.values()):
        from cmkd.training.weights import find_weights

        find_weights(name, cache)


def with_weight_ids(sweep: Sweep, cache: Path) -> Sweep:
    """The sweep with the ids of weights in place of the names they were imported by.

    Weights of an installed package are imported where they are not yet. Names that nothing was
    imported by stay.

    Raises:
        InputError: a name stands for several weights.
    """
    names = named_weights(sweep)
    if not names:
        return sweep
    from cmkd.training.weights import import_packaged, list_weights

    ids: dict[str, str] = {}
    for weights in list_weights(cache):
        if weights.name in names:
            if weights.name in ids:
                raise InputError(
                    f"weights {weights.name!r}: {ids[weights.name]} and {weights.id} have this "
                    "name; write the id"
                )
            ids[weights.name] = weights.id
    for name in names.keys() - ids.keys():
        if found := import_packaged(name, cache):
            ids[name] = found.id
    return with_ids(sweep, ids)


def _settings(sweep: Sweep) -> list[Setting]:
    return [arm.setting for arm in sweep.arms]


def needs_of(request: SweepRequest) -> Iterator[str]:
    """Lines on cost and needs of a full-size sweep on a published data set; none of others."""
    data = PUBLISHED.get(request.data)
    sweep = request.sweep.only(request.only)
    if data is None or not any(arm.setting.inputs.views == "fresh" for arm in sweep.arms):
        return
    replicates = data.folds * request.seeds
    later = f", and {len(sweep.waiting)} more after a selection" if sweep.waiting else ""
    yield (
        f"{data.title}: {len(sweep.arms)} arms{later}, folds x seeds {data.folds} x "
        f"{request.seeds}, so {len(sweep.arms) * replicates} trials of {data.train:,} clips"
    )
    hours, memory = _hours(sweep, data)
    yield (
        f"about {hours * replicates:,.0f} hours of an A100 ({hours:,.1f} per fold and seed, "
        "counted at a third of its peak in bf16); a batch needs about "
        f"{memory / 2**30:.0f} GiB on the GPU, training.accumulate divides it"
    )
    yield (
        f"about {data.frames * FRAME_BYTES / 1e9:,.0f} GB of prepared videos; nothing else grows "
        f"with clips or views; {LOADER_BYTES / 2**20:.0f} MiB for each of inputs.loaders"
    )
    if not (request.cache / "data" / request.data).is_dir():
        yield f"missing: {data.title}; {prepare_command(request.data)}"
    for name in weights_of(_settings(sweep)):
        if not is_id(name):
            file = WEIGHTS.get(name, "FILE")
            yield f"missing: weights {name}, {file}; cmkd teacher import FILE --name {name}"


def open_data(request: SweepRequest, view: SweepView) -> Dataset:
    """The data set of a sweep; an embedded one is made where it is not there.

    Raises:
        DataError: it is not there, or damaged; the remedy makes a published one.
    """
    from cmkd.data.dataset import open_dataset

    name, cache = request.data, request.cache
    try:
        return open_dataset(
            name,
            cache,
            on_progress=lambda done, total: view.stage("drawing and encoding clips", done, total),
        )
    except DataError as error:
        if name not in PUBLISHED or (cache / "data" / name).exists():
            raise
        raise DataError(error.problem, f"make it with: {prepare_command(name)}") from None


def prepare_command(name: str) -> str:
    """Command that makes a published data set."""
    return f"cmkd data prepare {PUBLISHED[name].options} --name {name} --crop 224 --phase"


def _hours(sweep: Sweep, data: Published) -> tuple[float, int]:
    """GPU hours of a fold and seed with its teachers, and the largest memory of a batch."""
    from cmkd.training.build import Role
    from cmkd.training.cost import GPU_MACS, StepCost, Subject, step_cost

    settings: dict[str, Setting] = {}
    taught: set[str] = set()
    gmacs, memory = 0.0, 0

    @cache
    def cost_of(network: str, role: Role) -> StepCost:
        return step_cost(Subject(settings[network], role), data.classes)

    def work(network: str, role: Role, training: TrainingConfig, extra: float) -> float:
        nonlocal memory
        cost, inputs = cost_of(network, role), settings[network].inputs
        memory = max(memory, cost.memory)
        tests = cost.forward * data.test * inputs.test_clips * inputs.test_crops
        return (cost.gmacs + extra) * data.train * training.epochs + tests

    for setting in _settings(sweep):
        # Each network is counted once: weights of losses change nothing in it.
        method = setting.method.model_copy(update=NO_KD)
        network = content_id(setting.student, setting.inputs, setting.training, method)
        teacher = content_id("teacher", setting.teacher)
        settings |= {network: setting, teacher: setting}
        forward = cost_of(teacher, "teacher").forward if setting.needs_teacher else 0.0
        gmacs += work(network, "student", setting.training, forward)
        if setting.needs_teacher and teacher not in taught:
            taught.add(teacher)
            gmacs += work(teacher, "teacher", setting.teacher.training, 0.0)
    return gmacs * 1e9 / GPU_MACS["A100"] / 3600, memory
