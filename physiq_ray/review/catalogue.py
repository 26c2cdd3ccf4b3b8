"""The listed photos with their labels: which photos a name means, and what the labels say about a photo."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.config import SplitSettings
from physiq_ray.errors import NotFoundError
from physiq_ray.labels import LABEL_SCHEMA, Labels, load_configured_poses, load_labels
from physiq_ray.labels.labels import read_label_records
from physiq_ray.labels.merge import Existing, LabelText, parse_label_text
from physiq_ray.manifest.match import Matches, concat_photos, match_labels
from physiq_ray.storage import (
    Listing,
    Source,
    absolute_uri,
    are_waiting,
    follow_settings,
    list_sources,
    parse_source,
    parse_sources,
    read_bytes,
)


@dataclass(frozen=True)
class Catalogue:
    """The listings of all sources, and their photos as one table of LISTING_SCHEMA."""

    settings: SplitSettings
    poses: Mapping[int, str]
    listings: tuple[Listing, ...]
    photos: pa.Table

    @property
    def label_file(self) -> str:
        """The file into which decisions are merged: the first label file."""
        return self.settings.labels[0]

    @property
    def failed_sources(self) -> tuple[str, ...]:
        """A sentence for each source that could not be listed."""
        return tuple(
            f"{listing.source}: {listing.error}" for listing in self.listings if listing.error is not None
        )

    def match(self, labels: Labels) -> Matches:
        """Find the photos that each label means."""
        return match_labels(self.listings, self.photos, labels, self.poses, self.settings.source_buckets)

    def find_rows(self, names: Sequence[tuple[str, str | None]]) -> list[list[int]]:
        """Find the rows of the photos that each name means. names: each with its source, or None."""
        columns = [[name for name, _ in names], [source for _, source in names]]
        nulls = [[None] * len(names)] * 3
        matches = self.match(Labels(pa.table([*columns, *nulls], schema=LABEL_SCHEMA)))
        rows = defaultdict(list)
        for code, row in zip(matches.pairs.code.tolist(), matches.pairs.photo.tolist(), strict=True):
            rows[code].append(row)
        return [rows[code] for code in matches.names.of_record.tolist()]

    def find_contents(self, md5s: Iterable[str]) -> dict[str, list[int]]:
        """Find the rows of the photos with these MD5s, which are their ETags if they came in one part.

        If there is none, the copy is meant that the service stored under the MD5 to be labelled.
        """
        found = defaultdict(list)
        wanted = pa.array(sorted(set(md5s)), pa.large_string())
        for row in pc.indices_nonzero(pc.is_in(self.photos["etag"], wanted)).to_pylist():
            found[self.photos["etag"][row].as_py()].append(row)
        left = set(wanted.to_pylist()) - found.keys()
        for row in pc.indices_nonzero(are_waiting(self.photos["key"])).to_pylist():
            md5 = PurePosixPath(self.photos["key"][row].as_py()).stem
            if md5 in left:
                found[md5].append(row)
        return found

    def read_labels(self, file: LabelText) -> tuple[Labels, tuple[int, ...]]:
        """Read all label files, of which file is the first; also give the record of each row of that one.

        Raises LabelError.
        """
        fields = self.settings.label_fields
        first, numbers = read_label_records(self.label_file, file.records, self.poses, fields=fields)
        if len(self.settings.labels) == 1:
            return first, numbers
        rest = load_labels(self.settings.labels[1:], self.poses, fields=fields)
        return Labels(
            pa.concat_tables([first.table, rest.table]),
            first.malformed + rest.malformed,
            first.unknown_poses + rest.unknown_poses,
            pa.concat_tables([first.unusable, rest.unusable]),
        ), numbers

    def find_existing(self, file: LabelText, rows: Iterable[int]) -> dict[int, list[Existing]]:
        """Find what the label files, and folders named after poses, say about photos, by their rows."""
        labels, numbers = self.read_labels(file)
        matches = self.match(labels)
        wanted = set(rows)
        poses = labels.table["pose_id"]
        order = np.argsort(matches.names.of_record, kind="stable")
        codes = matches.names.of_record[order]
        num_photos = np.bincount(matches.pairs.code, minlength=len(matches.names))
        chosen = matches.pairs.filter(np.isin(matches.pairs.photo, list(wanted)))
        existing: dict[int, list[Existing]] = {row: [] for row in wanted}
        for code, row in zip(chosen.code.tolist(), chosen.photo.tolist(), strict=True):
            for place in order[np.searchsorted(codes, code) : np.searchsorted(codes, code, "right")].tolist():
                is_here = place < len(numbers)
                existing[row].append(
                    Existing(
                        poses[place].as_py(),
                        numbers[place] if is_here else None,
                        is_shared=bool(num_photos[code] > 1),
                        where="" if is_here else "in another label file",
                    )
                )
        for row in wanted:
            if matches.is_by_folder[row]:
                existing[row].append(Existing(matches.pose_id[row].as_py(), where="by its folder"))
        return existing


def load_catalogue(
    settings: SplitSettings,
    feedback: str | None = None,
    *,
    on_keys: Callable[[Source, int], None] = lambda _source, _num_keys: None,
) -> Catalogue:
    """List the sources, and the feedback prefix if it is not inside one of them.

    Raises SettingError, LabelError: no or wrong sources, or wrong poses. A source that cannot be listed is
    one of failed_sources.
    """
    sources = parse_sources(settings.sources)
    poses = load_configured_poses(settings)
    follow_settings(settings, [source.name for source in sources])
    if feedback is not None and not any(_is_below(feedback, source) for source in sources):
        sources = (*sources, parse_source(feedback))
    listings = list_sources(sources, on_keys=on_keys)
    return Catalogue(settings, poses, listings, concat_photos(listings).combine_chunks())


def read_label_file(address: str) -> LabelText:
    """Read a label file into which decisions can be merged; a missing file is an empty one.

    Raises LabelError, StorageError.
    """
    try:
        return parse_label_text(address, read_bytes(absolute_uri(address)))
    except NotFoundError:
        return parse_label_text(address, None)


def _is_below(address: str, source: Source) -> bool:
    return f"{parse_source(address)}/".startswith(f"{source}/")
