"""The commands train, audit, evaluate and demo: from parsed arguments to an exit status."""

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from physiq_ray.cli.show import (
    as_json,
    given,
    make_display,
    no_words_of_ray,
    print_prediction,
    print_report,
    print_result,
    summarise,
)
from physiq_ray.config import Settings, load_settings
from physiq_ray.errors import SettingError
from physiq_ray.machine import check_writable


def train_command(args: argparse.Namespace) -> int:
    """Train, or go on with a run, and print what came of it."""
    settings = load_settings(given(args), file=args.config)
    if not args.resume:
        _check_inputs(settings)
    from physiq_ray.training.run import train

    display = make_display(to_stderr=args.json)
    with no_words_of_ray(debug=args.debug) if args.json else contextlib.nullcontext():
        result = train(settings, display, resume=args.resume, debug=args.debug)
    if args.json:
        print(as_json(summarise(result)))
    else:
        print_result(result)
    return 1 if result.failed_sources else 0


def _check_inputs(settings: Settings) -> None:
    """Refuse wrong sources, poses, labels and folders at once: Ray and torch take seconds to import.

    Raises SettingError, LabelError, StorageError.
    """
    check_writable("output", settings.output)
    check_writable("storage", settings.storage)
    from physiq_ray.labels import load_configured_poses, load_labels
    from physiq_ray.storage import parse_sources

    poses = load_configured_poses(settings)
    if settings.manifest is None:
        parse_sources(settings.sources)
        if "labels" in settings.model_fields_set:  # without a file, folders may be labels enough
            for address in settings.labels:
                # One that is there is read once, when the sources are listed.
                if not address.startswith("s3://") and not Path(address).exists():
                    load_labels([address], poses)


def audit_command(args: argparse.Namespace) -> int:
    """Count and check photos and labels."""
    settings = load_settings(given(args), file=args.config)
    from physiq_ray.audit import audit_manifest, describe, load_hash, to_dict, write_contact_sheet
    from physiq_ray.labels import load_configured_poses
    from physiq_ray.manifest import survey_photos
    from physiq_ray.storage import absolute_uri, write_bytes

    for name, file in (("--manifest", args.manifest_output), ("--sheet", args.sheet)):
        if file:
            check_writable(name, file, is_file=True)
    if args.near_duplicates:
        load_hash()  # before a listing that may take long
    poses = load_configured_poses(settings)
    manifest = survey_photos(settings, poses)
    problem = manifest.report.problem
    if args.check_photos or args.near_duplicates:
        display = make_display(to_stderr=True)
        with display.live():
            audit = audit_manifest(
                manifest,
                poses,
                check_photos=True,
                near_duplicates=args.near_duplicates,
                on_progress=lambda done, total: display.count("reading", done, total),
            )
    else:
        audit = audit_manifest(manifest, poses)
    # The report first: a file that cannot be written must not cost what took hours to find.
    if not args.json:
        print("\n".join(describe(audit)), flush=True)
    for sentence in audit.not_looked_at:
        print(f"NOT COMPLETE: {sentence}", file=sys.stderr)
    if problem is not None:
        print(f"physiq-ray audit: {problem}", file=sys.stderr)
    if problem is not None and args.manifest_output:
        print(f"NOT WRITTEN: {args.manifest_output}: no manifest to train on", file=sys.stderr)
    if not manifest.table.num_rows and args.sheet:
        print(f"NOT WRITTEN: {args.sheet}: no labelled photo to show", file=sys.stderr)
    files = []
    try:
        if problem is None and args.manifest_output:
            uri = absolute_uri(args.manifest_output)
            write_bytes(manifest.to_parquet(), uri)
            files.append(uri)
        if manifest.table.num_rows and args.sheet:
            uri = absolute_uri(args.sheet)
            write_contact_sheet(manifest, poses, uri, seed=settings.seed)
            files.append(uri)
    finally:
        if args.json:
            print(as_json(to_dict(audit) | {"files": files}))
        else:
            print("".join(f"wrote {uri}\n" for uri in files), end="")
    return 1 if audit.not_looked_at or problem is not None else 0


def evaluate_command(args: argparse.Namespace) -> int:
    """Score a model on labelled photos."""
    _evaluate_settings(args)  # wrong ones are named before anything is read
    check_writable("--report", args.report)
    from physiq_ray.checkpoint import load_model_state
    from physiq_ray.evaluation import score, write_report
    from physiq_ray.evaluation.candidates import find_candidates, split_defaults
    from physiq_ray.evaluation.evaluate import evaluate
    from physiq_ray.evaluation.facts import facts_of_evaluation
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
        print_report(report)
        print("Files:")
        for uri in files:
            print(f"  {uri}")
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


def demo_command(args: argparse.Namespace) -> int:
    """Run the whole main path on photos of its own or the user's."""
    if (args.photos is None) != (args.labels is None):
        raise SettingError(
            "--photos and --labels go together: a folder of photos and the labels of its photos"
        )
    check_writable("--folder", args.folder)
    from physiq_ray.demo import run_demo

    display = make_display(to_stderr=False)
    demo = run_demo(
        Path(args.folder),
        display,
        flags=given(args),
        photos=Path(args.photos) if args.photos else None,
        labels=args.labels or (),
        debug=args.debug,
    )
    print_result(demo.training)
    print(f"\nA photo it was not trained on{f' ({demo.truth})' if demo.truth else ''}:")
    print_prediction(demo.prediction, demo.figure)
    print(f"\n{demo.next_steps}")
    return 1 if demo.training.failed_sources else 0
