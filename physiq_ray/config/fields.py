"""Kinds of fields that several groups of settings have."""

from typing import Annotated, Literal

from pydantic import Field

Share = Annotated[float, Field(ge=0, le=1)]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


def split_commas(value: object) -> object:
    """Environment and TOML may give a list as one comma-separated string."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def refuse_booleans(value: object) -> object:
    """Pydantic takes true and false for the numbers 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("a boolean means nothing here")
    return value
