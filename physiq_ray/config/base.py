"""What all classes of settings share: the base class, kinds of fields, and how a value is written."""

import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from pydantic.fields import FieldInfo

from physiq_ray.config.groups import Group, given_form, group_of

# The end of a number's name says its unit.
_UNITS = {
    "_s": "SECONDS",
    "_hours": "HOURS",
    "_share": "SHARE",
    "_bytes": "BYTES",
    "_gib": "GIB",
    "_pixels": "PIXELS",
}


def split_commas(value: object) -> object:
    """Split the text of an environment variable or of a TOML file into the items of a list."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Share = Annotated[float, Field(ge=0, le=1)]
Texts = Annotated[tuple[str, ...], BeforeValidator(split_commas)]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


class BaseSettings(BaseModel):
    """Settings with their defaults, types and bounds.

    They are frozen and made of plain values, so that they can be sent to Ray's processes. No setting is a
    secret: AWS access comes from the standard chain (profile, environment, role, AWS_ENDPOINT_URL).
    """

    # defer_build: the checks of a class are built when it is first used, so that a command does not wait for
    # those of the other commands.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_booleans(cls, value: object) -> object:
        if isinstance(value, bool):  # pydantic would take true and false for the numbers 1 and 0
            raise ValueError("true and false are not allowed here")
        return value

    @classmethod
    def names_by_group(cls) -> dict[Group, list[str]]:
        """Give the names of the settings by group, in the order in which they are shown."""
        names: dict[Group, list[str]] = {group: [] for group in Group}
        for name, setting in cls.model_fields.items():
            names[group_of(setting)].append(name)
        return {group: members for group, members in names.items() if members}


def describe_form(name: str, setting: FieldInfo) -> str:
    """Say in a word how a value of a setting is written: its choices, its unit, or what it names.

    Raises ValueError: the values are texts, and the definition does not say what they are.
    """
    if form := given_form(setting):
        return form
    kinds = list(_flatten(setting.annotation))
    choices = [kind for kind in kinds if isinstance(kind, str)]
    if choices:
        return "|".join(choices)
    if int in kinds or float in kinds:
        return next((unit for end, unit in _UNITS.items() if name.endswith(end)), "NUMBER")
    raise ValueError(f"{name}: say with form what its values are")


def _flatten(annotation: Any) -> Iterator[Any]:
    """Give the types and the choices of which an annotation is made."""
    parts = typing.get_args(annotation)
    if not parts:
        yield annotation
    for part in parts:
        yield from _flatten(part)
