"""Check the data before a training or a deletion. Does not import Ray.

count   photos by pose and split, copies, and what the audit could not check
check   read every photo to find unreadable ones and near-duplicates
sheet   some photos of each pose next to each other
report  an audit as text and as plain values
"""

from physiq_ray.auditing.count import audit_manifest
from physiq_ray.auditing.report import describe, to_dict
from physiq_ray.auditing.sheet import write_contact_sheet

__all__ = ["audit_manifest", "describe", "to_dict", "write_contact_sheet"]
