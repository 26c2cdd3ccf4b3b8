"""Slices and behaviour as lines for a reader, and as sections and limits of the model card."""

from collections.abc import Iterable

from physiq_ray.evaluation.behaviour import CHANGES, LEAST_SHARE, Behaviour
from physiq_ray.evaluation.slices import FEWEST_GROUPS, FEWEST_PHOTOS, Slice, Slices

CARD_SLICES = 8  # in the table of the card, unless more are significantly below the others


def describe_slices(slices: Slices) -> list[str]:
    """Describe how many slices were tested, and those that are significantly below the other photos."""
    tested = f"Slices: {len(slices.tested)} tested{_dimensions(slices)}"
    if not slices.below:
        return [f"{tested}; none is significantly below the other photos"]
    return [
        f"{tested}; significantly below the other photos:",
        *(
            f"  {item.dimension} {item.name}: {item.accuracy:.1%} ({item.interval}) of {item.num_photos} "
            f"photos, the others {item.others:.1%}, p {item.adjusted:.2g}"
            for item in slices.below
        ),
    ]


def describe_behaviour(behaviour: Behaviour) -> list[str]:
    """Describe the share of unchanged answers for each change, with a warning for low ones."""
    if not behaviour.changes:
        return [f"Behaviour: none of {behaviour.num_unreadable} photos could be read again"]
    width = max(map(len, CHANGES))
    return [
        f"Behaviour: share of {behaviour.num_photos} photos whose answer does not change"
        + (f" ({behaviour.num_unreadable} more could not be read)" if behaviour.num_unreadable else ""),
        *(f"  {item.change:<{width}} {item.unchanged:>7.1%}  {item.interval}" for item in behaviour.changes),
        *([f"  WARNING: {_low(behaviour)}"] if behaviour.low else ()),
    ]


def card_sections(slices: Slices | None, behaviour: Behaviour | None) -> list[str]:
    """Give the sections of the model card on slices and behaviour, each if it is known."""
    return [
        *(_slices_section(slices) if slices is not None and slices.tested else ()),
        *(_behaviour_section(behaviour) if behaviour is not None and behaviour.changes else ()),
    ]


def card_limits(slices: Slices | None, behaviour: Behaviour | None) -> list[str]:
    """Give the limits of the model that follow from slices and behaviour."""
    limits = []
    if slices is not None and slices.below:
        names = ", ".join(_named(item) for item in slices.below)
        limits.append(f"The model is significantly less accurate on some photos than on others: {names}.")
    if behaviour is not None and behaviour.low:
        limits.append(f"If photos are changed, {_low(behaviour)}.")
    return limits


def _slices_section(slices: Slices) -> Iterable[str]:
    shown = [item for place, item in enumerate(slices.tested) if place < CARD_SLICES or item.is_below]
    verdict = (
        f"These are significantly below the other photos: {', '.join(map(_named, slices.below))}."
        if slices.below
        else "None of them is significantly below the other photos."
    )
    return (
        *("## Slices", ""),
        f"{len(slices.tested)} slices of the scored photos were tested{_dimensions(slices)}. {verdict} "
        "The p-value comes from Fisher's exact test on effective numbers of photos, with Holm's correction "
        f"over all slices. Slices of fewer than {FEWEST_PHOTOS} photos or {FEWEST_GROUPS} groups were not "
        "tested. The tested slices with the lowest accuracy are:",
        "",
        "| slice | accuracy | 95 % interval | other photos | p | photos | groups |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {_named(item)} | {item.accuracy:.1%} | {item.interval} | {item.others:.1%} "
            f"| {item.adjusted:.2g} | {item.num_photos} | {item.num_groups} |"
            for item in shown
        ),
        "",
    )


def _behaviour_section(behaviour: Behaviour) -> Iterable[str]:
    return (
        *("## Behaviour", ""),
        f"{behaviour.num_photos} of the scored photos were also predicted with changes that keep the pose. "
        "If the model knows a pose and its mirror image as two poses, a mirrored photo has another answer.",
        "",
        "| change | unchanged answers | 95 % interval |",
        "|---|---|---|",
        *(f"| {item.change} | {item.unchanged:.1%} | {item.interval} |" for item in behaviour.changes),
        "",
    )


def _low(behaviour: Behaviour) -> str:
    names = ", ".join(f"{item.change} ({item.unchanged:.1%})" for item in behaviour.low)
    return f"less than {LEAST_SHARE:.0%} of the answers stay the same: {names}"


def _dimensions(slices: Slices) -> str:
    names = dict.fromkeys(item.dimension for item in slices.slices if item.p_value is not None)
    return f" ({', '.join(names)})" if names else ""


def _named(item: Slice) -> str:
    return f"{item.dimension} {item.name}".replace("|", "\\|")
