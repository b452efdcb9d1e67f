"""``reports/claims.yaml``: sentences of the paper as statements that runs decide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from cmkd.config.base import Config
from cmkd.config.paths import packaged
from cmkd.config.spec import NAME
from cmkd.config.yaml_loader import explain, read_yaml, suggest
from cmkd.errors import ConfigError
from cmkd.report.arms import ArmQuery, Family
from cmkd.report.paper import RowCost

TEACHER = "teacher"
"""The name of the RGB teacher where an arm is expected."""

ClaimName = Annotated[str, Field(pattern=NAME)]


class Statement(Config):
    """What all claims say about themselves."""

    says: str = Field(min_length=1, description="the sentence, in our words")
    source: str = Field(min_length=1, description="where the paper says it")


class AccuracyClaim(Statement):
    """Holds where each pair ``[a, b]`` of arms does what `kind` says.

    better: a is above b. near: a is above b - margin. equal: a is within the margin of b.
    """

    kind: Literal["better", "near", "equal"]
    margin: float = Field(default=0.0, ge=0, description="points")
    sweep: str = Field(min_length=1, description="the spec that has the arms")
    halves: tuple[Family, ...] = Field(min_length=1, description="a claim of its own in each")
    pairs: tuple[tuple[str, str], ...] = Field(min_length=1, description="names in `arms`")

    @model_validator(mode="after")
    def _margin_fits(self) -> Self:
        if (self.kind == "better") == (self.margin > 0):
            wanted = "no margin" if self.kind == "better" else "a margin above 0"
            raise ValueError(f"margin: kind {self.kind!r} takes {wanted}")
        return self


class CostClaim(Statement):
    """Holds where `ours` takes fewer multiply-accumulates than `than`."""

    kind: Literal["cheaper"]
    half: Family
    ours: RowCost
    than: RowCost


class Claims(Config):
    """The file. `level` is the probability of any false verdict about accuracy on a data set."""

    level: float = Field(gt=0, lt=0.5)
    arms: dict[str, ArmQuery]
    claims: dict[ClaimName, Annotated[AccuracyClaim | CostClaim, Field(discriminator="kind")]] = (
        Field(min_length=1)
    )


def load_claims() -> Claims:
    """The claims that come with the project; errors as `read_claims`."""
    return read_claims(packaged("reports", "claims.yaml"))


def read_claims(path: Path) -> Claims:
    """The claims in the file `path`.

    Raises:
        ConfigError: with file, line and key, when the file is not such a list, or a pair names an
            arm that is not there or compares an arm with itself.
    """
    document = read_yaml(path)
    try:
        claims = Claims.model_validate_json(json.dumps(document.data, default=str))
    except ValidationError as error:
        keys, message = explain(error, Claims)
        raise ConfigError(f"{document.where(*keys)}: {message}") from None
    known = [*claims.arms, TEACHER]
    if TEACHER in claims.arms:
        raise ConfigError(f"{document.where('arms', TEACHER)}: {TEACHER!r} is the RGB teacher")
    for name, claim in claims.claims.items():
        for number, pair in enumerate(claim.pairs if isinstance(claim, AccuracyClaim) else ()):
            where = document.where("claims", name, "pairs", str(number))
            for arm in pair:
                if arm not in known:
                    raise ConfigError(f"{where}: no arm {arm!r}{suggest(arm, known)}")
            if pair[0] == pair[1] or pair[0] == TEACHER:
                raise ConfigError(
                    f"{where}: {list(pair)} does not compare a student with another arm"
                )
    return claims
