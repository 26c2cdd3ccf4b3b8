"""Plans and results of `erase` as text and as plain values for JSON."""

from collections.abc import Iterator, Sequence
from typing import Any

from physiq_ray.erase.plan import ErasePlan
from physiq_ray.erase.remove import Erased
from physiq_ray.errors import quoted, shown

EXAMPLES = 5
ONLY_LOOKED = (
    "Nothing was erased: this was only a look. --delete erases these photos and their traces for ever."
)
NOTHING_FOUND = "No photo and no trace was found."


def describe_plan(plan: ErasePlan) -> Iterator[str]:
    """Give the lines that describe a plan."""
    photos = plan.photos
    markers = sum(item.is_marker for item in photos.stored)
    uris = sorted({item.uri for item in photos.stored})
    copies = sum(uri not in photos.wanted for uri in uris)
    if uris:
        yield (
            f"photos: {len(uris)} ({copies} of them copies under other names), "
            f"{len(photos.stored) - markers} versions, {markers} delete markers"
        )
    yield from _name_some(f"{shown(uri)}{'' if uri in photos.wanted else ' (a copy)'}" for uri in uris)
    for place in dict.fromkeys(trace.place for trace in plan.traces):
        traces = [trace for trace in plan.traces if trace.place == place]
        yield f"{place}: {sum(trace.count for trace in traces)} traces in {len(traces)} files"
        yield from _name_some(f"{trace.stored}: {trace.count}" for trace in traces)
    if plan.trained:
        yield "models that used these photos and must be retrained:"
        for run in plan.trained:
            model = run.model or "it is not known where its model is"
            yield f"  run {run.run}: {run.num_trained} photos to train on, of {run.num_used}; {model}"
            yield f"    its reports, and its checkpoints in {shown(run.folder)}, may name or show photos too"
    yield from _describe_leftovers(plan)


def _describe_leftovers(plan: ErasePlan) -> Iterator[str]:
    """Give the lines on what `erase` leaves to the user."""
    photos = plan.photos
    for names, sentence in (
        (photos.labels, "names in the label files are left: remove their records where the files are made"),
        (photos.ambiguous, "labels of the group may mean several photos: name the right ones with --uris"),
    ):
        if names:
            yield f"{len(names)} {sentence}"
            yield from _name_some(map(quoted, names))
    if photos.others:
        yield f"{len(photos.others)} objects match, but are no photos and stay: name them with --uris"
        yield from _name_some(map(shown, photos.others))


def describe_results(results: Sequence[Erased]) -> Iterator[str]:
    """Give a line for each place."""
    for result in results:
        failed = f", {len(result.failures)} failed" if result.failures else ""
        yield f"{result.place}: {result.num_erased} erased{failed}"


def plan_as_dict(plan: ErasePlan) -> dict[str, Any]:
    """Give a plan as plain values, for JSON."""
    photos = plan.photos
    return {
        "items": plan.num_items,
        "photos": [
            {
                "uri": item.uri,
                "version": item.version,
                "is_marker": item.is_marker,
                "is_copy": item.uri not in photos.wanted,
            }
            for item in photos.stored
        ],
        "traces": [
            {
                "place": trace.place,
                "uri": trace.stored.uri,
                "version": trace.stored.version,
                "count": trace.count,
                "is_rewritten": trace.drop is not None,
            }
            for trace in plan.traces
        ],
        "trained": [
            {
                "run": run.run,
                "folder": run.folder,
                "model": run.model,
                "trained_on": run.num_trained,
                "used": run.num_used,
            }
            for run in plan.trained
        ],
        "labels": list(photos.labels),
        "ambiguous_labels": list(photos.ambiguous),
        "others": list(photos.others),
        "problems": list(plan.problems),
    }


def results_as_dict(results: Sequence[Erased]) -> list[dict[str, Any]]:
    """Give what happened in each place as plain values, for JSON."""
    return [
        {"place": result.place, "erased": result.num_erased, "failures": list(result.failures)}
        for result in results
    ]


def _name_some(items: Iterator[str]) -> Iterator[str]:
    lines = list(items)
    yield from (f"  {line}" for line in lines[:EXAMPLES])
    if len(lines) > EXAMPLES:
        yield f"  … and {len(lines) - EXAMPLES} more"
