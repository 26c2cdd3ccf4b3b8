"""Tell fitness poses apart in athletes' photos: S3 buckets, Ray Data, Ray Train, Ray Serve.

The commands are functions here, too; `physiq_ray.api` describes them.
"""

from typing import TYPE_CHECKING

from physiq_ray.lazy import import_when_used

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


# Ray and torch take seconds to import.
__getattr__ = import_when_used(
    __name__,
    {
        **{f"api.{name}": (name,) for name in ("audit", "evaluate", "predict", "sync", "train")},
        "config": ("Settings", "SplitSettings", "SyncSettings"),
    },
)
