"""A manifest from listings and labels in one call, as training gets it."""

from typing import Any

from physiq_ray.manifest import Manifest, match_photos, require_trainable


def build_manifest(*args: Any, **options: Any) -> Manifest:
    """Call match_photos and refuse what cannot be trained on."""
    return require_trainable(match_photos(*args, **options))
