"""The state of the data before anyone trains on it or deletes any of it. No Ray.

count   photos by pose and split, copies, and what the audit could not look at
check   read every photo: bad ones, and near-duplicates
sheet   some photos of each pose next to each other
report  an audit as text and as plain values
"""

from physiq_ray.audit.check import load_hash
from physiq_ray.audit.count import audit_manifest
from physiq_ray.audit.report import describe, to_dict
from physiq_ray.audit.sheet import write_contact_sheet

__all__ = ["audit_manifest", "describe", "load_hash", "to_dict", "write_contact_sheet"]
