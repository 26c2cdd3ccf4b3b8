"""`training/<pose id>/`, `validation/<pose id>/` and `test/<pose id>/`, by the split that `train` makes.

A split moves when photos are added, and a photo that lies on both sides makes a validation worthless. So a
photo that changed its side or its pose is moved before anything is downloaded; one that is in no manifest any
more is somebody's decision: it is named, not deleted.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.errors import StorageError
from physiq_ray.storage import LISTING_SCHEMA, Listing, is_photo
from physiq_ray.sync.paths import flat_name
from physiq_ray.sync.plan import LocalFiles, Photo

if TYPE_CHECKING:
    from physiq_ray.manifest import Manifest

SIDES: Final = {"train": "training", "validation": "validation", "test": "test"}  # by the manifest's word


@dataclass(frozen=True)
class Sorting:
    """What brings the two folders in order: moves (from, to), copies to remove, files of no manifest."""

    moves: tuple[tuple[str, str], ...]
    copies: tuple[str, ...]
    stale: tuple[str, ...]


def sorted_photos(manifest: "Manifest", listings: Sequence[Listing], name_max: int) -> list[Photo]:
    """Give the manifest's photos with their places by side and pose."""
    listed = [(number, item.table) for number, item in enumerate(listings) if item.table is not None]
    everything = pa.concat_tables([LISTING_SCHEMA.empty_table(), *(table for _, table in listed)])
    sources = [number for number, table in listed for _ in range(table.num_rows)]
    table = manifest.table
    rows = pc.index_in(table["uri"], everything["uri"].combine_chunks()).to_pylist()
    seconds = seconds_of(everything["modified"])
    columns = (table[name].to_pylist() for name in ("uri", "bucket", "key", "size", "etag"))
    places = zip(table["split"].to_pylist(), table["pose_id"].to_pylist(), rows, strict=True)
    return [
        Photo(
            uri,
            f"{SIDES[split]}/{pose_id}/{flat_name(bucket, key, name_max)}",
            size,
            etag,
            seconds[row],
            sources[row],
        )
        for uri, bucket, key, size, etag, (split, pose_id, row) in zip(*columns, places, strict=True)
    ]


def seconds_of(modified: pa.ChunkedArray) -> list[int]:
    """Give a listing's times in whole seconds since 1970."""
    return [milliseconds // 1000 for milliseconds in modified.cast(pa.int64()).to_pylist()]


def plan_sorting(photos: Iterable[Photo], files: LocalFiles) -> Sorting:
    """Compare where photos should be with where files of their names are; nothing is touched."""
    wanted = {photo.path.rpartition("/")[2]: photo.path for photo in photos}
    lying: dict[str, list[str]] = {}
    stale = []
    for path in _photo_files(files):
        name = path.rpartition("/")[2]
        if name not in wanted or files.look(path).kind != "file":  # a link is nobody's photo
            stale.append(path)
        else:
            lying.setdefault(name, []).append(path)
    moves, copies = [], []
    for name, paths in lying.items():
        others = [path for path in paths if path != wanted[name]]
        kind = files.look(wanted[name]).kind
        if others and kind == "absent":
            moves.append((others.pop(), wanted[name]))
        if kind in {"absent", "file"}:
            copies += others
        else:  # its place is taken by what may not be written to
            stale += others
    return Sorting(tuple(moves), tuple(copies), tuple(sorted(stale)))


def apply_sorting(sorting: Sorting, folder: Path) -> None:
    """Move and remove as planned.

    Raises OSError. What another sync has moved meanwhile is passed over.
    """
    for old, new in sorting.moves:
        (folder / new).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (folder / old).replace(folder / new)
    for path in sorting.copies:
        (folder / path).unlink(missing_ok=True)


def refuse_half_a_split(listings: Sequence[Listing], files: LocalFiles) -> None:
    """Refuse to sort while photos lie here of a source that could not be listed.

    A copy of one of them may go to the other side; nobody can tell while it is not listed.
    Raises StorageError.
    """
    names = [path.rpartition("/")[2] for path in _photo_files(files)]
    for listing in listings:
        if listing.error is None:
            continue
        count = sum(name.startswith(f"{listing.source.name}%2F") for name in names)
        if count:
            raise StorageError(
                f"{listing.error}; {count} photos of it lie in the folder, and without its listing nobody "
                "can tell on which side they belong: nothing is moved or downloaded"
            )


def _photo_files(files: LocalFiles) -> Iterator[str]:
    for side in SIDES.values():
        for pose in files.names(side):
            yield from (f"{side}/{pose}/{name}" for name in files.names(f"{side}/{pose}") if is_photo(name))
