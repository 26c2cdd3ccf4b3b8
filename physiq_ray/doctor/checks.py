"""All checks of a run: settings and a model → findings, in the order of the report."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from physiq_ray.config import Settings
from physiq_ray.constants import COMPLETE_FILE, WEIGHTS_WORDS
from physiq_ray.doctor.access import CHECK as S3
from physiq_ray.doctor.access import Trials, check_credentials, report_s3
from physiq_ray.doctor.buckets import check_folder, check_source, check_target
from physiq_ray.doctor.devices import check_devices
from physiq_ray.doctor.files import check_labels, check_poses, check_readable
from physiq_ray.doctor.finding import Finding, State, hide_passwords
from physiq_ray.doctor.nodes import CHECK as RAY
from physiq_ray.doctor.nodes import check_cluster
from physiq_ray.doctor.proxies import check_proxies
from physiq_ray.doctor.resources import (
    RAY_FOLDER,
    check_disk,
    check_ray_folder,
    check_resources,
)
from physiq_ray.doctor.schedule import Check, run_checks
from physiq_ray.doctor.versions import check_versions
from physiq_ray.storage import (
    Bucket,
    Source,
    current_access,
    follow_settings,
    join_uri,
    parse_sources,
    split_uri,
)

PLACES: Final = ("output", "storage", "cache_dir")  # settings that name where results are written
DEADLINE_S: Final = 14.0  # from the start of the command, as imports take seconds on a busy machine
LEAST_S: Final = 5.0
REPORT_S: Final = 1.0  # a process is stopped so long before the deadline, so that what it found is reported
CLEAN_UP_S: Final = 2.0


def examine(settings: Settings, *, model: str | None = None, started_s: float) -> list[Finding]:
    """Run all checks at the same time, and report within DEADLINE_S + CLEAN_UP_S.

    started_s: when the command started, by time.monotonic().
    Only what was requested is tried: the settings that were given, and the model. The machine is always
    looked at.
    Raises SettingError: the sources are not addresses.
    """
    sources = parse_sources(settings.sources) if settings.sources else ()
    follow_settings(settings, [source.name for source in sources if isinstance(source, Bucket)])
    trials = Trials()
    places = list(_list_places(trials, settings, sources, model))
    needed = any(place.bucket not in {None, *current_access().anonymous} for place in places)
    credentials = Check(
        *(S3, "credentials", lambda: check_credentials(trials, needed=needed)),
        late=State.WRONG if needed else State.WARNING,
    )
    left_s = max(min(LEAST_S, DEADLINE_S), DEADLINE_S - (time.monotonic() - started_s))
    machine = list(_list_machine_checks(settings, model, left_s - REPORT_S))
    try:
        outcomes = run_checks([*machine, credentials, *places], left_s)
    finally:
        remaining = trials.clean_up(CLEAN_UP_S)
    of_machine, (of_credentials, *of_places) = outcomes[: len(machine)], outcomes[len(machine) :]
    findings = [finding for outcome in of_machine for finding in outcome.to_findings(left_s)]
    findings.extend(report_s3(of_places, of_credentials, trials, left_s))
    findings.extend(
        Finding("S3", address, State.WARNING, "a test object may be left", f"delete {address}")
        for address in remaining
    )
    return [
        replace(finding, finding=hide_passwords(finding.finding), remedy=hide_passwords(finding.remedy))
        for finding in _with_one_model(findings)
    ]


def _list_machine_checks(settings: Settings, model: str | None, probe_s: float) -> Iterator[Check]:
    cluster = os.environ.get("RAY_ADDRESS", "")
    on_cluster = cluster not in ("", "local")
    yield Check("version", "packages", check_versions)
    yield Check("machine", "resources", check_resources, late=State.WARNING)
    for name in PLACES:
        address = getattr(settings, name)
        if address is not None and not address.startswith("s3://"):
            at_worst = State.WRONG if name in settings.model_fields_set else State.WARNING
            yield Check("disk", name, partial(check_disk, name, address, at_worst), late=at_worst)
    at_worst = State.WARNING if on_cluster else State.WRONG  # without a cluster, Ray starts here
    yield Check("disk", RAY_FOLDER, partial(check_ray_folder, at_worst), late=at_worst)
    yield Check(
        *("machine", "GPU"),
        lambda: check_devices(settings, model, on_cluster=on_cluster, timeout_s=probe_s),
        late=State.WARNING if model is None else State.WRONG,
    )
    if on_cluster:
        yield Check(RAY, cluster, lambda: check_cluster(cluster, timeout_s=probe_s))
    yield Check("network", "proxies", check_proxies)


def _list_places(
    trials: Trials, settings: Settings, sources: Sequence[Source], model: str | None
) -> Iterator[Check]:
    """List the checks of what was requested: sources, files, and places of results."""
    given = settings.model_fields_set
    for source in sources:
        if isinstance(source, Bucket):
            yield Check("source", str(source), partial(check_source, trials, source), bucket=source.name)
        else:
            yield Check("source", str(source), partial(check_folder, source))
    if given & {"labels", "poses"}:
        subject = settings.poses
        yield Check("poses", subject, partial(check_poses, trials, settings), bucket=_bucket_of(subject))
    if "labels" in given:
        buckets = filter(None, map(_bucket_of, settings.labels))
        subject = " ".join(settings.labels)
        yield Check("labels", subject, partial(check_labels, trials, settings), bucket=next(buckets, None))
    files = {"manifest": settings.manifest, "weights": settings.weights}
    for name, address in files.items():
        if name in given and address is not None and address not in WEIGHTS_WORDS:
            yield _check_file(trials, name, address)
    for name in PLACES:
        address = getattr(settings, name)
        if name in given and address is not None and address.startswith("s3://"):
            bucket, key = split_uri(address.rstrip("/"))
            place = Bucket(bucket, f"{key}/" if key else "")
            yield Check(name, str(place), partial(check_target, trials, name, place), bucket=bucket)
    if model is not None and model.startswith("s3://"):
        address = model if model.endswith((".pth", ".pt")) else join_uri(model, COMPLETE_FILE)
        yield _check_file(trials, "model", address)


def _check_file(trials: Trials, name: str, address: str) -> Check:
    return Check(name, address, partial(check_readable, trials, name, address), bucket=_bucket_of(address))


def _bucket_of(address: str) -> str | None:
    return split_uri(address)[0] if address.startswith("s3://") else None


def _with_one_model(findings: Sequence[Finding]) -> Iterator[Finding]:
    """Put the model last. One in S3 has two lines: of its object, and of its content; the worse one stays."""
    of_model = [finding for finding in findings if finding.check == "model"]
    yield from (finding for finding in findings if finding.check != "model")
    problems = [finding for finding in reversed(of_model) if finding.state != State.OK]
    yield from [*problems, *of_model][:1]  # of two problems, the one of the object is the cause
