import io
import json

import pytest
from building import POSES, build_manifest, labels_of, list_bucket
from PIL import Image

from physiq_ray.errors import SettingError, StorageError
from physiq_ray.labels import load_labels
from physiq_ray.suspects.found import find_suspects
from physiq_ray.suspects.report import refuse_existing, write_suspects

pytestmark = pytest.mark.slow

# What keys may contain and exports spoil.
ODD_KEYS = ["a b+c?.jpg", "50%20off#1.jpg", "Jürgen/é.jpg", "line\nbreak.jpg", "'quoted'.jpg", "//twice.jpg"]


def test_a_record_has_both_poses_and_the_rank_on_a_line_for_each_photo(two_wrong, tmp_path, make_photo):
    files = write_suspects(find_suspects(two_wrong), str(tmp_path / "out"), read=lambda _uri: make_photo())
    assert files == (str(tmp_path / "out" / "suspects.jsonl"), str(tmp_path / "out" / "suspects.png"))
    records = [json.loads(line) for line in (tmp_path / "out" / "suspects.jsonl").read_text().splitlines()]
    assert [record["uri"][-5] for record in records] == ["c", "d", "b", "a", "e"]
    assert records[0] == {
        "poseId": 1,
        "uri": "s3://checkins/c.jpg",
        "group": "group of s3://checkins/c.jpg",
        "rank": 1,
        "likelyWrong": True,
        "labelledPose": "Front Lat Spread",
        "labelledProbability": 0.1,
        "suggestedPoseId": 2,
        "suggestedPose": "Front Double Biceps",
        "suggestedProbability": 0.85,
        "fold": 2,
    }


def test_the_file_is_a_label_file_that_names_each_photo_exactly(predict, tmp_path, make_photo):
    photos = list_bucket("checkins", *ODD_KEYS, *(f"copy/{key}" for key in ODD_KEYS))
    before = build_manifest(
        [photos],
        labels_of(*((uri, 1 + n % 2) for n, uri in enumerate(photos.table["uri"].to_pylist()))),
        POSES,
    )
    poses = dict(zip(before.table["uri"].to_pylist(), before.table["pose_id"].to_pylist(), strict=True))
    assert len(poses) == 12
    suspects = find_suspects(predict(*((uri, pose, [0.4, 0.3, 0.3]) for uri, pose in poses.items())))
    labels, _ = write_suspects(suspects, str(tmp_path), read=lambda _uri: make_photo())

    read = load_labels([labels], POSES)

    assert (read.malformed, read.unknown_poses) == ((), ())
    after = build_manifest([photos], read, POSES)
    assert dict(zip(after.table["uri"].to_pylist(), after.table["pose_id"].to_pylist(), strict=True)) == poses
    assert after.report.labels_without_photo == ()
    assert set(read.table["group"].to_pylist()) == {f"group of {uri}" for uri in poses}


def test_the_sheet_shows_the_first_photos_that_can_be_read(two_wrong, tmp_path, make_photo):
    def read(uri):
        if uri.endswith("d.jpg"):
            raise StorageError("gone")
        return make_photo()

    _, sheet = write_suspects(find_suspects(two_wrong), str(tmp_path), read=read)
    with Image.open(sheet) as image:
        assert image.format == "PNG"
        assert image.width > image.height  # four photos a row, two rows


def test_the_sheet_has_at_most_48_photos(predict, tmp_path, make_photo):
    photos = [(f"s3://checkins/{number:03d}.jpg", 1, [0.4, 0.3, 0.3]) for number in range(60)]
    seen = []

    def read(uri):
        seen.append(uri)
        return make_photo()

    write_suspects(find_suspects(predict(*photos)), str(tmp_path), read=read)
    assert seen == [uri for uri, *_ in photos[:48]]


def test_a_file_that_may_hold_corrections_is_never_replaced(two_wrong, tmp_path, make_photo):
    (tmp_path / "suspects.jsonl").write_text("corrected")
    with pytest.raises(SettingError, match=r"suspects\.jsonl exists and may hold corrections; give another"):
        refuse_existing(str(tmp_path))
    with pytest.raises(StorageError, match="written by another process"):
        write_suspects(find_suspects(two_wrong), str(tmp_path), read=lambda _uri: make_photo())
    assert (tmp_path / "suspects.jsonl").read_text() == "corrected"
    assert refuse_existing(str(tmp_path / "elsewhere")) is None


def test_a_file_in_a_bucket_is_found_and_kept_too(two_wrong, make_bucket, read_bucket):
    photo = io.BytesIO()
    Image.new("RGB", (80, 60)).save(photo, "JPEG")
    bucket = make_bucket({"empty/readme.txt": b"x", "old/suspects.jsonl": b"corrected"})
    refuse_existing(f"s3://{bucket}/empty")
    with pytest.raises(SettingError, match="may hold corrections"):
        refuse_existing(f"s3://{bucket}/old")
    write_suspects(find_suspects(two_wrong), f"s3://{bucket}/empty", read=lambda _uri: photo.getvalue())
    assert {"empty/suspects.jsonl", "empty/suspects.png", "old/suspects.jsonl"} < set(read_bucket(bucket))
