"""Find all photos of a person and their traces and, only if asked and confirmed, erase them for ever.

The buckets, the labels, the journals of `cleanse` and a request go in; a plan comes out, and a report of what
was erased where. Other than `cleanse`, `erase` deletes all versions, and nothing can be restored.

plan    settings → what would be erased, and what could not be searched
choose  which versions of which objects are the person's (with a truth table)
traces  which files hold traces of the photos (with a table of the places), and which runs used them
drop    the bytes of a file → the bytes without the photos' rows or lines
named   lists of addresses, and the journal of a run
remove  the order of the removal
report  plans and results as text and JSON
"""

from physiq_ray.erase.choose import Request
from physiq_ray.erase.named import JOURNALS, read_named, write_named
from physiq_ray.erase.plan import ErasePlan, plan_erase
from physiq_ray.erase.remove import erase_photos
from physiq_ray.erase.report import (
    NOTHING_FOUND,
    ONLY_LOOKED,
    describe_plan,
    describe_results,
    plan_as_dict,
    results_as_dict,
)
from physiq_ray.erase.traces import Places

__all__ = [
    "JOURNALS",
    "NOTHING_FOUND",
    "ONLY_LOOKED",
    "ErasePlan",
    "Places",
    "Request",
    "describe_plan",
    "describe_results",
    "erase_photos",
    "plan_as_dict",
    "plan_erase",
    "read_named",
    "results_as_dict",
    "write_named",
]
