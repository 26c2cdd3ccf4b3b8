"""The photos that an evaluation chooses from: the caller's, or those of the run that trained the model."""

from dataclasses import dataclass
from typing import Any

from physiq_ray.checkpoint import ModelState
from physiq_ray.config import Settings
from physiq_ray.errors import NotFoundError, PhysiqError, SettingError
from physiq_ray.labels import load_configured_poses
from physiq_ray.manifest import (
    MANIFEST_FILE,
    TEST,
    TRAIN,
    VALIDATION,
    Manifest,
    collect_manifest,
    read_manifest,
)
from physiq_ray.storage import absolute_uri, follow_settings, join_uri, read_bytes

ALL = "all"
SCORED_SPLITS = (VALIDATION, TRAIN, TEST, ALL)
# What decides in which split a photo is: as in the training unless it is set.
SPLIT_SETTINGS = ("source_buckets", "validation_share", "group_pattern", "group_field", "seed")
ACCESS_SETTINGS = ("requester_pays", "anonymous")  # of the training's own buckets too


@dataclass(frozen=True)
class Candidates:
    """The photos to choose from.

    name: in words, empty where they are the training's own. training: the manifest of the run that made the
    model, None where it is not found.
    """

    manifest: Manifest
    name: str
    training: Manifest | None

    def words(self, split: str) -> str:
        """Name the photos of a split."""
        if not self.name:
            own = {
                VALIDATION: "the validation photos of the training",
                TRAIN: "the photos trained on",
                TEST: "the test photos of the training",
            }
            return own.get(split, "all photos of the training")
        return (
            f"the photos of {self.name}" if split == ALL else f"split {split!r} of the photos of {self.name}"
        )


def split_defaults(state: ModelState) -> dict[str, Any]:
    """Give the settings of the split and of the buckets that the model was trained with.

    As far as its file holds them.
    """
    names = (*SPLIT_SETTINGS, *ACCESS_SETTINGS)
    return {name: state.settings[name] for name in names if name in state.settings}


def find_candidates(settings: Settings, state: ModelState) -> Candidates:
    """Take the photos of sources, of a saved manifest, or those of the run that made the model.

    Raises SettingError: sources and manifest at once, or none and the run is not found; and what listing
    and reading raise.
    """
    saved = read_manifest(settings)
    if saved is not None:
        follow_settings(settings, saved.table["bucket"].unique().to_pylist())
        return Candidates(saved, f"the manifest `{settings.manifest}`", _training_or_none(state))
    if settings.sources:
        manifest = collect_manifest(settings, load_configured_poses(settings))
        return Candidates(
            manifest, ", ".join(f"`{source}`" for source in settings.sources), _training_or_none(state)
        )
    training = find_training_manifest(state)
    follow_settings(settings, training.table["bucket"].unique().to_pylist())
    return Candidates(training, "", training)


def find_training_manifest(state: ModelState) -> Manifest:
    """Read the manifest of the run that made the model.

    Raises SettingError: the model's file names no run, or the run is gone or another one by now; what
    reading raises.
    """
    storage, run_name = (state.settings.get(name) for name in ("storage", "run_name"))
    if not storage or not run_name:
        raise SettingError("sources: the model's file names no run to take the photos of; give --sources")
    uri = join_uri(absolute_uri(storage), run_name, MANIFEST_FILE)
    try:
        manifest = Manifest.from_parquet(read_bytes(uri), name=uri)
    except NotFoundError as error:
        raise SettingError(f"sources: {error}; give --sources or --manifest") from error
    if manifest.class_mapping != state.class_mapping:
        raise SettingError(
            f"sources: {uri} has poses {', '.join(manifest.class_mapping.classes)}, the model "
            f"{', '.join(state.class_mapping.classes)}: it is of another run; give --sources or --manifest"
        )
    return manifest


def _training_or_none(state: ModelState) -> Manifest | None:
    # The scores do not hang on it: whatever keeps it from being read only makes the card say less.
    try:
        return find_training_manifest(state)
    except PhysiqError:
        return None
