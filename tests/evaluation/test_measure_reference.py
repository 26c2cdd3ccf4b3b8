"""What the validation photos are like, for the file of the model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photosets import save_manifest

from physiq_ray.errors import DataError
from physiq_ray.evaluation import Answers
from physiq_ray.evaluation import measure_reference as measuring
from physiq_ray.evaluation.measure_reference import measure_reference
from physiq_ray.images import decode_square, mean_brightness
from physiq_ray.ingest import StoredPhotos
from physiq_ray.manifest import Manifest
from physiq_ray.reference import Reference
from physiq_ray.storage import current_access

ROWS = [(1, "train"), (2, "train"), *[(1, "validation")] * 4, (2, "validation")]


@pytest.fixture
def manifest(tmp_path: Path, make_photo: Any) -> Manifest:
    photos = [make_photo(number) for number in range(len(ROWS))]
    path = save_manifest(tmp_path / "photos", photos, ROWS)
    return Manifest.from_parquet(Path(path).read_bytes(), name=path)


def measure(manifest: Manifest) -> Reference:
    """Measure the validation photos of a model that predicts Pose 1, 1, 2, 1, 1 with these chances."""
    uris = tuple(manifest.split("validation")["uri"].to_pylist())
    chances = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4], [0.75, 0.25]])
    # At temperature 2, logits of 2 ln p give these chances.
    answers = Answers(uris, torch.tensor([0, 0, 0, 0, 1]), 2 * chances.log())
    return measure_reference(
        answers, manifest.table, temperature=2.0, image_size=64, reader=StoredPhotos(current_access())
    )


def test_it_counts_the_likeliest_poses_and_divides_the_rest_at_their_deciles(manifest: Manifest) -> None:
    reference = measure(manifest)

    assert reference.poses.counts.tolist() == [4, 1]
    deciles = np.arange(1, 10) / 10
    expected = np.quantile([0.9, 0.8, 0.7, 0.6, 0.75], deciles)
    assert reference.confidence.edges == pytest.approx(expected, abs=1e-6)
    files = [Path(uri).read_bytes() for uri in manifest.split("validation")["uri"].to_pylist()]
    assert reference.size.edges == pytest.approx(np.quantile([len(data) for data in files], deciles))
    images = np.stack([decode_square(data, size_px=64) for data in files])
    assert reference.brightness.edges == pytest.approx(np.quantile(mean_brightness(images), deciles))
    assert all(histogram.num_photos == 5 for histogram in reference.values().values())


def test_a_bounded_number_of_photos_is_read_and_an_unreadable_one_does_not_count(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris = manifest.split("validation")["uri"].to_pylist()
    Path(uris[0]).unlink()
    assert measure(manifest).brightness.num_photos == 4

    monkeypatch.setattr(measuring, "MOST_PHOTOS", 2)
    assert measure(manifest).brightness.num_photos in (1, 2)
    assert measure(manifest).size.num_photos == 5


def test_without_a_readable_photo_there_is_no_reference(manifest: Manifest) -> None:
    for uri in manifest.table["uri"].to_pylist():
        Path(uri).unlink()

    with pytest.raises(DataError, match="none of the validation photos can be read again"):
        measure(manifest)
