"""The ranked photos as lines for a reader."""

from physiq_ray.errors import shown
from physiq_ray.suspects.found import Suspects

SHOWN_PHOTOS, SHOWN_PAIRS = 15, 10
LOW_AGREEMENT = 0.7


def describe_suspects(suspects: Suspects) -> list[str]:
    """Describe the first photos, the likely wrong labels by bucket and by pair of poses, and the limits."""
    photos, pairs = suspects.ranked, suspects.pairs
    hidden = len(pairs) - SHOWN_PAIRS
    num_wrong, is_weak = suspects.num_likely_wrong, suspects.agreement < LOW_AGREEMENT
    return [
        f"{len(photos)} photos ranked: {num_wrong} labels are likely wrong, those of the first {num_wrong}",
        f"  {'rank':>6}  {'labelled':<28}  {'suggested':<28}  photo",
        *(
            f"  {photo.rank:>6}  {suspects.name(photo.pose_id):<22.22}{photo.probability:>6.1%}  "
            f"{suspects.name(photo.suggested_pose_id):<22.22}{photo.suggested_probability:>6.1%}  "
            f"{shown(photo.uri)}"
            for photo in photos[:SHOWN_PHOTOS]
        ),
        "Likely wrong labels by bucket:",
        *(
            f"  {shown(bucket)}: {wrong} of {total} ({wrong / total:.1%})"
            for bucket, (total, wrong) in suspects.buckets.items()
        ),
        *(["Likely wrong labels by pair of poses:"] if pairs else []),
        *(
            f"  {count:>6}  {suspects.name(label)} → {suspects.name(other)}"
            for label, other, count in pairs[:SHOWN_PAIRS]
        ),
        *([f"  and {hidden} more pairs"] if hidden > 0 else []),
        f"For {suspects.agreement:.1%} of the photos, the label is the most probable pose."
        + (" This is too few to trust the ranking: train longer, or on more photos." if is_weak else ""),
        *suspects.limits,
    ]
