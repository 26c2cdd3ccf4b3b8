"""Find the photos that no label names and, only if asked and confirmed, remove them.

The buckets and the label files go in; a plan comes out. The photos of a plan can be deleted or moved, and
restored as long as a copy or a version of them exists. They can also be tagged for a lifecycle rule. Any
doubt about a label file or a listing stops it.

scan      settings → listings and labels → plan
plan      which photos would be removed, and what prevents it
planfile  plan files, which a person can review
batches   carry out a plan in batches, with the labels read again before each
sheet     the photos of a plan as pages of thumbnails; it imports Pillow, so this module does not import it
remove    delete or move a plan's photos, batch by batch
tag       tag a plan's photos for a lifecycle rule, and remove the tag from all others
restore   put the photos that a journal names back in their place
journal   the file that names every photo before and after its removal
report    results as text and JSON, and the rights that a role needs
watch     have the label files changed between the scan and the last deletion?
"""

from physiq_ray.cleanse.journal import Journal, name_journal, read_journal
from physiq_ray.cleanse.plan import CleansePlan, plan_cleanse
from physiq_ray.cleanse.planfile import format_plan, read_plan
from physiq_ray.cleanse.remove import check_target, remove_photos
from physiq_ray.cleanse.report import (
    ONLY_SCANNED,
    describe_plan,
    describe_removals,
    describe_restoral,
    describe_tags,
    describe_untagging,
    find_needed_policy,
    plan_as_dict,
    removal_as_dict,
    restoral_as_dict,
    tags_as_dict,
)
from physiq_ray.cleanse.restore import restore_photos
from physiq_ray.cleanse.scan import parse_buckets, scan_buckets
from physiq_ray.cleanse.tag import (
    describe_lifecycle,
    make_lifecycle,
    tag_photos,
    untag_buckets,
    untag_staying,
)

__all__ = [
    "ONLY_SCANNED",
    "CleansePlan",
    "Journal",
    "check_target",
    "describe_lifecycle",
    "describe_plan",
    "describe_removals",
    "describe_restoral",
    "describe_tags",
    "describe_untagging",
    "find_needed_policy",
    "format_plan",
    "make_lifecycle",
    "name_journal",
    "parse_buckets",
    "plan_as_dict",
    "plan_cleanse",
    "read_journal",
    "read_plan",
    "removal_as_dict",
    "remove_photos",
    "restoral_as_dict",
    "restore_photos",
    "scan_buckets",
    "tag_photos",
    "tags_as_dict",
    "untag_buckets",
    "untag_staying",
]
