"""Names, tags and descriptions of trials and teachers in the tracking store."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cmkd.config.data import DatasetInfo
from cmkd.config.trial import SELECTION_RULE, TrialConfig
from cmkd.provenance import Provenance, this_code
from cmkd.sweep.plan import PlannedTrial, flat
from cmkd.tracking.store import RunIdentity

TEACHER_ARM = "teacher (RGB)"


@dataclass(frozen=True)
class Origin:
    """Common properties of all runs of a sweep.

    Attributes:
        folds: number of folds of the data set, whether or not this sweep trains on all.
        made_by: by id of a trial or teacher, the code that began what the cache has of it.
        choices: by name, the selections of earlier stages and what they were made of.
        about: what the sweep is for, in its own words.
    """

    sweep: str
    info: DatasetInfo
    folds: int
    choices: Mapping[str, str] = field(default_factory=dict)
    made_by: Mapping[str, Sequence[Provenance]] = field(default_factory=dict)
    about: str = ""

    @property
    def experiment(self) -> str:
        """Experiment of the runs: one per sweep and data set."""
        return f"{self.sweep}/{self.info.name}"


def provenance_tags(made_by: Sequence[Provenance]) -> dict[str, str]:
    """Tags of a run by the code that made it: the last, and the first where it is another one."""
    if not made_by:
        return {}
    tags = made_by[-1].tags()
    tags["code"] = " ".join(dict.fromkeys(maker.code for maker in made_by))
    if made_by[0].commit != made_by[-1].commit:
        tags["begun_by"] = made_by[0].commit
    return tags


def trial_identity(trial: PlannedTrial, origin: Origin) -> RunIdentity:
    """The run of a trial."""
    config = trial.config
    tags = {
        **_tags(config, origin, trial.id),
        "kind": "trial",
        "arm": trial.arm,
        "arms": json.dumps(list(trial.arms)),
        "seed": str(config.seed),
        "trial_id": trial.id,
        "setting_id": config.setting.id,
        **{f"selected_{name}": text for name, text in origin.choices.items()},
        **({"added_for": trial.reason[:4000]} if trial.reason else {}),
        **({"proposal": trial.proposal} if trial.proposal else {}),
    }
    params = flat(config.setting.as_json())
    return RunIdentity(trial.id, origin.experiment, trial.name, tags, params, origin.about)


def teacher_identity(config: TrialConfig, origin: Origin) -> RunIdentity:
    """The run of the teacher that `config` is distilled from; its trial id is the teacher id."""
    recipe = config.setting.teacher
    tags = {
        **_tags(config, origin, config.teacher_id),
        "kind": "teacher",
        "arm": TEACHER_ARM,
        "seed": str(config.teacher_seed),
        "trial_id": config.teacher_id,
        "setting_id": config.teacher_id,
    }
    params = flat({"teacher": {**recipe.as_json(), "seed": config.teacher_seed}})
    name = teacher_name(config)
    return RunIdentity(config.teacher_id, origin.experiment, name, tags, params, origin.about)


def teacher_name(config: TrialConfig) -> str:
    """Short label of the teacher of a trial."""
    backbone = config.setting.teacher.backbone
    return f"teacher {backbone} seed {config.teacher_seed} fold {config.fold}"


def _tags(config: TrialConfig, origin: Origin, key: str) -> dict[str, str]:
    official = origin.info.official
    return {
        "sweep": origin.sweep,
        "fold": str(config.fold),
        "folds": str(origin.folds),
        "data": origin.info.name,
        "data_id": config.data_id,
        "data_kind": origin.info.kind,
        "teacher": config.teacher_id,
        "selection": SELECTION_RULE,
        **provenance_tags(origin.made_by.get(key) or [this_code()]),
        **({"data_official": official.model_dump_json()} if official else {}),
    }
