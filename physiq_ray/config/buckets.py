"""What the tools that keep buckets need to know: `cleanse` and `sync`."""

from pydantic import Field

from physiq_ray.config.fields import Share
from physiq_ray.config.settings import SourceSettings, SplitSettings


class CleanseSettings(SourceSettings):
    """When a photo that no label names may go."""

    max_delete_share: Share = Field(
        0.5, description="refuse a bucket of whose photos more than this share would go"
    )
    max_unmatched_share: Share = Field(
        0.05, description="refuse a bucket of whose labels more than this share match no photo"
    )
    min_age_hours: float = Field(24.0, ge=0, description="younger photos stay: uploaded, not yet labelled")


class SyncSettings(SplitSettings):
    """How photos are downloaded."""

    transfers: int = Field(32, ge=1, le=256, description="photos downloaded at once")
