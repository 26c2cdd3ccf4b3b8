"""The groups of settings, in the order in which `--help` and docs/settings.md show them.

A setting names its group where it is defined:

    epochs: int = Group.OPTIMISER.field(50, "maximum number of epochs", ge=1)
"""

from enum import Enum
from typing import Any

from pydantic import Field
from pydantic.fields import FieldInfo

_GROUP, _FORM = "group", "form"  # keys of json_schema_extra


class Group(Enum):
    """Settings that are shown together; text completes the sentence "these settings say …"."""

    DATA = ("data", "where photos and labels are")
    SPLIT = ("split", "how photos are divided into training and validation")
    MODEL = ("model", "which network is used, and how it computes")
    OPTIMISER = ("optimiser", "how the weights change")
    REGULARISATION = ("regularisation", "how overfitting is reduced")
    CACHE = ("cache", "where decoded photos are kept")
    CLUSTER = ("cluster", "where a run computes, and which failures it survives")
    RUN = ("run", "what a run is called, and where it is stored")
    MODELS = ("models", "which models answer, and how sure they must be")
    ADDRESS = ("address", "where this machine's service listens")
    ACCESS = ("access", "who may send requests, and which photos a request may name")
    ANSWERS = ("answers", "how photos are read and predicted")
    LIMITS = ("limits", "which requests are refused")
    FEEDBACK = ("feedback", "which photos are kept to be labelled")
    REPLICAS = ("replicas", "how many processes answer, and what each of them has")
    REMOVAL = ("removal", "which photos may be removed")
    DOWNLOAD = ("download", "how photos are downloaded")

    def __init__(self, title: str, text: str) -> None:
        self.title = title
        self.text = text

    def field(self, default: Any, effect: str, *, form: str | None = None, **bounds: Any) -> Any:
        """Define a setting of this group.

        effect: a short phrase with the unit. form: what a value is called in help, such as URI; a setting
        needs one if its values are texts. bounds: as in pydantic's Field.
        """
        extra: dict[str, Any] = {_GROUP: self.name, _FORM: form}
        return Field(default, description=effect, json_schema_extra=extra, **bounds)


def group_of(setting: FieldInfo) -> Group:
    """Give the group in which a setting was defined."""
    return Group[_extra(setting)[_GROUP]]


def given_form(setting: FieldInfo) -> str | None:
    """Give what the definition of a setting calls its values."""
    form: str | None = _extra(setting)[_FORM]
    return form


def _extra(setting: FieldInfo) -> dict[str, Any]:
    extra = setting.json_schema_extra
    if not isinstance(extra, dict):
        raise TypeError(f"{setting!r}: define the setting with Group.….field, not with Field")
    return extra
