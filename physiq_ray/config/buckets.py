"""The settings of the bucket tools, `cleanse` and `sync`."""

from physiq_ray.config.base import Share
from physiq_ray.config.groups import Group
from physiq_ray.config.settings import SourceSettings, SplitSettings


class CleanseSettings(SourceSettings):
    """When an unlabelled photo may be removed."""

    max_delete_share: Share = Group.REMOVAL.field(
        0.5, "largest share of a bucket's photos that may be removed; if it is more, none are"
    )
    max_unmatched_share: Share = Group.REMOVAL.field(
        0.05, "largest share of a bucket's labels without a photo; if it is more, no photo is removed"
    )
    min_age_hours: float = Group.REMOVAL.field(
        24.0, "hours since the upload before which a photo is not removed: its label may follow", ge=0
    )


class SyncSettings(SplitSettings):
    """How photos are downloaded."""

    transfers: int = Group.DOWNLOAD.field(32, "number of photos downloaded at once", ge=1, le=256)
