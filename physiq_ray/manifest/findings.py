"""Write the parts of the report about labels and sources: counts, and names in quotes."""

from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.columns import take_rows
from physiq_ray.constants import SPLITS, TEST, TRAIN, VALIDATION
from physiq_ray.errors import DataError, PhysiqError, StorageError, quoted
from physiq_ray.labels import ClassMapping, Labels
from physiq_ray.manifest.exact import spans
from physiq_ray.manifest.match import Matches
from physiq_ray.manifest.report import Counted, SourceReport
from physiq_ray.manifest.split import IntArray
from physiq_ray.storage import Listing, are_undecodable, are_waiting

EXAMPLES = 10


def find_conflicts(photos: pa.Table, matches: Matches) -> tuple[str, ...]:
    """Name the photos whose labels contradict each other, or that an ambiguous label may mean."""
    rows = np.flatnonzero(matches.is_conflict)
    code = matches.alike_code[rows]
    uris = take_rows(photos["uri"], rows).to_pylist()
    names = matches.names.name.take(pa.array(code, mask=code < 0)).to_pylist()
    return tuple(
        f"{quoted(uri)}: labelled with different poses"
        if name is None
        else f"{quoted(uri)}: label {quoted(name)} may mean this photo or another, and names neither exactly"
        for uri, name in zip(uris, names, strict=True)
    )


def find_loose(photos: pa.Table, matches: Matches) -> Counted:
    """Count the labels that spell the name of their photo differently."""
    likeness = matches.likeness
    if likeness is None:
        return Counted()
    place = np.flatnonzero(matches.is_loose[likeness.codes])
    some = place[:EXAMPLES]
    names = matches.names.name.take(pa.array(likeness.codes[some])).to_pylist()
    uris = take_rows(photos["uri"], likeness.photo[some]).to_pylist()
    return Counted(
        len(place),
        tuple(f"{quoted(name)} means {quoted(uri)}" for name, uri in zip(names, uris, strict=True)),
    )


def find_shared(matches: Matches) -> Counted:
    """Count the labels whose name fits several photos."""
    count = np.bincount(matches.pairs.code, minlength=len(matches.names))
    codes = np.flatnonzero(count > 1)
    names = matches.names.name.take(pa.array(codes[:EXAMPLES])).to_pylist()
    return Counted(
        len(codes),
        tuple(f"{quoted(name)}: {count[code]} photos" for name, code in zip(names, codes, strict=False)),
    )


def find_undecodable(photos: pa.Table) -> tuple[str, ...]:
    """Name the photos in a format that cannot be decoded here."""
    return tuple(photos["uri"].filter(are_undecodable(photos["key"])).to_pylist())


def report_sources(
    listings: Sequence[Listing], photos: pa.Table, matches: Matches
) -> tuple[SourceReport, ...]:
    """Count the photos of each source."""
    rows = iter(spans(listings))
    is_waiting = are_waiting(photos["key"]).to_numpy()
    reports = []
    for listing in listings:
        if listing.table is None:
            reports.append(SourceReport(str(listing.source), error=str(listing.error)))
            continue
        ((_, span),) = islice(rows, 1)
        reports.append(
            SourceReport(
                str(listing.source),
                total=span.stop - span.start,
                labelled=int(np.count_nonzero(matches.is_known[span])),
                unusable=int(np.count_nonzero(matches.is_unusable[span])),
                waiting=int(np.count_nonzero(is_waiting[span] & ~matches.is_known[span])),
                bytes=pc.sum(photos["size"].slice(span.start, span.stop - span.start)).as_py() or 0,
                num_others=listing.num_others,
            )
        )
    return tuple(reports)


def find_problem(
    listings: Sequence[Listing],
    photos: pa.Table,
    labels: Labels,
    matches: Matches,
    conflicts: Sequence[str],
) -> PhysiqError:
    """Return the error that says why no photo can be used."""
    listed = [str(listing.source) for listing in listings if listing.table is not None]
    errors = [str(listing.error) for listing in listings if listing.error is not None]
    if not listed:
        return StorageError(f"none of the {len(listings)} sources could be listed: {'; '.join(errors)}")
    not_listed = "".join(f"; {error}" for error in errors)
    if photos.num_rows == 0:
        return DataError(f"no photos in {', '.join(listed)}; check bucket and prefix{not_listed}")
    num_known = int(np.count_nonzero(matches.is_known))
    if num_known:
        reasons = [
            f"{count} {what}"
            for count, what in (
                (len(conflicts), "with conflicting labels"),
                (int(np.count_nonzero(matches.is_poseless)), "of no known pose"),
                (int(np.count_nonzero(matches.is_unusable)), "with labels that cannot be used"),
            )
            if count
        ]
        all_conflict = len(conflicts) == num_known
        return DataError(
            f"{'all labels conflict' if all_conflict else 'no labelled photo can be used'}: of "
            f"{photos.num_rows} photos {num_known} are labelled, {', '.join(reasons)}; correct the labels"
            f"{f', the first is {conflicts[0]}' if conflicts else ''}{not_listed}"
        )
    example = quoted(labels.table["name"][0].as_py()) if labels.table.num_rows else "'(no usable label)'"
    return DataError(
        f"no label matches a photo: {photos.num_rows} photos, {labels.table.num_rows} usable labels, "
        f"{len(conflicts)} conflicts; labels are matched on the file name, for example a photo "
        f"{quoted(photos['key'][0].as_py())} and a label {example}; "
        f"check labels, sources and source_buckets{not_listed}"
    )


def find_split_problem(
    table: pa.Table, mapping: ClassMapping, poses: Mapping[int, str], thin_poses: Sequence[str]
) -> PhysiqError | None:
    """Return the error that says why the usable photos are not enough, or None."""
    if len(mapping.classes) < 2:
        only = mapping.pose_ids[0]
        return DataError(
            f"only one pose ({only} {poses.get(only, '')}) has labelled photos; at least two are needed"
        )
    if len({TRAIN, VALIDATION} & set(pc.unique(table["split"]).to_pylist())) < 2:
        return DataError("no photos for training or for validation: " + "; ".join(thin_poses))
    return None


def find_thin_poses(
    mapping: ClassMapping, poses: Mapping[int, str], class_index: IntArray, side: IntArray, *, is_given: bool
) -> tuple[str, ...]:
    """Name the poses without a photo for training or for validation."""
    thin = []
    for index, pose_id in enumerate(mapping.pose_ids):
        name = f"pose {pose_id} {poses.get(pose_id, '')}".rstrip()
        train, validation, test = np.bincount(side[class_index == index] - 1, minlength=len(SPLITS)).tolist()
        if train == 0 and (test or is_given):
            thin.append(f"{name}: all its photos are for {VALIDATION} or {TEST}; label some to train on")
        elif train == 0:
            thin.append(f"{name}: all its photos are in validation groups; label more or use smaller groups")
        elif validation == 0:
            where = "" if is_given else " in one group"
            thin.append(
                f"{name}: {train} photo(s){where}, all in training; "
                "no validation photo measures it: label more"
            )
    return tuple(thin)
