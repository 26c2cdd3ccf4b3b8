"""Compute the perceptual hashes of photos in tasks of Ray Data, for the groups of near-duplicates."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from physiq_ray.config import SplitSettings
from physiq_ray.ingest.reading import PhotoReader, StoredPhotos
from physiq_ray.ingest.tasks import read_in_tasks
from physiq_ray.manifest import HashPhotos, PhotoHashes
from physiq_ray.manifest.report import Counted
from physiq_ray.near import HASH_PX, load_hash
from physiq_ray.storage import current_access

NOT_FETCHED_EXAMPLES = 3


def hashing(
    settings: SplitSettings,
    join_cluster: Callable[[], object],
    *,
    reader: PhotoReader | None = None,
    decode_resource: str | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> HashPhotos | None:
    """Give the function that hashes photos for the split, or None if the settings group no near-duplicates.

    join_cluster: called before the first task, so that Ray starts after the listing. reader, decode_resource:
    as for `build_dataset`. on_progress: called with the photos done and the photos in total.
    Raises SettingError: the ImageHash package is not installed on this machine.
    """
    if settings.group_near_duplicates == "no":
        return None
    load_hash()

    def hash_photos(photos: pa.Table) -> PhotoHashes:
        join_cluster()
        return _hash(photos, reader or StoredPhotos(current_access()), decode_resource, on_progress)

    return hash_photos


def _hash(
    photos: pa.Table,
    reader: PhotoReader,
    decode_resource: str | None,
    on_progress: Callable[[int, int], None],
) -> PhotoHashes:
    bits = np.zeros(photos.num_rows, np.uint64)
    is_known = np.zeros(photos.num_rows, bool)
    examples: list[str] = []
    num_not_fetched = done = 0
    for block in read_in_tasks(
        photos, image_size=HASH_PX, reader=reader, with_hashes=True, decode_resource=decode_resource
    ):
        end = done + block.num_rows
        steps = np.array(block["step"].to_pylist(), object)
        bits[done:end], is_known[done:end] = block["bits"].to_numpy(), steps == ""
        failed = np.flatnonzero(steps == "fetch")
        num_not_fetched += len(failed)
        room = max(0, NOT_FETCHED_EXAMPLES - len(examples))
        examples += [block["error"][row].as_py() for row in failed[:room].tolist()]
        done = end
        on_progress(done, photos.num_rows)
    return PhotoHashes(bits, is_known, Counted(num_not_fetched, examples))
