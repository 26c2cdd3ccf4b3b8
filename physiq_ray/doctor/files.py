"""Files that a run reads: labels, poses, a manifest, starting weights. They are read for real."""

from collections.abc import Iterator
from pathlib import Path

from physiq_ray.config import Settings
from physiq_ray.doctor.access import Trials
from physiq_ray.doctor.finding import Finding, State
from physiq_ray.errors import PhysiqError
from physiq_ray.labels import load_configured_labels, load_configured_poses
from physiq_ray.storage import split_uri
from physiq_ray.storage.objects import translate_os
from physiq_ray.storage.s3 import translated


def check_readable(trials: Trials, name: str, address: str) -> Iterator[Finding]:
    """Read the first byte of a file or object. Raises StorageError."""
    _touch(trials, address)
    yield Finding(name, address, State.OK, "can be read")


def check_poses(trials: Trials, settings: Settings) -> Iterator[Finding]:
    """Read the poses and count them. Raises StorageError, LabelError."""
    poses = _load_poses(trials, settings)
    is_built_in = "poses" not in settings.model_fields_set and not Path(settings.poses).exists()
    yield Finding(
        "poses", "built in" if is_built_in else settings.poses, State.OK, f"{_count(len(poses), 'pose')}"
    )


def check_labels(trials: Trials, settings: Settings) -> Iterator[Finding]:
    """Read all label files and count their records. Raises StorageError, LabelError."""
    subject = " ".join(settings.labels)
    try:
        poses = _load_poses(trials, settings)
    except PhysiqError:
        yield Finding(
            *("labels", subject, State.WARNING, "not checked, because the poses cannot be read"),
            "correct that first",
        )
        return
    for address in settings.labels:
        if address.startswith("s3://"):
            _touch(trials, address)
    labels = load_configured_labels(settings, poses)
    num_poses = len(set(labels.table["pose_id"].drop_null().to_pylist()))
    text = f"{_count(labels.table.num_rows, 'label')} of {_count(num_poses, 'pose')}"
    odd = [
        f"{len(sentences)} with {problem}"
        for problem, sentences in (
            ("errors", labels.malformed),
            ("an unknown pose", labels.unknown_poses),
        )
        if sentences
    ]
    if odd:
        yield Finding(
            *("labels", subject, State.WARNING, f"{text}; {', '.join(odd)}"), "physiq-ray audit names them"
        )
    elif not labels.table.num_rows:
        yield Finding("labels", subject, State.WARNING, text, "give the file that has the labels")
    else:
        yield Finding("labels", subject, State.OK, text)


def _load_poses(trials: Trials, settings: Settings) -> dict[int, str]:
    if settings.poses.startswith("s3://"):
        _touch(trials, settings.poses)
    return load_configured_poses(settings)


def _touch(trials: Trials, address: str) -> None:
    """Read the first byte with a client that gives up soon, before the whole is read with retries."""
    if address.startswith("s3://"):
        bucket, key = split_uri(address)
        with translated("read", right=f"s3:GetObject on arn:aws:s3:::{bucket}/*"):
            trials.start()[1].get_object(Bucket=bucket, Key=key)["Body"].read(1)
        return
    try:
        with Path(address).expanduser().open("rb") as file:
            file.read(1)
    except OSError as error:
        raise translate_os(error, "read") from error


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
