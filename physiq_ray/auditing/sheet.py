"""The contact sheet: some photos of each pose next to each other, so that wrong labels are easy to see."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from physiq_ray.drawing import PLAIN_TEXT, to_png
from physiq_ray.errors import PhotoError, StorageError
from physiq_ray.images import UInt8Array, decode_image
from physiq_ray.manifest import Manifest
from physiq_ray.storage import read_bytes, write_bytes

SHEET_COLUMNS = 8
READ_THREADS = 16

ListedPhoto = tuple[str, str]  # uri and listed ETag


def write_contact_sheet(
    manifest: Manifest, pose_names: Mapping[int, str], uri: str, *, seed: int = 42
) -> None:
    """Write a PNG with one row of photos for each pose.

    The photos are chosen at random; an equal seed gives equal photos. An unreadable photo is replaced by its
    error. Raises StorageError: the sheet cannot be written.
    """
    from matplotlib.figure import Figure  # the import takes half a second

    rng = np.random.default_rng(seed)
    rows = []
    for pose_id in manifest.class_mapping.pose_ids:
        of_pose = _listed_photos(manifest.table.filter(pc.equal(manifest.table["pose_id"], pose_id)))
        drawn = sorted(rng.choice(len(of_pose), min(SHEET_COLUMNS, len(of_pose)), replace=False))
        rows.append([of_pose[index] for index in drawn])
    with ThreadPoolExecutor(READ_THREADS) as threads:
        shown = list(threads.map(_look, [version for row in rows for version in row]))
    figure = Figure(figsize=(1.5 * SHEET_COLUMNS + 1.6, 2.1 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), SHEET_COLUMNS, squeeze=False)
    photos = iter(shown)
    for pose_id, row, row_axes in zip(manifest.class_mapping.pose_ids, rows, axes, strict=True):
        for cell in row_axes:
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set_visible(False)
        row_axes[0].set_ylabel(f"{pose_names.get(pose_id, '')}\n(id {pose_id})", fontsize=10, **PLAIN_TEXT)
        for cell, (photo_uri, _) in zip(row_axes, row, strict=False):
            photo = next(photos)
            if isinstance(photo, str):
                cell.text(
                    *(0.5, 0.5, photo[:60]), **PLAIN_TEXT, fontsize=5, ha="center", va="center", wrap=True
                )
            else:
                cell.imshow(photo)
            cell.set_title(photo_uri.rpartition("/")[2][-24:], fontsize=5, **PLAIN_TEXT)
    write_bytes(to_png(figure), uri)


def _listed_photos(table: pa.Table) -> list[ListedPhoto]:
    return list(zip(table["uri"].to_pylist(), table["etag"].to_pylist(), strict=True))


def _look(photo: ListedPhoto) -> UInt8Array | str:
    uri, etag = photo
    try:
        return decode_image(read_bytes(uri, etag=etag), min_side_px=200)
    except (StorageError, PhotoError) as error:
        return str(error)
