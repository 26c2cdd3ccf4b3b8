"""The command evaluate: from parsed arguments to an exit status."""

import argparse
import dataclasses
import os
import sys
from collections.abc import Mapping
from typing import Any

from physiq_ray.cli.output import as_json, given, make_display, no_words_of_ray
from physiq_ray.config import Settings, load_settings
from physiq_ray.machine import check_writable


def evaluate_command(args: argparse.Namespace) -> int:
    """Score a model on labelled photos."""
    _evaluate_settings(args)  # wrong ones are named before anything is read
    check_writable("--report", args.report)
    from physiq_ray.checkpoint import load_model_state
    from physiq_ray.evaluation import score, write_report
    from physiq_ray.evaluation.evaluate import evaluate, facts_of_evaluation, find_candidates, split_defaults
    from physiq_ray.evaluation.text import describe_report
    from physiq_ray.storage import absolute_uri

    state = load_model_state(args.model)
    settings = _evaluate_settings(args, defaults=split_defaults(state))
    candidates = find_candidates(settings, state)
    display = make_display(to_stderr=True)
    with display.live(), no_words_of_ray(debug=args.debug):
        found = evaluate(
            candidates.manifest,
            state,
            split=args.split,
            precision=settings.precision,
            batch_size=settings.batch_size,
            on_progress=lambda done, total: display.count("evaluating", done, total),
            debug=args.debug,
        )
    report = score(found.answers, state.class_mapping, state.pose_names, temperature=state.temperature)
    facts = facts_of_evaluation(state, candidates, found, split=args.split, model=args.model)
    files = write_report(report, found.answers, facts, absolute_uri(args.report), history=state.history)
    failed = [f"{source.source}: {source.error}" for source in candidates.manifest.report.failed_sources]
    if args.json:
        left_out = {
            "unreadable": [dataclasses.asdict(item) for item in found.unreadable],
            "unknown_poses": [{"id": id_, "photos": count} for id_, count in found.num_unknown.items()],
            "failed_sources": failed,
        }
        print(as_json(report.to_dict() | left_out | {"files": list(files)}))
    else:
        print(*describe_report(report), "Files:", *(f"  {uri}" for uri in files), sep="\n")
    for pose_id, count in found.num_unknown.items():
        print(f"left out: {count} photos of pose {pose_id}, which the model does not know", file=sys.stderr)
    for item in found.unreadable:
        print(f"physiq-ray evaluate: {item.uri}: {item.error}", file=sys.stderr)
    for sentence in failed:
        print(f"NOT COMPLETE: evaluated without {sentence}", file=sys.stderr)
    return 1 if found.unreadable or failed else 0


def _evaluate_settings(args: argparse.Namespace, *, defaults: Mapping[str, Any] | None = None) -> Settings:
    """Load settings, but for the photos: those are the training's own unless the command itself says others.

    The training's environment may well be this one's: its sources, listed and split again, could put photos
    that were trained on among those to score.
    """
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PHYSIQ_SOURCES", "PHYSIQ_MANIFEST")
    }
    settings = load_settings(given(args), file=args.config, environment=environment, defaults=defaults)
    if args.sources and not args.manifest:  # flags win over the file
        return settings.model_copy(update={"manifest": None})
    if args.manifest and not args.sources:
        return settings.model_copy(update={"sources": ()})
    return settings
