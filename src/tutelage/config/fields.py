"""What all parts of a recipe's schema are made of."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("each seed may occur once: equal seeds train the same network again")
    return seeds


Names = Annotated[tuple[str, ...], Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1), AfterValidator(_distinct)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1, le=10**9)]
AtOnce = Annotated[int, Field(ge=1, le=2**16)]  # more samples in one call would fill the memory
Threads = Annotated[int, Field(ge=1, le=1024)]


class _Checked(BaseModel):
    """Frozen. Numbers are finite, even if they are written as text."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Strict(_Checked):
    """Frozen, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid")


class Open(_Checked):
    """Frozen; other keys are arguments of what `kind`, `loss` or `model` names."""

    model_config = ConfigDict(extra="allow")
