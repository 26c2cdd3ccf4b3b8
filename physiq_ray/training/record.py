"""What a run keeps from its start: its photos and their split, its settings, and what was left out."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from physiq_ray.checkpoint import settings_to_store
from physiq_ray.config import SPLIT_FIELDS, Settings
from physiq_ray.constants import WEIGHTS_WORDS
from physiq_ray.errors import LabelError
from physiq_ray.labels import ClassMapping
from physiq_ray.manifest import Manifest
from physiq_ray.model import StartingWeights
from physiq_ray.storage import absolute_uri

# What cannot change while a run is resumed: its photos, their split, and what its scores were measured on.
FIXED_SETTINGS = (
    *("sources", "source_buckets", "manifest", "limit"),
    *SPLIT_FIELDS,
    *("image_size", "weights"),
)


@dataclass(frozen=True)
class RunRecord:
    """The start of a run: its photos, how many were skipped, which sources failed, and the poses' names."""

    manifest: Manifest
    num_skipped: int
    failed_sources: tuple[str, ...]
    pose_names: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of_manifest(cls, manifest: Manifest, pose_names: Mapping[int, str]) -> "RunRecord":
        """Take from a manifest's report what the end of the run reports.

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
        """Give the record with other names; a pose without a new name keeps its own.

        Raises LabelError: a pose of the manifest has no name in either.
        """
        names = {**self.pose_names, **pose_names}
        _require_names(self.manifest, names)
        return replace(self, pose_names=names)


def describe_head(weights: StartingWeights, mapping: ClassMapping, pose_names: Mapping[int, str]) -> str:
    """Describe which rows of the last layer are those of the starting weights, and which poses are new."""
    num_poses, new = len(mapping.classes), [item for item in mapping.pose_ids if item not in weights.head]
    if not weights.head:
        why = f"no class mapping fits the weights: {weights.why_no_head}"
        return f"last layer: all {num_poses} rows are new, because {why}"
    kept = f"last layer: {num_poses - len(new)} of {num_poses} rows kept"
    names = ", ".join(f"{pose_names[pose_id]} ({pose_id})" for pose_id in new)
    return f"{kept}; new poses: {names}" if new else f"{kept}; no pose is new"


def _require_names(manifest: Manifest, pose_names: Mapping[int, str]) -> None:
    missing = [str(pose_id) for pose_id in manifest.class_mapping.pose_ids if pose_id not in pose_names]
    if missing:
        raise LabelError(
            f"poses: no name for pose {', '.join(missing)}, of which the manifest has photos; add it to the "
            "file of poses, or name another file with --poses"
        )


def stored_settings(settings: Settings, run_name: str) -> dict[str, Any]:
    """Give plain values with absolute paths, so that run and model can be used from any working directory."""
    values = settings_to_store(settings) | {"run_name": run_name}
    for name in ("output", "storage", "poses", "manifest"):
        if values[name] is not None:
            values[name] = absolute_uri(values[name])
    if values["weights"] not in WEIGHTS_WORDS:
        values["weights"] = absolute_uri(values["weights"])
    for name in ("sources", "labels"):
        values[name] = [absolute_uri(address) for address in values[name]]
    return values
