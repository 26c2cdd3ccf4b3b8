"""`training/<pose id>/`, `validation/<pose id>/` and `test/<pose id>/`, by the split that `train` makes.

The split can change when photos are added, and a photo in both training and validation makes a validation
worthless. So a photo that changed its side or its pose is moved before anything is downloaded. A photo that
is no longer in the manifest is reported by name and not deleted, because that needs a person's decision.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from physiq_ray.constants import TEST, TRAIN, VALIDATION
from physiq_ray.errors import StorageError
from physiq_ray.storage import is_photo
from physiq_ray.syncing.paths import flat_name
from physiq_ray.syncing.plan import LocalFiles, Photo

if TYPE_CHECKING:
    import pyarrow as pa

    from physiq_ray.manifest import Manifest
    from physiq_ray.storage import Listing

SIDES: Final = {TRAIN: "training", VALIDATION: "validation", TEST: "test"}  # by the manifest's name


@dataclass(frozen=True)
class Sorting:
    """What sorts the folders: moves (from, to), copies to remove, and stale files, which stay."""

    moves: tuple[tuple[str, str], ...]
    copies: tuple[str, ...]
    stale: tuple[str, ...]


def sorted_photos(manifest: "Manifest", listings: Sequence["Listing"], name_max: int) -> list[Photo]:
    """Give the manifest's photos with their paths by side and pose."""
    import pyarrow as pa  # imported here: a sync that sorts nothing needs no Arrow
    import pyarrow.compute as pc

    from physiq_ray.storage import LISTING_SCHEMA

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


def seconds_of(modified: "pa.ChunkedArray") -> list[int]:
    """Give a listing's times in whole seconds since 1970."""
    import pyarrow as pa

    return [milliseconds // 1000 for milliseconds in modified.cast(pa.int64()).to_pylist()]


def plan_sorting(photos: Iterable[Photo], files: LocalFiles) -> Sorting:
    """Compare the paths that photos should have with the files of the same names; no file is changed."""
    wanted = {photo.path.rpartition("/")[2]: photo.path for photo in photos}
    lying: dict[str, list[str]] = {}
    stale = []
    for path in _photo_files(files):
        name = path.rpartition("/")[2]
        if name not in wanted or files.look(path).kind != "file":  # a link is not one of our photos
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
        else:  # at its place is something that must not be replaced
            stale += others
    return Sorting(tuple(moves), tuple(copies), tuple(sorted(stale)))


def apply_sorting(sorting: Sorting, folder: Path) -> None:
    """Move and remove as planned.

    Raises OSError. A file that another sync has moved meanwhile is ignored.
    """
    for old, new in sorting.moves:
        (folder / new).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            (folder / old).replace(folder / new)
    for path in sorting.copies:
        (folder / path).unlink(missing_ok=True)


def refuse_half_a_split(listings: Sequence["Listing"], files: LocalFiles) -> None:
    """Refuse to sort if the folder has photos of a source that could not be listed.

    A copy of such a photo may belong to the other side, which only its listing can show.
    Raises StorageError.
    """
    names = [path.rpartition("/")[2] for path in _photo_files(files)]
    for listing in listings:
        if listing.error is None:
            continue
        count = sum(name.startswith(f"{listing.source.name}%2F") for name in names)
        if count:
            raise StorageError(
                f"{listing.error}; {count} photos of it are in the folder, and without its listing their "
                "split is unknown: nothing is moved or downloaded"
            )


def _photo_files(files: LocalFiles) -> Iterator[str]:
    for side in SIDES.values():
        for pose in files.names(side):
            yield from (f"{side}/{pose}/{name}" for name in files.names(f"{side}/{pose}") if is_photo(name))
