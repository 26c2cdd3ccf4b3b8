"""Count photos by pose and split, and find copies, from the manifest without reading photos."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from physiq_ray.auditing.check import PhotoCheck, ReadPhotos, read_all
from physiq_ray.columns import first_equal, take_rows
from physiq_ray.manifest import TEST, TRAIN, VALIDATION, Manifest


@dataclass(frozen=True)
class PoseCount:
    """Number of photos of one pose by split. share: of all usable photos, 0 … 1."""

    pose_id: int
    name: str
    train: int
    validation: int
    share: float
    test: int = 0

    @property
    def total(self) -> int:
        """Photos in total."""
        return self.train + self.validation + self.test


@dataclass(frozen=True)
class Audit:
    """The result of an audit. copies: uris of equal content, one tuple for each content."""

    manifest: Manifest
    poses: tuple[PoseCount, ...]
    copies: tuple[tuple[str, ...], ...]
    check: PhotoCheck | None

    @property
    def imbalance(self) -> float | None:
        """Photos of the largest pose divided by those of the smallest pose; None if there are no photos."""
        counts = [pose.total for pose in self.poses]
        return max(counts) / min(counts) if counts else None

    @property
    def num_near_across(self) -> int | None:
        """Number of pairs of near-duplicates in different splits; None if they were not searched."""
        if self.check is None or self.check.near_duplicates is None:
            return None
        table = self.manifest.table
        split = dict(zip(table["uri"].to_pylist(), table["split"].to_pylist(), strict=True))
        return len([a for a, b, _ in self.check.near_duplicates if split[a] != split[b]])

    @property
    def not_looked_at(self) -> tuple[str, ...]:
        """What the audit could not check, one sentence each: sources not listed, photos not fetched."""
        sentences = [
            f"audited without {source.source}: {source.error}"
            for source in self.manifest.report.failed_sources
        ]
        alike = self.manifest.report.alike
        if alike is not None and alike.not_fetched.count:
            sentences.append(
                f"the split does not know the near-duplicates of {alike.not_fetched.count} photos that could "
                f"not be fetched, the first: {alike.not_fetched.examples[0]}"
            )
        if self.check is None:
            return tuple(sentences)
        if not_fetched := self.check.of_step("fetch"):
            sentences.append(
                f"{len(not_fetched)} photos could not be fetched, the first: {not_fetched[0].error}"
            )
        if others := (*self.check.of_step("changed"), *self.check.of_step("gone")):
            sentences.append(
                f"{len(others)} photos changed or disappeared since they were listed, the first: "
                f"{others[0].error}"
            )
        if self.check.gave_up is not None:
            sentences.append(self.check.gave_up)
        return tuple(sentences)


def audit_manifest(
    manifest: Manifest,
    pose_names: Mapping[int, str],
    *,
    read_photos: ReadPhotos | None = None,
    near_duplicates: bool = False,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Audit:
    """Count the photos; with read_photos, also read every photo.

    near_duplicates: also compare the photos that are read. Raises what read_photos raises.
    """
    table = manifest.table
    poses = []
    for pose_id in manifest.class_mapping.pose_ids:
        split = table["split"].filter(pc.equal(table["pose_id"], pose_id))
        train, validation, test = (
            pc.sum(pc.equal(split, name)).as_py() for name in (TRAIN, VALIDATION, TEST)
        )
        share = len(split) / table.num_rows
        poses.append(PoseCount(pose_id, pose_names.get(pose_id, ""), train, validation, share, test))
    copies, check = _find_copies(manifest), None
    if read_photos is not None:
        check = read_all(table, copies, read_photos, near_duplicates=near_duplicates, on_progress=on_progress)
    return Audit(manifest, tuple(poses), copies, check)


def _find_copies(manifest: Manifest) -> tuple[tuple[str, ...], ...]:
    table = manifest.table.filter(pc.not_equal(manifest.table["etag"], ""))
    content = first_equal(table["etag"], table["size"].to_numpy())
    rows = np.flatnonzero(np.bincount(content)[content] > 1)
    copies = defaultdict(list)
    for number, uri in zip(content[rows].tolist(), take_rows(table["uri"], rows).to_pylist(), strict=True):
        copies[number].append(uri)
    return tuple(sorted(tuple(sorted(uris)) for uris in copies.values()))
