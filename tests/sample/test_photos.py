import hashlib
import json
import re
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from physiq_ray.sample import photos as photos_module
from physiq_ray.sample.figures import Athlete, draw_photo
from physiq_ray.sample.photos import SamplePhotos, encode_jpeg, write_sample_photos
from physiq_ray.sample.poseless import PoselessKind, draw_poseless_photo

SMALL: dict[str, Any] = {"num_athletes": 3, "photos_per_pose": 1, "num_unlabelled": 6, "num_duplicates": 2}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> SamplePhotos:
    return write_sample_photos(tmp_path_factory.mktemp("sample"), seed=7, num_processes=1, **SMALL)


@pytest.fixture(scope="module")
def with_poseless(tmp_path_factory: pytest.TempPathFactory) -> SamplePhotos:
    """Draw the photos of `sample` and 20 of no known pose."""
    folder = tmp_path_factory.mktemp("poseless")
    return write_sample_photos(folder, seed=7, num_processes=1, num_poseless=20, **SMALL)


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def stored(sample: SamplePhotos) -> dict[str, Path]:
    return {path.name: path for folder in sample.buckets.values() for path in folder.rglob("*.jpeg")}


def records(sample: SamplePhotos) -> list[dict[str, object]]:
    loaded: list[dict[str, object]] = json.loads(sample.labels.read_text())
    return loaded


def decoded(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def is_truncated(path: Path) -> bool:
    try:
        decoded(path)
    except OSError:
        return True
    return False


@pytest.mark.slow
def test_the_same_seed_writes_the_same_bytes_however_many_processes_draw(
    sample: SamplePhotos, tmp_path: Path
) -> None:
    again = write_sample_photos(tmp_path, seed=7, num_processes=2, **SMALL)

    assert digests(tmp_path) == digests(sample.labels.parent)
    assert again.holdout_pose_id == sample.holdout_pose_id


@pytest.mark.slow
def test_another_seed_writes_other_photos(sample: SamplePhotos, tmp_path: Path) -> None:
    write_sample_photos(
        tmp_path,
        seed=8,
        num_processes=1,
        num_athletes=1,
        photos_per_pose=1,
        num_unlabelled=0,
        num_duplicates=0,
    )

    assert not set(digests(tmp_path).values()) & set(digests(sample.labels.parent).values())


def test_the_counts_match_the_written_files(sample: SamplePhotos) -> None:
    assert sample.num_labelled == 3 * 8 + 2 == len(records(sample))
    assert (sample.num_unlabelled, sample.num_duplicates, sample.num_truncated) == (6, 2, 1)
    assert sum(1 for folder in sample.buckets.values() for _ in folder.rglob("*.jpeg")) == 24 + 2 + 6


def test_file_names_are_unique_in_both_buckets_and_look_like_those_of_a_phone(sample: SamplePhotos) -> None:
    keys = [
        path.relative_to(folder).as_posix()
        for folder in sample.buckets.values()
        for path in folder.rglob("*.jpeg")
    ]

    assert len({key.rpartition("/")[2] for key in keys}) == len(keys)
    assert all(re.fullmatch(r"athlete-\d\d/\d{13}-IMG\d{4}\.jpeg", key) for key in keys)


def test_each_label_names_a_photo_in_the_bucket_of_its_source(sample: SamplePhotos) -> None:
    bucket_of = {"checkins": "checkin-poses", "training": "workout-images"}
    photos = stored(sample)

    for record in records(sample):
        path = photos[str(record["s3Filename"])]
        assert path.is_relative_to(sample.buckets[bucket_of[str(record["source"])]])
    assert set(Counter(record["poseId"] for record in records(sample))) == {1, 2, 5, 6, 7, 11, 14, 16}


def test_duplicates_have_equal_bytes_another_bucket_and_the_same_label(sample: SamplePhotos) -> None:
    photos = stored(sample)
    by_content: dict[bytes, list[dict[str, object]]] = {}
    for record in records(sample):
        by_content.setdefault(photos[str(record["s3Filename"])].read_bytes(), []).append(record)
    twins = [group for group in by_content.values() if len(group) > 1]

    assert [len(group) for group in twins] == [2, 2]
    for first, second in twins:
        assert first["poseId"] == second["poseId"]
        assert first["source"] != second["source"]


def test_exactly_one_labelled_photo_is_truncated_and_pillow_refuses_it(sample: SamplePhotos) -> None:
    photos = stored(sample)
    labelled = {str(record["s3Filename"]) for record in records(sample)}
    broken = [name for name, path in photos.items() if is_truncated(path)]

    assert len(broken) == 1
    assert broken[0] in labelled
    with pytest.raises(OSError, match="truncated"):
        decoded(photos[broken[0]])


def test_the_holdout_is_a_whole_photo_that_no_bucket_holds(sample: SamplePhotos) -> None:
    contents = [path.read_bytes() for path in stored(sample).values()]

    assert not is_truncated(sample.holdout)
    assert sample.holdout.read_bytes() not in contents
    assert sample.holdout_pose_id in {1, 2, 5, 6, 7, 11, 14, 16}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_undoing_the_exif_orientation_gives_the_upright_figure(orientation: int) -> None:
    rng = np.random.default_rng(orientation)
    upright = draw_photo(16, Athlete.random(rng), rng, (180, 240))

    with Image.open(BytesIO(encode_jpeg(upright, orientation=orientation, quality=92))) as image:
        shown = ImageOps.exif_transpose(image)
        stored_size = image.size

    assert shown.size == (180, 240)
    assert stored_size == ((240, 180) if orientation >= 5 else (180, 240))
    assert np.abs(np.asarray(shown).astype(float) - np.asarray(upright)).mean() < 6.0


@pytest.mark.slow
def test_many_photos_are_stored_rotated(tmp_path: Path) -> None:
    sample = write_sample_photos(
        tmp_path,
        seed=1,
        num_processes=2,
        num_athletes=5,
        photos_per_pose=1,
        num_unlabelled=0,
        num_duplicates=0,
    )
    orientations: Counter[int] = Counter()
    for path in stored(sample).values():
        with Image.open(path) as image:
            orientations[image.getexif()[0x0112]] += 1

    assert 0.3 < 1 - orientations[1] / 40 < 0.8
    assert orientations[6] >= 4


@pytest.mark.slow
def test_progress_counts_up_to_all_photos(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    write_sample_photos(
        tmp_path,
        num_athletes=1,
        photos_per_pose=1,
        num_unlabelled=1,
        num_duplicates=0,
        num_processes=1,
        on_progress=lambda done, total: seen.append((done, total)),
    )

    assert seen == [(done, 10) for done in range(1, 11)]


@pytest.mark.slow
def test_photos_of_no_known_pose_come_on_top_and_change_no_other_photo(
    sample: SamplePhotos, with_poseless: SamplePhotos
) -> None:
    before, after = (digests(drawn.labels.parent) for drawn in (sample, with_poseless))
    del before["db_labels.json"], after["db_labels.json"]
    new = {name: digest for name, digest in after.items() if name not in before}

    assert {name: after.get(name) for name in before} == before
    assert len(set(new.values())) == 20
    assert records(with_poseless)[: len(records(sample))] == records(sample)
    assert (sample.num_poseless, with_poseless.num_poseless) == (0, 20)
    assert with_poseless.num_labelled == sample.num_labelled + 20 == len(records(with_poseless))
    assert with_poseless.holdout_pose_id == sample.holdout_pose_id


def test_labels_of_no_known_pose_are_null_and_name_whole_photos_in_both_buckets(
    with_poseless: SamplePhotos,
) -> None:
    photos = stored(with_poseless)
    null = [record for record in records(with_poseless) if record["poseId"] is None]
    athletes = Counter(photos[str(record["s3Filename"])].parent.name for record in null)

    assert Counter(record["source"] for record in null) == {"checkins": 12, "training": 8}  # 3 of 5
    assert sorted(athletes.values()) == [6, 7, 7]
    for record in null:
        path = photos[str(record["s3Filename"])]
        bucket = {"checkins": "checkin-poses", "training": "workout-images"}[str(record["source"])]
        assert path.is_relative_to(with_poseless.buckets[bucket])
        assert not is_truncated(path)


def test_photos_of_no_known_pose_have_the_sizes_and_orientations_of_the_others(
    with_poseless: SamplePhotos,
) -> None:
    photos = stored(with_poseless)
    null = [str(record["s3Filename"]) for record in records(with_poseless) if record["poseId"] is None]
    sizes, orientations = set(), set()
    for name in null:
        with Image.open(photos[name]) as image:
            orientations.add(image.getexif()[0x0112])
            sizes.add(ImageOps.exif_transpose(image).size)

    assert len(orientations) >= 4
    assert {(720, 960), (600, 800)} <= sizes <= {(720, 960), (600, 800), (540, 960), (810, 1080), (960, 720)}


@pytest.mark.slow
def test_the_kinds_of_no_known_pose_are_equally_frequent_and_mixed_among_the_athletes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[str, Athlete]] = []
    draw = draw_poseless_photo

    def recorded(kind: PoselessKind, athlete: Athlete, *args: Any) -> Image.Image:
        drawn.append((kind, athlete))
        return draw(kind, athlete, *args)

    monkeypatch.setattr(photos_module, "draw_poseless_photo", recorded)
    write_sample_photos(
        tmp_path,
        num_athletes=2,
        photos_per_pose=1,
        num_unlabelled=0,
        num_duplicates=0,
        num_poseless=18,
        num_processes=1,
    )

    assert sorted(Counter(kind for kind, _ in drawn).values()) == [4, 4, 5, 5]
    assert sorted(Counter(athlete for _, athlete in drawn).values()) == [9, 9]
    # If all rounds had the same order of athletes, each athlete would have two kinds only.
    assert all(len({kind for kind, who in drawn if who == athlete}) >= 3 for _, athlete in drawn)
