"""What was found in the sources and in the labels, and what of it is not used."""

from collections.abc import Sequence
from dataclasses import dataclass

from physiq_ray.errors import PhysiqError


@dataclass(frozen=True)
class SourceReport:
    """What one source holds: photos (not other objects) and their bytes, or why it could not be listed.

    labelled: photos that some label names; unusable: those among them that only labels of an unknown pose
    or malformed ones name.
    """

    source: str
    total: int = 0
    labelled: int = 0
    unusable: int = 0
    bytes: int = 0
    num_others: int = 0
    error: str | None = None

    @property
    def unlabelled(self) -> int:
        """Photos that no label names."""
        return self.total - self.labelled


@dataclass(frozen=True)
class Counted:
    """How many there are of something, and the first few, a sentence each: all would fill the memory."""

    count: int = 0
    examples: Sequence[str] = ()


@dataclass(frozen=True)
class ManifestReport:
    """Everything that was found and not used; one sentence an item, names in quotes.

    labels_without_photo, ambiguous: names as the labels write them; the latter may mean several photos, none
    of them by its exact name, and mean none. loose: labels that mean a photo though they write its name in
    another way. shared_names: labels whose name is that of several photos, which are all meant.
    num_poseless: photos of which a label says that they show no known pose. num_by_folder: photos that have
    their pose from the name of their folder alone. split_conflicts: groups whose labels give several splits.
    undecodable: uris of photos, labelled or not, of a kind that cannot be decoded here. poses_without_photo:
    those that no usable photo shows.
    problem: why nothing can be trained on what was found, None where it can.
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
    problem: PhysiqError | None = None

    @property
    def failed_sources(self) -> tuple[SourceReport, ...]:
        """The sources that could not be listed."""
        return tuple(source for source in self.sources if source.error is not None)
