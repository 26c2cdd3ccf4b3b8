"""Whether a new model may replace the current one: both predict the photos of the manifest `compare_on`.

The photos wait in the same queue as those of requests, one at a time, so that a request waits for at most one
of them.
Of the manifest, the test photos count, or else the validation photos, of which up to MOST_PHOTOS are chosen.
"""

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import pyarrow as pa
import pyarrow.compute as pc
import torch

from physiq_ray.checkpoint import ModelState
from physiq_ray.constants import ALL, TEST, VALIDATION
from physiq_ray.errors import PhotoError, StorageError
from physiq_ray.evaluation.compare import Comparison, compare
from physiq_ray.evaluation.labelled import LabelledPhotos
from physiq_ray.evaluation.scores import Evaluation
from physiq_ray.images import UInt8Array
from physiq_ray.manifest import Manifest
from physiq_ray.manifest.subset import choose_rows
from physiq_ray.prediction.answer import Float32Array
from physiq_ray.prediction.network import Forward
from physiq_ray.quarantine import Unreadable
from physiq_ray.serving.engine import Engine
from physiq_ray.storage import read_bytes

LOGGER = logging.getLogger("ray.serve")

MOST_PHOTOS = 1000
READ_AHEAD = 4  # photos

# The bytes of a photo and the size of a model's photos → the decoded photo, uint8 (size, size, 3).
Decode = Callable[[bytes, int], UInt8Array]


async def compare_models(
    new: tuple[ModelState, Forward],
    old: tuple[ModelState, Forward],
    manifest_uri: str,
    *,
    engine: Engine,
    reading: Executor,
    decode: Decode,
) -> Comparison:
    """Compare two loaded models on the photos of a manifest.

    The floors of the states decide which photos are refused. reading: fetches and decodes the photos.
    Raises StorageError: the manifest cannot be read. DataError: it is not a manifest, one of the models knows
    none of its poses, or none of its photos could be read. PredictionError: the engine is closed.
    """
    loop = asyncio.get_running_loop()
    manifest = await loop.run_in_executor(reading, _read_manifest, manifest_uri)
    models = (new, old)
    photos = [LabelledPhotos.of(manifest, state.class_mapping, ALL) for state, _ in models]
    uris = sorted({uri for known in photos for uri in known.labels})
    LOGGER.info("comparing two models on %d photos of %s", len(uris), manifest_uri)
    places, computing = asyncio.Semaphore(READ_AHEAD), asyncio.Lock()

    async def predict(uri: str) -> list[Float32Array] | Unreadable:
        async with places:
            try:
                sizes = [state.image_size for state, _ in models]
                images = await loop.run_in_executor(reading, _read_photo, uri, sizes, decode)
                async with computing:
                    return [
                        (await asyncio.wrap_future(engine.submit(image, network))).outputs
                        for image, (_, network) in zip(images, models, strict=True)
                    ]
            except StorageError as error:
                return Unreadable(uri, "fetch", str(error))
            except PhotoError as error:
                return Unreadable(uri, "decode", str(error))

    found = dict(zip(uris, await asyncio.gather(*map(predict, uris)), strict=True))
    unreadable = [item for item in found.values() if isinstance(item, Unreadable)]
    outputs = {uri: item for uri, item in found.items() if not isinstance(item, Unreadable)}
    if unreadable:
        LOGGER.warning(
            "%d photos of %s are not compared, the first because: %s: %s",
            *(len(unreadable), manifest_uri, unreadable[0].uri, unreadable[0].error),
        )

    def evaluate(number: int) -> Evaluation:
        rows = torch.tensor([item[number].tolist() for item in outputs.values()])
        return photos[number].evaluation(list(outputs), rows, models[number][0], unreadable=unreadable)

    return compare(
        evaluate(0),
        evaluate(1),
        (new[0].class_mapping, old[0].class_mapping),
        {**old[0].pose_names, **new[0].pose_names},
    )


def why_worse(comparison: Comparison, *, new: str, old: str, manifest_uri: str) -> str:
    """Say on what a new model is significantly worse, and what to do; empty if it is not."""
    if not comparison.worse:
        return ""
    changes = "; ".join(
        f"{change.name}: {change.old:.1%} → {change.new:.1%} of {change.num_photos} photos "
        f"(p = {change.adjusted:.2g})"
        for change in comparison.worse
    )
    return (
        f"{new}: significantly worse than {old}, which stays: {changes}; for details, run physiq-ray "
        f"evaluate --model {new} --against {old} --manifest {manifest_uri}; to load the new model anyway, "
        "remove compare_on"
    )


def _read_manifest(uri: str) -> Manifest:
    """Read the photos of a manifest that count: at most MOST_PHOTOS of poses, and as many of none."""
    manifest = Manifest.from_parquet(read_bytes(uri), name=uri)
    split = TEST if manifest.split(TEST).num_rows else VALIDATION
    return dataclasses.replace(
        manifest, table=_choose(manifest.table, split), no_pose=_choose(manifest.no_pose, split)
    )


def _choose(table: pa.Table, split: str) -> pa.Table:
    rows = table.filter(pc.equal(table["split"], split))
    return rows.take(choose_rows(rows["uri"].to_pylist(), MOST_PHOTOS))


def _read_photo(uri: str, sizes: Sequence[int], decode: Decode) -> list[UInt8Array]:
    data = read_bytes(uri)
    return [decode(data, size) for size in sizes]
