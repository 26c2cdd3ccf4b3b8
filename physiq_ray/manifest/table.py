"""Listings ⋈ labels → one Arrow table of the photos to train on, grouped and split.

In come the sources' listings and the label file; out comes the `Manifest`: one row a usable photo, the
class mapping, and a report of everything that was left out, by name. Joins are hash look-ups on whole
columns.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from physiq_ray.errors import DataError, PhysiqError, SettingError, StorageError
from physiq_ray.labels import ClassMapping, Labels
from physiq_ray.manifest.match import Matches, extremes, folder_poses, match_labels
from physiq_ray.manifest.split import IntArray, join_groups, split_groups
from physiq_ray.storage import LISTING_SCHEMA, UNDECODABLE_EXTENSIONS, Listing

MANIFEST_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("bucket", pa.string()),
        ("key", pa.string()),
        ("size", pa.int64()),  # bytes
        ("etag", pa.string()),
        ("pose_id", pa.int32()),
        ("class_index", pa.int32()),
        ("group", pa.string()),
        ("split", pa.string()),
    ]
)
TRAIN, VALIDATION = "train", "validation"
MANIFEST_FILE = "manifest.parquet"  # among the files of a run


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
class ManifestReport:
    """Everything that was found and not used; one sentence an item.

    undecodable: uris of photos, labelled or not, of a kind that cannot be decoded here. poses_without_photo:
    those that no usable photo shows.
    problem: why nothing can be trained on what was found, None where it can.
    """

    sources: tuple[SourceReport, ...]
    conflicts: tuple[str, ...] = ()
    labels_without_photo: tuple[str, ...] = ()
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


@dataclass(frozen=True)
class Manifest:
    """The photos of one run: a table of MANIFEST_SCHEMA in the order of their uris."""

    table: pa.Table
    class_mapping: ClassMapping
    report: ManifestReport = field(default_factory=lambda: ManifestReport(()))

    def split(self, name: str) -> pa.Table:
        """Give the rows of "train" or of "validation"."""
        return self.table.filter(pc.equal(self.table["split"], name))

    def to_parquet(self) -> bytes:
        """Serialise the table; the report is not part of it."""
        sink = io.BytesIO()
        pq.write_table(self.table, sink)
        return sink.getvalue()

    @classmethod
    def from_parquet(cls, data: bytes, *, name: str) -> "Manifest":
        """Read what `to_parquet` wrote; name is said in errors.

        Raises DataError: not Parquet, other columns, nothing in it, or values that contradict each other.
        """
        try:
            table = pq.read_table(io.BytesIO(data))
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{name}: not a manifest in Parquet: {error}") from error
        if not table.schema.equals(MANIFEST_SCHEMA) or table.num_rows == 0:
            raise DataError(
                f"{name}: expected a manifest with the columns {', '.join(MANIFEST_SCHEMA.names)}, "
                f"got {', '.join(table.schema.names)} with {table.num_rows} rows"
            )
        if problem := _find_contradiction(table):
            raise DataError(f"{name}: {problem}; build the manifest again")
        return cls(table, ClassMapping.of_poses(pc.unique(table["pose_id"]).to_pylist()))


def _find_contradiction(table: pa.Table) -> str | None:
    """Say what a table that was not made here as it stands must not contain."""
    for column in table.schema.names:
        if table[column].null_count:
            return f"{table[column].null_count} rows have no {column}"
    if others := set(pc.unique(table["split"]).to_pylist()) - {TRAIN, VALIDATION}:
        return f"split is {TRAIN!r} or {VALIDATION!r}, got {sorted(others)}"
    if pc.count_distinct(table["split"]).as_py() < 2:
        return f"all photos are in one split, {table['split'][0].as_py()!r}"
    if pc.count_distinct(table["uri"]).as_py() < table.num_rows:
        return "some uris stand there twice"
    mapping = ClassMapping.of_poses(pc.unique(table["pose_id"]).to_pylist())
    expected = pc.index_in(table["pose_id"], pa.array(mapping.pose_ids, pa.int32()))
    if not pc.all(pc.equal(expected, table["class_index"])).as_py():
        return f"class_index does not number the poses {', '.join(mapping.classes)} from 0"
    return None


def build_manifest(
    listings: Sequence[Listing],
    labels: Labels,
    poses: Mapping[int, str],
    *,
    source_buckets: Mapping[str, str] | None = None,
    group_pattern: str | None = None,
    validation_share: float = 0.2,
    seed: int = 42,
) -> Manifest:
    """Join photos with their labels, group copies, and split every pose: `match_photos`, fit for training.

    Raises StorageError: no source could be listed. DataError: nothing to train on. SettingError: a
    group_pattern that RE2 does not accept.
    """
    return require_trainable(
        match_photos(
            listings,
            labels,
            poses,
            source_buckets=source_buckets,
            group_pattern=group_pattern,
            validation_share=validation_share,
            seed=seed,
        )
    )


def require_trainable(manifest: Manifest) -> Manifest:
    """Give the manifest back.

    Raises DataError or StorageError: its report names a problem.
    """
    if manifest.report.problem is not None:
        raise manifest.report.problem
    return manifest


def match_photos(
    listings: Sequence[Listing],
    labels: Labels,
    poses: Mapping[int, str],
    *,
    source_buckets: Mapping[str, str] | None = None,
    group_pattern: str | None = None,
    validation_share: float = 0.2,
    seed: int = 42,
) -> Manifest:
    """Join photos with their labels, group copies, and split every pose, whatever comes of it.

    What nothing can be trained on, an empty table even, is a manifest too: its report says what was found
    and names the problem.
    A label matches on the key's last part, and on the bucket too where source_buckets maps its source.
    In a folder source, a photo inside a sub-folder named after a pose id has that pose.
    A group (equal size and ETag, or equal match of group_pattern in the key) stays on one side.
    The split depends on the seed and on what is there, not on the order of listings.

    Raises SettingError: a group_pattern that RE2 does not accept.
    """
    tables = [listing.table for listing in listings if listing.table is not None]
    photos = pa.concat_tables([LISTING_SCHEMA.empty_table(), *tables])  # not combined: a copy of it all
    matches = match_labels(listings, photos, labels, folder_poses(listings, poses), source_buckets or {})
    labelled = photos.append_column("pose_id", matches.pose_id).filter(matches.is_labelled)
    labelled = labelled.sort_by("uri")
    content = _content_codes(labelled)
    # Copies of one content that carry different poses: nobody can tell which is right.
    lowest, highest = extremes(content, labelled["pose_id"].to_numpy())
    contradicted = (lowest != highest)[content]
    conflicts = (
        *_name_conflicts(photos, matches),
        *(
            f"{uri}: a copy of another photo, labelled with another pose"
            for uri in labelled["uri"].filter(pa.array(contradicted)).to_pylist()
        ),
    )
    usable = labelled.filter(pa.array(~contradicted)) if contradicted.any() else labelled
    content = content[~contradicted]
    problem = _find_problem(listings, photos, labels, usable, len(conflicts))
    undecodable = _undecodable(photos)
    sources = _source_reports(listings, photos, matches)
    del photos, labelled  # a million rows are 200 MB, and the split needs room of its own
    table, thin_poses, num_copies = _grouped_and_split(
        usable, content, poses, group_pattern, validation_share, seed
    )
    class_mapping = ClassMapping.of_poses(pc.unique(table["pose_id"]).to_pylist())
    report = ManifestReport(
        sources=sources,
        conflicts=conflicts,
        labels_without_photo=matches.labels_without_photo,
        malformed=labels.malformed,
        unknown_poses=labels.unknown_poses,
        thin_poses=thin_poses,
        poses_without_photo=tuple(
            f"pose {pose_id} {name}"
            for pose_id, name in poses.items()
            if str(pose_id) not in class_mapping.classes
        ),
        undecodable=undecodable,
        num_copies=num_copies,
        problem=problem or _find_split_problem(table, class_mapping, poses, thin_poses),
    )
    return Manifest(table, class_mapping, report)


def _find_problem(
    listings: Sequence[Listing], photos: pa.Table, labels: Labels, usable: pa.Table, num_conflicts: int
) -> PhysiqError | None:
    """Say why no photo can be used at all."""
    if usable.num_rows:
        return None
    listed = [str(listing.source) for listing in listings if listing.table is not None]
    errors = [str(listing.error) for listing in listings if listing.error is not None]
    if not listed:
        return StorageError(f"none of the {len(listings)} sources could be listed: {'; '.join(errors)}")
    not_listed = "".join(f"; {error}" for error in errors)
    if photos.num_rows == 0:
        return DataError(f"no photos in {', '.join(listed)}; check bucket and prefix{not_listed}")
    example = labels.table["name"][0].as_py() if labels.table.num_rows else "(no usable label)"
    return DataError(
        f"no label matches a photo: {photos.num_rows} photos, {labels.table.num_rows} usable labels, "
        f"{num_conflicts} conflicts; labels are matched on the file name, for example a photo "
        f"{photos['key'][0].as_py()!r} and a label {example!r}; "
        f"check labels, sources and source_buckets{not_listed}"
    )


def _find_split_problem(
    table: pa.Table, mapping: ClassMapping, poses: Mapping[int, str], thin_poses: Sequence[str]
) -> PhysiqError | None:
    """Say why usable photos are not enough."""
    if len(mapping.classes) < 2:
        only = mapping.pose_ids[0]
        return DataError(
            f"only one pose ({only} {poses.get(only, '')}) has labelled photos; at least two needed"
        )
    if pc.count_distinct(table["split"]).as_py() < 2:
        return DataError("no photos for one side of the split: " + "; ".join(thin_poses))
    return None


def _name_conflicts(photos: pa.Table, matches: Matches) -> tuple[str, ...]:
    return tuple(
        f"{uri}: labelled with different poses"
        for uri in photos["uri"].filter(matches.is_conflict).to_pylist()
    )


def _undecodable(photos: pa.Table) -> tuple[str, ...]:
    endings = "|".join(extension.removeprefix(".") for extension in UNDECODABLE_EXTENSIONS)
    is_undecodable = pc.match_substring_regex(photos["key"], rf"(?i)\.({endings})$")
    return tuple(photos["uri"].filter(is_undecodable).to_pylist())


def _content_codes(table: pa.Table) -> IntArray:
    """Give each content a number: equal size and ETag → equal number; a photo without ETag has its own."""
    etag, size = _codes(table["etag"]), _codes(table["size"])
    content = _codes(pa.chunked_array([etag * (int(size.max(initial=0)) + 1) + size]))
    alone = pc.equal(table["etag"], "").to_numpy()
    return np.where(alone, len(content) + np.arange(len(content)), content)


def _codes(column: pa.ChunkedArray) -> IntArray:
    encoded: IntArray = column.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    return encoded


def _grouped_and_split(
    usable: pa.Table,
    content: IntArray,
    poses: Mapping[int, str],
    group_pattern: str | None,
    validation_share: float,
    seed: int,
) -> tuple[pa.Table, tuple[str, ...], int]:
    if usable.num_rows == 0:
        return MANIFEST_SCHEMA.empty_table(), (), 0
    num_copies = len(content) - int(np.count_nonzero(np.bincount(content)))
    pattern_groups = _pattern_codes(usable["key"], group_pattern) if group_pattern else None
    representative = join_groups(content, pattern_groups)
    group = usable["uri"].combine_chunks().take(pa.array(representative))

    mapping = ClassMapping.of_poses(pc.unique(usable["pose_id"]).to_pylist())
    class_index = pc.index_in(usable["pose_id"], pa.array(mapping.pose_ids, pa.int32())).to_numpy()

    # A keyed hash of the group's name, not a shuffle: photos that come later leave most of it as it was.
    encoded = group.dictionary_encode()
    names = encoded.dictionary.to_numpy(zero_copy_only=False)
    hashes = pd.util.hash_array(names, hash_key=f"{seed:016d}", categorize=False)
    order = hashes[encoded.indices.to_numpy()]
    is_validation = split_groups(class_index, representative, order, validation_share)

    thin = []
    for index, pose_id in enumerate(mapping.pose_ids):
        name = f"pose {pose_id} {poses.get(pose_id, '')}".rstrip()
        of_class = class_index == index
        num_validation = int(is_validation[of_class].sum())
        if num_validation == 0:
            thin.append(
                f"{name}: {int(of_class.sum())} photo(s) in one group, all in training; "
                "no validation photo measures it: label more"
            )
        elif num_validation == of_class.sum():
            thin.append(
                f"{name}: all its photos fell into validation groups; label more or use smaller groups"
            )
    columns = {
        **{name: usable[name] for name in ("uri", "bucket", "key", "size", "etag", "pose_id")},
        "class_index": pa.array(class_index, pa.int32()),
        "group": group,
        "split": pc.if_else(pa.array(is_validation), VALIDATION, TRAIN),
    }
    return pa.table(columns, schema=MANIFEST_SCHEMA), tuple(thin), num_copies


def _pattern_codes(keys: pa.ChunkedArray, pattern: str) -> IntArray:
    """Give each match of pattern a number (its first bracket, or all of it); -1 where it matches nothing."""
    captured = pattern if re.compile(pattern).groups else f"({pattern})"
    try:
        text = pc.replace_substring_regex(keys, rf"(?s)^.*?(?:{captured}).*$", r"\1")
        # An optional bracket, as in "(athlete-[0-9]+)?", matches everywhere and says nothing of a photo.
        matched = pc.and_(pc.match_substring_regex(keys, captured), pc.not_equal(text, ""))
    except pa.ArrowInvalid as error:
        raise SettingError(f"group_pattern={pattern!r}: not accepted by RE2: {error}") from error
    return np.where(matched.to_numpy(), _codes(text), -1)


def _source_reports(
    listings: Sequence[Listing], photos: pa.Table, matches: Matches
) -> tuple[SourceReport, ...]:
    reports, start = [], 0
    for listing in listings:
        if listing.table is None:
            reports.append(SourceReport(str(listing.source), error=str(listing.error)))
            continue
        rows = listing.table.num_rows
        reports.append(
            SourceReport(
                str(listing.source),
                total=rows,
                labelled=pc.sum(matches.is_known.slice(start, rows)).as_py() or 0,
                unusable=pc.sum(matches.is_unusable.slice(start, rows)).as_py() or 0,
                bytes=pc.sum(photos["size"].slice(start, rows)).as_py() or 0,
                num_others=listing.num_others,
            )
        )
        start += rows
    return tuple(reports)
