"""The photos for an evaluation: those of the caller, or those of the run that trained the model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from physiq_ray.checkpoint import ModelState
from physiq_ray.cluster import connect
from physiq_ray.config import SPLIT_FIELDS, Settings
from physiq_ray.constants import ALL, TEST, TRAIN, VALIDATION
from physiq_ray.errors import NotFoundError, PhysiqError, SettingError
from physiq_ray.ingest import hashing
from physiq_ray.labels import load_configured_poses
from physiq_ray.manifest import (
    MANIFEST_FILE,
    Manifest,
    collect_manifest,
    read_manifest,
)
from physiq_ray.storage import absolute_uri, follow_settings, join_uri, read_bytes

# These settings decide the split of a photo. They have the values of the training unless the user sets them.
SPLIT_SETTINGS = ("source_buckets", *SPLIT_FIELDS)
ACCESS_SETTINGS = ("requester_pays", "anonymous")  # for the buckets of the training too


@dataclass(frozen=True)
class Candidates:
    """The photos for an evaluation.

    name: their name in messages, empty for the photos of the training. training: the manifest of the run that
    trained the model, None if it is not found.
    """

    manifest: Manifest
    name: str
    training: Manifest | None

    def words(self, split: str) -> str:
        """Name the photos of a split."""
        if not self.name:
            own = {
                VALIDATION: "the validation photos of the training",
                TRAIN: "the training photos",
                TEST: "the test photos of the training",
            }
            return own.get(split, "all photos of the training")
        return (
            f"the photos of {self.name}" if split == ALL else f"split {split!r} of the photos of {self.name}"
        )


def split_defaults(state: ModelState) -> dict[str, Any]:
    """Give the settings of the split and of the buckets from the training, if the model file has them."""
    names = (*SPLIT_SETTINGS, *ACCESS_SETTINGS)
    return {name: state.settings[name] for name in names if name in state.settings}


def find_candidates(
    settings: Settings,
    state: ModelState,
    *,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
    debug: bool = False,
) -> Candidates:
    """Find the photos of the sources, of a saved manifest, or of the run that trained the model.

    on_progress: called with the photos compared and their total, if near-duplicates are grouped; debug: show
    Ray's log of this.
    Raises SettingError: both sources and manifest are set, or neither and the run is not found; and all
    errors of listing and reading.
    """
    try:
        saved = read_manifest(settings)
    except NotFoundError as error:
        raise _no_photos(error) from error
    if saved is not None:
        follow_settings(settings, saved.buckets)
        return Candidates(saved, f"the manifest `{settings.manifest}`", training_or_none(state))
    if settings.sources:
        hash_photos = hashing(settings, lambda: connect(debug=debug), on_progress=on_progress)
        manifest = collect_manifest(settings, load_configured_poses(settings), hash_photos=hash_photos)
        return Candidates(
            manifest, ", ".join(f"`{source}`" for source in settings.sources), training_or_none(state)
        )
    training = find_training_manifest(state)
    follow_settings(settings, training.buckets)
    return Candidates(training, "", training)


def find_training_manifest(state: ModelState) -> Manifest:
    """Read the manifest of the run that trained the model.

    Raises SettingError: the model file names no run, or the run was deleted or replaced by another one; and
    all errors of reading.
    """
    storage, run_name = (state.settings.get(name) for name in ("storage", "run_name"))
    if not storage or not run_name:
        raise SettingError("sources: the model file names no run whose photos could be used; give --sources")
    uri = join_uri(absolute_uri(storage), run_name, MANIFEST_FILE)
    try:
        manifest = Manifest.from_parquet(read_bytes(uri), name=uri)
    except NotFoundError as error:
        raise _no_photos(error) from error
    if manifest.class_mapping != state.class_mapping:
        raise SettingError(
            f"sources: {uri} has poses {', '.join(manifest.class_mapping.classes)}, but the model has "
            f"{', '.join(state.class_mapping.classes)}: it is of another run; give --sources or --manifest"
        )
    return manifest


def training_or_none(state: ModelState) -> Manifest | None:
    """Read the manifest of the run that trained the model, if that is possible: no score depends on it."""
    try:
        return find_training_manifest(state)
    except PhysiqError:
        return None


def _no_photos(error: NotFoundError) -> SettingError:
    return SettingError(f"sources: {error}; give --sources or --manifest")
