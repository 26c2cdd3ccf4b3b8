"""Read all photos of a manifest for an audit, in the tasks that prepare photos for a training.

If a training with the same settings would keep its photos on disk, they are added to that cache, where the
training finds them. A photo that is in the cache was decoded before in the listed version, and is not read
again. Otherwise photos are decoded to the small size of the perceptual hash, and no pixels are kept.
"""

from collections.abc import Callable, Generator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from ray.exceptions import RayError

from physiq_ray.cluster import smallest_object_store
from physiq_ray.config import Settings
from physiq_ray.constants import OUTAGE_RUN, TRAIN, VALIDATION
from physiq_ray.errors import ClusterError
from physiq_ray.ingest.choose import CacheSettings, choose_place
from physiq_ray.ingest.reading import PhotoReader, StoredPhotos
from physiq_ray.ingest.tasks import keys_of, read_in_tasks
from physiq_ray.near import HASH_PX
from physiq_ray.prepared import Cache
from physiq_ray.quarantine import Unreachable, Unreadable
from physiq_ray.storage import current_access

Checked = Generator[tuple[int, int | Unreadable], None, None]  # the row of a photo, and its hash or its fault
BoolArray = npt.NDArray[np.bool_]


def checking(
    settings: Settings,
    join_cluster: Callable[[], object],
    *,
    reader: PhotoReader | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Callable[[pa.Table, bool], Checked]:
    """Give the function that reads all photos of a manifest's table, and hashes them if its flag is set.

    It gives each photo once, in any order; without hashes, a readable photo gives 0. It raises SettingError:
    cache=disk is not available; StorageError: the cache cannot be read; ClusterError: Ray failed.
    join_cluster: called before the first task, if there is a photo. reader: as for `build_dataset`. note:
    receives a sentence if photos are kept, and one if they cannot be kept.
    """

    def check(photos: pa.Table, with_hashes: bool) -> Checked:
        if not photos.num_rows:
            return
        join_cluster()
        cache, is_found, is_kept = _plan(photos, settings, note)
        is_read = ~is_kept if with_hashes else ~is_kept & ~is_found
        yield from ((row, 0) for row in np.flatnonzero(~is_kept & ~is_read).tolist())
        has_failed = False
        for chosen, image_size, place in (
            (np.flatnonzero(is_kept), settings.image_size, cache),
            (np.flatnonzero(is_read), HASH_PX, None),
        ):
            rows = iter(chosen.tolist())
            try:
                for block in read_in_tasks(
                    photos.take(pa.array(chosen)),
                    image_size=image_size,
                    reader=reader or StoredPhotos(current_access()),
                    cache=place,
                    with_hashes=with_hashes,
                    outage_run=OUTAGE_RUN,
                ):
                    if (failure := block["failure"][0].as_py()) and not has_failed:
                        note(f"{failure}; all photos are checked, but not all are kept")
                        has_failed = True
                    for record in block.select(["step", "error", "is_unreachable", "bits"]).to_pylist():
                        row = next(rows)
                        yield row, _result(photos["uri"][row].as_py(), **record)
            except RayError as error:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                raise ClusterError(
                    f"Ray failed while it read photos: {lines[-1]}; --debug shows more"
                ) from error

    return check


def _plan(
    photos: pa.Table, settings: Settings, note: Callable[[str], None]
) -> tuple[Cache, BoolArray, BoolArray]:
    """Give the cache on disk, and by row which photos are in it, and which ones to add."""
    is_trained = pc.is_in(photos["split"], value_set=pa.array([TRAIN, VALIDATION]))
    store_bytes = settings.use_gpu != "no" and smallest_object_store(with_gpu=True)
    cache, kind, why = choose_place(
        [photos.filter(is_trained)],
        CacheSettings(
            # An audit can be made before there is a place from which a GPU could be filled.
            "auto" if settings.cache == "gpu" else settings.cache,
            settings.cache_dir,
            settings.cache_limit_gib,
        ),
        image_size=settings.image_size,
        store_bytes=store_bytes or smallest_object_store(),
    )
    if kind != "disk":
        return cache, *np.zeros((2, photos.num_rows), bool)
    note(why)
    # Without an ETag, nothing tells whether a prepared photo is the listed version.
    has_etag: BoolArray = pc.not_equal(photos["etag"], "").to_numpy()
    keys = keys_of(photos)
    found = cache.find((key for key, known in zip(keys, has_etag, strict=True) if known), settings.image_size)
    is_found = has_etag & np.array([key in found.places for key in keys])
    return cache, is_found, has_etag & is_trained.to_numpy() & ~is_found


def _result(uri: str, *, step: str, error: str, is_unreachable: bool, bits: int) -> int | Unreadable:
    if not step:
        return bits
    return (Unreachable if is_unreachable else Unreadable)(uri, step, error)
