"""How trials and teachers are named, tagged and described in the tracking store."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import cmkd
from cmkd.config.data import DatasetInfo
from cmkd.config.trial import SELECTION_RULE, TrialConfig
from cmkd.sweep.plan import PlannedTrial, flat
from cmkd.tracking.store import RunIdentity

TEACHER_ARM = "teacher (RGB)"


@dataclass(frozen=True)
class Origin:
    """What all runs of one sweep have in common.

    Attributes:
        folds: number of folds of the data set, whether or not this sweep trains on all.
        commit: see `code_version`.
        choices: by name, the selections of earlier stages and what they were made of.
        about: what the sweep is for, in its own words.
    """

    sweep: str
    info: DatasetInfo
    folds: int
    commit: str
    choices: Mapping[str, str] = field(default_factory=dict)
    about: str = ""

    @property
    def experiment(self) -> str:
        """Where the runs are shown: one experiment per sweep and data set."""
        return f"{self.sweep}/{self.info.name}"


def trial_identity(trial: PlannedTrial, origin: Origin) -> RunIdentity:
    """The run of a trial."""
    config = trial.config
    tags = {
        **_tags(config, origin),
        "kind": "trial",
        "arm": trial.arm,
        "arms": json.dumps(list(trial.arms)),
        "seed": str(config.seed),
        "trial_id": trial.id,
        "setting_id": config.setting.id,
        **{f"selected_{name}": text for name, text in origin.choices.items()},
        **({"added_for": trial.reason[:4000]} if trial.reason else {}),
    }
    params = flat(config.setting.as_json())
    return RunIdentity(trial.id, origin.experiment, trial.name, tags, params, origin.about)


def teacher_identity(config: TrialConfig, origin: Origin) -> RunIdentity:
    """The run of the teacher that `config` is distilled from; its trial id is the teacher id."""
    recipe = config.setting.teacher
    tags = {
        **_tags(config, origin),
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


def _tags(config: TrialConfig, origin: Origin) -> dict[str, str]:
    official = origin.info.official
    return {
        "sweep": origin.sweep,
        "fold": str(config.fold),
        "folds": str(origin.folds),
        "data": origin.info.name,
        "data_id": config.data_id,
        "data_kind": origin.info.kind,
        "teacher": config.teacher_id,
        "git_commit": origin.commit,
        "selection": SELECTION_RULE,
        **({"data_official": official.model_dump_json()} if official else {}),
    }


def code_version() -> str:
    """Commit of the checkout that runs, with ``-dirty`` when it was edited; else the version."""
    folder = Path(cmkd.__file__).resolve().parents[1]
    if (folder / ".git").exists():
        try:
            commit = _git(folder, "rev-parse", "HEAD")
            return commit + ("-dirty" if _git(folder, "status", "--porcelain") else "")
        except (OSError, subprocess.CalledProcessError):
            pass
    return metadata.version("cmkd")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
