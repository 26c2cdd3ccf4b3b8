"""All settings: their names, defaults, units and effects, each written down once.

A TOML file, the environment (`PHYSIQ_<NAME>`) and the flags of a command are merged and checked before any
work starts. The result is one frozen object. Flags, help and docs/settings.md are generated from the classes.

base       the base class; kinds of fields; what a value is called in help
groups     the groups in which help and docs show the settings, and their order
settings   what train, audit, evaluate, predict and demo need; photos, labels and split
serving    what the HTTP service needs
buckets    what cleanse and sync need
load       whether file, environment or flag wins, and how a wrong value is reported
written    settings → a TOML file with their origins
"""

from physiq_ray.config.base import BaseSettings, describe_form
from physiq_ray.config.buckets import CleanseSettings, SyncSettings
from physiq_ray.config.groups import Group
from physiq_ray.config.load import find_origins, load_settings
from physiq_ray.config.serving import LiveSettings, LocalServingSettings, ServingSettings
from physiq_ray.config.settings import SPLIT_FIELDS, Settings, SourceSettings, SplitSettings
from physiq_ray.config.written import write_toml

__all__ = [
    "SPLIT_FIELDS",
    "BaseSettings",
    "CleanseSettings",
    "Group",
    "LiveSettings",
    "LocalServingSettings",
    "ServingSettings",
    "Settings",
    "SourceSettings",
    "SplitSettings",
    "SyncSettings",
    "describe_form",
    "find_origins",
    "load_settings",
    "write_toml",
]
