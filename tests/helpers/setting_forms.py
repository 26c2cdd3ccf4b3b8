"""The values that the help of a setting offers."""

from physiq_ray.config import BaseSettings, describe_form


def choices_of(kind: type[BaseSettings], name: str) -> set[str]:
    return set(describe_form(name, kind.model_fields[name]).split("|"))
