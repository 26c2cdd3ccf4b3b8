"""`sync --sorted` writes folders that torchvision reads, with the splits of training."""

import json
from pathlib import Path
from typing import Any

import pytest
from torchvision.datasets import ImageFolder

from physiq_ray.config import SyncSettings
from physiq_ray.errors import DataError, StorageError
from physiq_ray.labels import load_poses
from physiq_ray.manifest import survey_photos
from physiq_ray.syncing import sync

POSES = {1: "One", 2: "Two", 11: "Eleven"}


@pytest.fixture
def label(tmp_path: Path) -> Any:
    """Give a function that writes the label file, name → pose id."""
    (tmp_path / "poses.json").write_text(
        json.dumps([{"id": pose_id, "name": name} for pose_id, name in POSES.items()])
    )

    def write(labels: dict[str, int]) -> None:
        records = [{"s3Filename": name, "poseId": pose_id} for name, pose_id in labels.items()]
        (tmp_path / "labels.json").write_text(json.dumps(records))

    return write


@pytest.fixture
def make_settings(tmp_path: Path) -> Any:
    def make(*sources: str, **values: Any) -> SyncSettings:
        return SyncSettings(
            sources=tuple(f"s3://{source}" for source in sources),
            poses=str(tmp_path / "poses.json"),
            labels=str(tmp_path / "labels.json"),
            **values,
        )

    return make


def expected(settings: SyncSettings, tmp_path: Path) -> set[str]:
    """Give the paths of the photos in the manifest of `train`."""
    table = survey_photos(settings, load_poses(tmp_path / "poses.json")).table
    return {
        f"{'training' if row['split'] == 'train' else 'validation'}/{row['pose_id']}/"
        f"{row['uri'].removeprefix('s3://').replace('/', '%2F')}"
        for row in table.select(["uri", "pose_id", "split"]).to_pylist()
    }


def paths(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_image_folder_reads_both_splits_with_the_classes_of_training(
    run_cli: Any,
    run_here: Any,
    make_bucket: Any,
    make_photo: Any,
    label: Any,
    make_settings: Any,
    tmp_path: Path,
) -> None:
    photos = {f"2026/{n}.jpg": make_photo(seed=n, size=(20, 30)) for n in range(24)}
    bucket = make_bucket(photos | {"2026/unlabelled.jpg": b"x"})
    other = make_bucket({"0.jpg": photos["2026/0.jpg"]})  # a copy, which stays in the same split
    label({f"{n}.jpg": (1, 2, 11)[n % 3] for n in range(24)})
    settings = make_settings(bucket, other, seed=7)
    flags = ("--poses", "poses.json", "--labels", "labels.json", "--seed", "7")
    sources = ("--sources", f"s3://{bucket}", f"s3://{other}")
    dry = run_here("sync", "f", *sources, "--sorted", *flags, "--dry-run")
    assert f"s3://{bucket}: 25 found, 1 left out, 24 to download" in dry.stdout
    assert not (tmp_path / "f").exists()

    done = run_cli("sync", "f", *sources, "--sorted", *flags)

    assert done.returncode == 0, done.stderr
    assert f"s3://{bucket}: 25 found, 1 left out, 24 downloaded" in done.stdout
    assert paths(tmp_path / "f") == expected(settings, tmp_path)
    manifest = survey_photos(settings, load_poses(tmp_path / "poses.json"))
    for side, split in (("training", "train"), ("validation", "validation")):
        dataset = ImageFolder(str(tmp_path / "f" / side))
        assert dataset.class_to_idx == manifest.class_mapping.class_to_idx == {"1": 0, "11": 1, "2": 2}
        assert len(dataset) == manifest.split(split).num_rows > 0
        assert dataset[0][0].size == (20, 30)


@pytest.mark.slow
def test_a_photo_that_changed_its_split_is_moved_and_not_downloaded_again(
    s3: Any, make_bucket: Any, label: Any, make_settings: Any, tmp_path: Path
) -> None:
    bucket = make_bucket({f"{n}.jpg": f"photo {n}".encode() for n in range(20)})
    label({f"{n}.jpg": 1 + n % 2 for n in range(20)})
    folder = tmp_path / "f"
    sync(make_settings(bucket, seed=1), folder, is_sorted=True)
    before = paths(folder)
    requests = s3.read_traffic(bucket).num_requests

    preview = sync(make_settings(bucket, seed=2), folder, is_sorted=True, dry_run=True)
    assert paths(folder) == before
    report = sync(make_settings(bucket, seed=2), folder, is_sorted=True)

    assert report.moved
    assert set(preview.moved) == set(report.moved)
    assert s3.read_traffic(bucket).num_requests == requests + 2  # the listings
    assert (report.sources[0].skipped, report.sources[0].downloaded) == (20, 0)
    assert paths(folder) == expected(make_settings(bucket, seed=2), tmp_path) != before


def test_a_photo_with_another_pose_is_moved_and_a_second_copy_removed(
    make_bucket: Any, label: Any, make_settings: Any, tmp_path: Path
) -> None:
    bucket = make_bucket({f"{n}.jpg": f"photo {n}".encode() for n in range(20)})
    labels = {f"{n}.jpg": 1 + n % 2 for n in range(20)}
    label(labels)
    folder = tmp_path / "f"
    settings = make_settings(bucket)
    sync(settings, folder, is_sorted=True)
    name = f"{bucket}%2F0.jpg"
    (copied,) = folder.glob(f"*/1/{name}")
    side = "validation" if copied.parent.parent.name == "training" else "training"
    (folder / side / "1" / name).write_bytes(copied.read_bytes())
    report = sync(settings, folder, is_sorted=True)
    assert report.removed == (f"{side}/1/{name}",)
    assert paths(folder) == expected(settings, tmp_path)

    label(labels | {"0.jpg": 2})
    report = sync(settings, folder, is_sorted=True)
    assert name in {new.rpartition("/")[2] for _, new in report.moved}
    assert report.sources[0].downloaded == 0
    assert paths(folder) == expected(settings, tmp_path)
    assert len(list(folder.glob(f"*/*/{name}"))) == 1


def test_stale_photos_are_named_and_not_deleted(
    run_here: Any, make_bucket: Any, label: Any, make_settings: Any, tmp_path: Path
) -> None:
    bucket = make_bucket({f"{n}.jpg": f"photo {n}".encode() for n in range(12)})
    labels = {f"{n}.jpg": 1 + n % 2 for n in range(12)}
    label(labels)
    sync(make_settings(bucket), tmp_path / "f", is_sorted=True)
    del labels["0.jpg"]
    label(labels)
    done = run_here(
        *("sync", "f", "--sources", f"s3://{bucket}", "--sorted"),
        *("--poses", "poses.json", "--labels", "labels.json"),
    )
    assert done.returncode == 0
    assert "1 stale photos in training and validation are no longer in the manifest" in done.stderr
    assert f"/1/{bucket}%2F0.jpg; check and delete them" in done.stderr
    assert len(list((tmp_path / "f").glob(f"*/1/{bucket}%2F0.jpg"))) == 1


def test_nothing_is_sorted_if_the_manifest_cannot_be_used_for_training(
    make_bucket: Any, label: Any, make_settings: Any, tmp_path: Path
) -> None:
    bucket = make_bucket({f"{n}.jpg": b"x" * n for n in range(1, 6)})
    label({f"{n}.jpg": 1 for n in range(1, 6)})
    with pytest.raises(DataError, match="only one pose"):
        sync(make_settings(bucket), tmp_path / "f", is_sorted=True)
    assert not (tmp_path / "f").exists()


def test_a_folder_with_photos_of_a_source_that_cannot_be_listed_is_refused(
    make_bucket: Any, s3_direct: Any, label: Any, make_settings: Any, tmp_path: Path
) -> None:
    bucket = make_bucket({f"{n}.jpg": f"photo {n}".encode() for n in range(12)})
    label({f"{n}.jpg": 1 + n % 2 for n in range(12)})
    fresh, folder = tmp_path / "fresh", tmp_path / "f"
    report = sync(make_settings(bucket, "not-there-at-all"), fresh, is_sorted=True)
    assert not report.is_complete
    assert report.sources[0].downloaded == 12
    (folder / "training" / "1").mkdir(parents=True)
    (folder / "training" / "1" / "not-there-at-all%2Fx.jpg").write_bytes(b"x")
    with pytest.raises(StorageError, match=r"NoSuchBucket.*; 1 photos of it are in the folder"):
        sync(make_settings(bucket, "not-there-at-all"), folder, is_sorted=True)
    assert paths(folder) == {"training/1/not-there-at-all%2Fx.jpg"}


def test_a_link_in_a_sorted_folder_is_neither_followed_nor_moved(
    make_bucket: Any, label: Any, make_settings: Any, tmp_path: Path
) -> None:
    bucket = make_bucket({f"{n}.jpg": f"photo {n}".encode() for n in range(12)})
    label({f"{n}.jpg": 1 + n % 2 for n in range(12)})
    folder, outside = tmp_path / "f", tmp_path / "outside"
    outside.mkdir()
    folder.mkdir()
    (folder / "training").symlink_to(outside)
    report = sync(make_settings(bucket), folder, is_sorted=True)
    num_training = sum(path.startswith("training") for path in expected(make_settings(bucket), tmp_path))
    assert len(report.sources[0].failures) == num_training
    assert list(outside.iterdir()) == []
