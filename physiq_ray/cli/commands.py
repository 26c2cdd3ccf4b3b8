"""The commands train, audit, evaluate and demo: from parsed arguments to an exit status."""

import argparse
import contextlib
import json
import sys
from pathlib import Path

from physiq_ray.cli.show import (
    given,
    make_display,
    no_words_of_ray,
    print_prediction,
    print_report,
    print_result,
    summarise,
)
from physiq_ray.config import load_settings
from physiq_ray.errors import SettingError


def train_command(args: argparse.Namespace) -> int:
    """Train, or go on with a run, and print what came of it."""
    settings = load_settings(given(args), file=args.config)
    from physiq_ray.training.run import train

    display = make_display(to_stderr=args.json)
    with no_words_of_ray(debug=args.debug) if args.json else contextlib.nullcontext():
        result = train(settings, display, resume=args.resume, debug=args.debug)
    if args.json:
        print(json.dumps(summarise(result), indent=2))
    else:
        print_result(result)
    return 1 if result.failed_sources else 0


def audit_command(args: argparse.Namespace) -> int:
    """Count and check photos and labels."""
    settings = load_settings(given(args), file=args.config)
    from physiq_ray.audit import audit_manifest, write_contact_sheet
    from physiq_ray.labels import load_poses
    from physiq_ray.manifest import survey_photos
    from physiq_ray.storage import absolute_uri, write_bytes

    poses = load_poses(Path(settings.poses))
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
        print("\n".join(audit.describe()), flush=True)
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
            print(json.dumps(audit.to_dict() | {"files": files}, indent=2, ensure_ascii=False))
        else:
            print("".join(f"wrote {uri}\n" for uri in files), end="")
    return 1 if audit.not_looked_at or problem is not None else 0


def evaluate_command(args: argparse.Namespace) -> int:
    """Score a model on labelled photos."""
    load_settings(given(args), file=args.config)  # wrong ones are named before anything is read
    from physiq_ray.checkpoint import load_model_state
    from physiq_ray.evaluation import score, write_report
    from physiq_ray.evaluation.evaluate import collect_facts, evaluate, find_manifest, split_defaults
    from physiq_ray.storage import absolute_uri

    state = load_model_state(args.model)
    settings = load_settings(given(args), file=args.config, defaults=split_defaults(state))
    manifest = find_manifest(settings, state)
    display = make_display(to_stderr=True)
    with display.live():
        found = evaluate(
            manifest,
            state,
            split=args.split,
            precision=settings.precision,
            batch_size=settings.batch_size,
            on_progress=lambda done, total: display.count("evaluating", done, total),
            debug=args.debug,
        )
    report = score(found.answers, state.class_mapping, state.pose_names, temperature=state.temperature)
    facts = collect_facts(
        state,
        manifest,
        run_name=str(state.settings.get("run_name") or args.model),
        scored_on=f"the photos of split {args.split!r}",
        unreadable=found.unreadable,
    )
    files = write_report(report, found.answers, facts, absolute_uri(args.report), history=state.history)
    if args.json:
        print(json.dumps(report.to_dict() | {"files": list(files)}, indent=2, ensure_ascii=False))
    else:
        print_report(report)
        print("Files:")
        for uri in files:
            print(f"  {uri}")
    for pose_id, count in found.num_unknown.items():
        print(f"left out: {count} photos of pose {pose_id}, which the model does not know", file=sys.stderr)
    for item in found.unreadable:
        print(f"physiq-ray evaluate: {item.uri}: {item.error}", file=sys.stderr)
    for source in manifest.report.failed_sources:
        print(f"NOT COMPLETE: evaluated without {source.source}: {source.error}", file=sys.stderr)
    return 1 if found.unreadable or manifest.report.failed_sources else 0


def demo_command(args: argparse.Namespace) -> int:
    """Run the whole main path on photos of its own or the user's."""
    if (args.photos is None) != (args.labels is None):
        raise SettingError(
            "--photos and --labels go together: a folder of photos and the labels of its photos"
        )
    from physiq_ray.sample.demo import run_demo

    display = make_display(to_stderr=False)
    demo = run_demo(
        Path(args.folder),
        display,
        flags=given(args),
        photos=Path(args.photos) if args.photos else None,
        labels=Path(args.labels) if args.labels else None,
        debug=args.debug,
    )
    print_result(demo.training)
    print(f"\nA photo it was not trained on{f' ({demo.truth})' if demo.truth else ''}:")
    print_prediction(demo.prediction, demo.figure)
    print(f"\n{demo.next_steps}")
    return 1 if demo.training.failed_sources else 0
