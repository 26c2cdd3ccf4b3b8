"""Tell fitness poses apart in athletes' photos: S3 buckets, Ray Data, Ray Train, Ray Serve.

The commands are functions here, too; `physiq_ray.api` describes them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from physiq_ray.api.audit import audit
    from physiq_ray.api.evaluate import evaluate
    from physiq_ray.api.predict import predict
    from physiq_ray.api.sync import sync
    from physiq_ray.api.train import train
    from physiq_ray.config import Settings, SplitSettings, SyncSettings

__all__ = [
    "Settings",
    "SplitSettings",
    "SyncSettings",
    "audit",
    "evaluate",
    "predict",
    "sync",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a function or a class of settings when it is used first: Ray and torch take seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "physiq_ray.config" if name.endswith("Settings") else f"physiq_ray.api.{name}"
    return getattr(import_module(module), name)
