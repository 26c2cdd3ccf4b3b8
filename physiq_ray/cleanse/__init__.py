"""Find the photos that no label names and, only when asked and confirmed, remove them.

In come buckets and the label file, out comes a plan; what a plan names can be deleted or moved aside, and
brought back where a copy or a version is left. A label file or a listing that is in doubt stops it.

scan      settings → listings and labels → plan
plan      which photos would go, and what speaks against it
planfile  plans written down, to be looked through
remove    carry a plan out
restore   bring back what a journal names
journal   every deletion, before and after
report    plans and results in words, and the rights they need
watch     the label files, read again where they change before the last deletion
"""

from physiq_ray.cleanse.journal import Entry, Journal, name_journal, read_journal
from physiq_ray.cleanse.plan import BucketPlan, CleansePlan, Kept, plan_cleanse
from physiq_ray.cleanse.planfile import format_plan, read_plan
from physiq_ray.cleanse.remove import Removal, check_target, remove_photos
from physiq_ray.cleanse.report import (
    describe_plan,
    describe_removals,
    find_needed_policy,
    needed_policy,
    plan_as_dict,
    removal_as_dict,
)
from physiq_ray.cleanse.restore import Restoral, restore_photos
from physiq_ray.cleanse.scan import parse_buckets, scan_buckets

__all__ = [
    "BucketPlan",
    "CleansePlan",
    "Entry",
    "Journal",
    "Kept",
    "Removal",
    "Restoral",
    "check_target",
    "describe_plan",
    "describe_removals",
    "find_needed_policy",
    "format_plan",
    "name_journal",
    "needed_policy",
    "parse_buckets",
    "plan_as_dict",
    "plan_cleanse",
    "read_journal",
    "read_plan",
    "removal_as_dict",
    "remove_photos",
    "restore_photos",
    "scan_buckets",
]
