"""What a run keeps of its start, beside Ray's checkpoints: its settings, its manifest, what was left out.

A resumed run reads them back instead of listing again, as the split must not move under the training.
The manifest is written last: where it stands, the record is whole.
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from physiq_ray.checkpoint import settings_to_store
from physiq_ray.config import Settings, load_settings
from physiq_ray.errors import LabelError, NotFoundError, SettingError, TrainingError
from physiq_ray.manifest import MANIFEST_FILE, Manifest
from physiq_ray.model import WEIGHTS_WORDS
from physiq_ray.storage import absolute_uri, join_uri, read_bytes, write_bytes

RECORD_FILE = "run.json"
# What a run keeps from its start to its end: its photos, their split, and what its weights were scored on.
FIXED_SETTINGS = (
    *("sources", "source_buckets", "manifest", "validation_share"),
    *("group_pattern", "group_field", "seed"),
    *("image_size", "weights"),
)


@dataclass(frozen=True)
class RunRecord:
    """A run's start: the photos it trains on, what was not used, which sources failed, the poses' names."""

    manifest: Manifest
    num_skipped: int
    failed_sources: tuple[str, ...]
    pose_names: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of_manifest(cls, manifest: Manifest, pose_names: Mapping[int, str]) -> "RunRecord":
        """Take from a manifest's report what the end of the run will say.

        Raises LabelError: a pose of the manifest has no name, which the model's files need.
        """
        _require_names(manifest, pose_names)
        report = manifest.report
        return cls(
            manifest,
            sum(source.unlabelled for source in report.sources) + len(report.conflicts),
            tuple(f"{source.source}: {source.error}" for source in report.failed_sources),
            pose_names,
        )

    def with_names(self, pose_names: Mapping[int, str]) -> "RunRecord":
        """Give the record with other names; a pose that has none among them keeps its own.

        Raises LabelError: a pose of the manifest has no name in either.
        """
        names = {**self.pose_names, **pose_names}
        _require_names(self.manifest, names)
        return replace(self, pose_names=names)


def _require_names(manifest: Manifest, pose_names: Mapping[int, str]) -> None:
    missing = [str(pose_id) for pose_id in manifest.class_mapping.pose_ids if pose_id not in pose_names]
    if missing:
        raise LabelError(
            f"poses: no name for pose {', '.join(missing)}, of which the manifest has photos; add it to the "
            "file of poses, or name another file with --poses"
        )


def exists(storage: str, run_name: str) -> bool:
    """Tell whether a run of this name has been started.

    Raises StorageError: could not look.
    """
    try:
        read_bytes(join_uri(absolute_uri(storage), run_name, MANIFEST_FILE))
    except NotFoundError:
        return False
    return True


def resumed_settings(settings: Settings, run_name: str) -> Settings:
    """Give the settings a run was started with, and in their place those that are set now.

    Raises TrainingError: no such run, or a damaged record. SettingError: another value of one of
    FIXED_SETTINGS, with both.
    """
    saved = _read_content(settings.storage, run_name)["settings"]
    values = stored_settings(settings, run_name)
    given = {name: value for name, value in values.items() if name in settings.model_fields_set}
    for name in FIXED_SETTINGS:
        if name in given and name in saved and given[name] != saved[name]:
            raise SettingError(
                f"{name}={given[name]}: the run was started with {name}={saved[name]} and keeps it; leave "
                "it out, or start anew under another --run-name"
            )
    known = {name: value for name, value in saved.items() if name in Settings.model_fields}
    return load_settings(given, environment={}, defaults=known)


def stored_settings(settings: Settings, run_name: str) -> dict[str, Any]:
    """Give plain values with absolute paths: run and model may be used from another working directory."""
    values = settings_to_store(settings) | {"run_name": run_name}
    for name in ("output", "storage", "poses", "manifest"):
        if values[name] is not None:
            values[name] = absolute_uri(values[name])
    if values["weights"] not in WEIGHTS_WORDS:
        values["weights"] = absolute_uri(values["weights"])
    for name in ("sources", "labels"):
        values[name] = [absolute_uri(address) for address in values[name]]
    return values


def save_record(record: RunRecord, settings: Settings, run_name: str) -> None:
    """Write settings, report and manifest into the run's folder.

    A resumed run writes them again, so that the next one goes on with the settings it was given.
    """
    content = {
        "settings": stored_settings(settings, run_name),
        "num_skipped": record.num_skipped,
        "failed_sources": list(record.failed_sources),
        "pose_names": {str(pose_id): name for pose_id, name in record.pose_names.items()},
    }
    folder = join_uri(absolute_uri(settings.storage), run_name)
    write_bytes((json.dumps(content, indent=2) + "\n").encode(), join_uri(folder, RECORD_FILE))
    write_bytes(record.manifest.to_parquet(), join_uri(folder, MANIFEST_FILE))


def load_record(storage: str, run_name: str) -> RunRecord:
    """Read what `save_record` wrote.

    Raises TrainingError: no such run, or a damaged record.
    """
    content = _read_content(storage, run_name)
    uri = join_uri(absolute_uri(storage), run_name, MANIFEST_FILE)
    try:
        manifest = Manifest.from_parquet(read_bytes(uri), name=uri)
    except NotFoundError as error:
        raise _nothing_to_resume(storage, run_name) from error
    names = {int(pose_id): name for pose_id, name in content.get("pose_names", {}).items()}
    return RunRecord(manifest, content["num_skipped"], tuple(content["failed_sources"]), names)


def _read_content(storage: str, run_name: str) -> dict[str, Any]:
    uri = join_uri(absolute_uri(storage), run_name, RECORD_FILE)
    try:
        content: dict[str, Any] = json.loads(read_bytes(uri))
    except NotFoundError as error:
        raise _nothing_to_resume(storage, run_name) from error
    except ValueError as error:
        raise TrainingError(f"{uri}: not JSON: {error}; start the run anew under another name") from error
    return content


def _nothing_to_resume(storage: str, run_name: str) -> TrainingError:
    return TrainingError(f"run {run_name!r}: nothing to resume in {storage}; check --run-name and --storage")


def resume_command(settings: Settings, run_name: str) -> str:
    """Give the command line that goes on with a run."""
    default = Settings.model_fields["storage"].get_default()
    where = "" if settings.storage == default else f" --storage {shlex.quote(settings.storage)}"
    return f"physiq-ray train --resume --run-name {run_name}{where}"
