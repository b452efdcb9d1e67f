"""The format of ``sweeps/NAME.yaml``."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

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


class Limits(Config):
    """Where a searched value may lie; it is searched by its logarithm."""

    low: float = Field(gt=0)
    high: float = Field(gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low: {self.low} must be less than high: {self.high}")
        return self


class SearchSpec(Config):
    """A search for the values of highest validation accuracy, instead of blocks.

    Each trial is one setting, trained with seed 0 on fold 0.
    """

    ranges: dict[str, Limits] = Field(min_length=1, description="by dotted key of `Setting`")
    epochs: int = Field(ge=1, description="budget: epochs of all trials together")
    batch: int = Field(default=4, ge=1, description="settings proposed at once")
    rungs: tuple[int, ...] = Field(
        default=(), description="epochs after which a trial that lags behind is given up"
    )
    reduction: int = Field(default=2, ge=2, description="one in so many goes on at a rung")
    seed: int = Field(default=0, ge=0, description="of the sampler")

    @property
    def lowest(self) -> dict[str, float]:
        """The lower limits."""
        return {key: one.low for key, one in self.ranges.items()}


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
    search: SearchSpec | None = None
    blocks: dict[BlockName, dict[str, list[Any]]] = Field(default={}, min_length=1)

    @model_validator(mode="after")
    def _blocks_or_search(self) -> Self:
        if bool(self.blocks) == (self.search is not None):
            raise ValueError("give either blocks or search, and not both")
        if self.search is not None and self.seeds != 1:
            raise ValueError("seeds: 1 is all that a search trains a setting with; write it")
        return self
