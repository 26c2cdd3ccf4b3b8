"""Every setting of physiq_ray: its name, default, unit and effect, in one place.

In come a TOML file, the environment (`PHYSIQ_<NAME>`) and command-line values, the later winning; out
comes one frozen group of settings, checked before any work starts. Flags, help and the README's tables are
generated from the fields, so a setting is written down once.

settings   what training, auditing, evaluating and predicting need
serving    what the HTTP service needs
buckets    what cleanse and sync need
load       merge the layers, check, and name what is wrong
"""

from physiq_ray.config.buckets import CleanseSettings, SyncSettings
from physiq_ray.config.load import load_settings
from physiq_ray.config.serving import LiveSettings, LocalServingSettings, ServingSettings
from physiq_ray.config.settings import Settings, SourceSettings, SplitSettings

__all__ = [
    "CleanseSettings",
    "LiveSettings",
    "LocalServingSettings",
    "ServingSettings",
    "Settings",
    "SourceSettings",
    "SplitSettings",
    "SyncSettings",
    "load_settings",
]
