"""The report of what was found in the sources and labels, and what is not used."""

from collections.abc import Sequence
from dataclasses import dataclass

from physiq_ray.errors import PhysiqError

CHAINED_SHARE = 0.1  # a group of near-duplicates with more of all photos is reported


@dataclass(frozen=True)
class SourceReport:
    """The photos of one source and their bytes, or the error if it could not be listed.

    total: all photos. labelled: photos that some label names. unusable: labelled photos that only malformed
    records or labels of an unknown pose name. waiting: unlabelled photos that the service stored to be
    labelled. num_others: objects that are not photos.
    """

    source: str
    total: int = 0
    labelled: int = 0
    unusable: int = 0
    waiting: int = 0
    bytes: int = 0
    num_others: int = 0
    error: str | None = None

    @property
    def unlabelled(self) -> int:
        """Photos that no label names."""
        return self.total - self.labelled


@dataclass(frozen=True)
class Counted:
    """A count and the first few examples, one sentence each; all of them would take too much memory."""

    count: int = 0
    examples: Sequence[str] = ()


@dataclass(frozen=True)
class Alike:
    """The near-duplicates that were joined to groups.

    num_photos: photos in groups of several contents. num_groups: these groups. largest: photos in the largest
    of them. total: all photos that were compared. not_fetched: photos that could not be fetched, so that
    their near-duplicates are not known.
    """

    num_photos: int
    num_groups: int
    largest: int
    total: int
    not_fetched: Counted = Counted()

    @property
    def is_chained(self) -> bool:
        """Whether the largest group has so many photos that it probably joins different scenes."""
        return self.largest > CHAINED_SHARE * self.total


@dataclass(frozen=True)
class ManifestReport:
    """Everything that was found and is not used, with one sentence per item and names in quotes.

    labels_without_photo: the names of unmatched labels, as they are written.
    ambiguous: the names of ambiguous labels, which may mean several photos and name none exactly.
    loose: labels that mean a photo although they spell its name differently.
    shared_names: labels whose name fits several photos; all of these photos get the label.
    num_poseless: photos that show no known pose according to a label.
    num_by_folder: photos that get their pose only from the name of their folder.
    split_conflicts: groups whose labels give several splits.
    undecodable: uris of photos, labelled or not, in a format that cannot be decoded here.
    poses_without_photo: poses that no usable photo shows.
    alike: the near-duplicates that were joined, None if they were not searched.
    problem: the error that prevents a training with this manifest, None if there is none.
    """

    sources: tuple[SourceReport, ...]
    conflicts: tuple[str, ...] = ()
    labels_without_photo: tuple[str, ...] = ()
    ambiguous: tuple[str, ...] = ()
    loose: Counted = Counted()
    shared_names: Counted = Counted()
    num_poseless: int = 0
    num_by_folder: int = 0
    split_conflicts: tuple[str, ...] = ()
    malformed: tuple[str, ...] = ()
    unknown_poses: tuple[str, ...] = ()
    thin_poses: tuple[str, ...] = ()
    poses_without_photo: tuple[str, ...] = ()
    undecodable: tuple[str, ...] = ()
    num_copies: int = 0
    alike: Alike | None = None
    problem: PhysiqError | None = None

    @property
    def failed_sources(self) -> tuple[SourceReport, ...]:
        """The sources that could not be listed."""
        return tuple(source for source in self.sources if source.error is not None)
