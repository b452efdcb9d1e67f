"""The format of ``sweeps/NAME.yaml``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from cmkd.config.base import Config

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
BlockName = Annotated[str, Field(pattern=NAME)]


class Selection(Config):
    """A decision between stages: the value of `key` that later blocks take as ``$NAME``.

    The arms it is made among are those of the blocks `among`, which differ in `key` alone. It is
    made when all of them have finished with every seed in every fold.
    """

    key: str = Field(description="dotted key of `Setting` that holds a number")
    among: tuple[BlockName, ...] = Field(min_length=1)
    rule: Literal["best_mean_val_acc"] = Field(
        description="highest best_val_acc, mean over seeds and folds; of equal ones the smaller "
        "value of `key`"
    )


class SweepSpec(Config):
    """The file ``sweeps/NAME.yaml``.

    A block maps dotted keys of `Setting` to lists of values; its arms are their product.
    Precedence: block > base > preset > default of the field.
    """

    name: str = Field(pattern=NAME)
    description: str
    data: str = Field(default="synthetic", description="data set when `--data` is not given")
    seeds: int = Field(default=5, ge=1, le=1000, description="paired seeds 0 .. seeds - 1")
    preset: str | None = Field(default=None, description="a name of `cmkd.config.presets`")
    base: dict[str, Any] = {}
    select: dict[BlockName, Selection] = {}
    blocks: dict[BlockName, dict[str, list[Any]]] = Field(min_length=1)
