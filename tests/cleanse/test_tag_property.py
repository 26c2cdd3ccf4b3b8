"""After `cleanse --tag` only planned photos have the tag, for random buckets, labels, tags and kills."""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from physiq_ray import storage
from physiq_ray.cleanse import scan_buckets, tag_photos, untag_staying
from physiq_ray.config import CleanseSettings
from physiq_ray.storage.s3 import s3_client

pytestmark = pytest.mark.slow

TAG = "physiq-ray-unlabelled"
# No name resembles another: a photo that resembles an unmatched label would stay.
NAMES = ("a.jpg", "b.JPG", "c.jpeg", "é.png", "d e.webp", "g.txt", "h", "%5A+.gif", "j\nk.jpg")
KEYS = tuple(f"{folder}{name}" for folder in ("", "x/", "x.jpg/") for name in NAMES)
PHOTOS = {key for key in KEYS if not key.endswith((".txt", "h"))}
TODAY = date(2026, 3, 1)

_examples = itertools.count()


class Killed(BaseException):
    """Stands for SIGKILL: no code under test catches it."""


@pytest.fixture(scope="module")
def bucket(s3_direct: Any) -> str:
    s3_direct.create_bucket(Bucket="cleanse-tag-property")
    return "cleanse-tag-property"


tags_before = st.dictionaries(
    st.sampled_from([TAG, "owner", "k"]), st.sampled_from(["2026-01-31", "anna b", "9999-12-31"]), max_size=3
)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.dictionaries(st.sampled_from(KEYS), tags_before, min_size=2, max_size=14),
    labelled=st.sets(st.sampled_from(NAMES)),
    share=st.sampled_from([1.0, 1.0, 0.4]),
    late=st.sets(st.sampled_from(NAMES), min_size=1),
    kill_at=st.none() | st.integers(1, 40),
)
def test_only_planned_photos_have_the_tag(
    bucket, s3_direct, tmp_path, monkeypatch, before, labelled, share, late, kill_at
):
    monkeypatch.setattr("physiq_ray.cleanse.tag.SMALL_BATCH", 3)
    prefix = f"example-{next(_examples)}/"

    def put(key: str) -> None:
        s3_direct.put_object(Bucket=bucket, Key=prefix + key, Body=key.encode())
        tag_set = [{"Key": name, "Value": value} for name, value in before[key].items()]
        s3_direct.put_object_tagging(Bucket=bucket, Key=prefix + key, Tagging={"TagSet": tag_set})

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(put, before))
    (tmp_path / "poses.json").write_text('[{"id": 7, "name": "Back Lat Spread"}]')
    cleanse_settings = CleanseSettings(
        sources=(f"s3://{bucket}/{prefix}",),
        labels=str(tmp_path / "labels.json"),
        poses=str(tmp_path / "poses.json"),
        max_delete_share=share,
        max_unmatched_share=1.0,
        min_age_hours=0,
    )

    write_labels(tmp_path, labelled)
    storage.forget_clients()
    if kill_at is not None:
        requests = itertools.count(1)

        def kill(**_: Any) -> None:
            if next(requests) >= kill_at:
                raise Killed

        s3_client().meta.events.register("before-send.s3", kill)
        try:
            run(cleanse_settings)
        except Killed:
            check_the_rest(s3_direct, bucket, prefix, before)
        storage.forget_clients()
    run(cleanse_settings)
    check(s3_direct, bucket, prefix, before, labelled, share)

    write_labels(tmp_path, labelled | late)
    run(cleanse_settings)
    check(s3_direct, bucket, prefix, before, labelled | late, share)


def run(cleanse_settings: CleanseSettings) -> None:
    plan = scan_buckets(cleanse_settings, now=datetime.now(UTC))
    assert all(report.is_complete for report in untag_staying(plan))
    assert all(report.is_complete for report in tag_photos(plan, TODAY))


def check(s3_direct, bucket, prefix, before, labelled, share):
    found = check_the_rest(s3_direct, bucket, prefix, before)
    photos = PHOTOS & set(before)
    unlabelled = {key for key in photos if key.rpartition("/")[2] not in labelled}
    may_be_tagged = photos != unlabelled and len(unlabelled) <= share * len(photos)
    for key in before:
        if key not in PHOTOS:
            assert found[key] == before[key].get(TAG)
        elif key not in unlabelled or not may_be_tagged:
            assert found[key] is None
        else:
            # A photo keeps an older date, unless a refusal of an earlier run removed it.
            older = {"2026-01-31"} & {before[key].get(TAG)}
            assert found[key] in {"2026-03-01"} | older


def check_the_rest(s3_direct, bucket, prefix, before):
    """Check content and other tags, and give the value of our tag by key."""
    found = {}
    for key, tags in before.items():
        assert s3_direct.get_object(Bucket=bucket, Key=prefix + key)["Body"].read() == key.encode()
        tag_set = s3_direct.get_object_tagging(Bucket=bucket, Key=prefix + key)["TagSet"]
        now = {tag["Key"]: tag["Value"] for tag in tag_set}
        found[key] = now.pop(TAG, None)
        assert now == {name: value for name, value in tags.items() if name != TAG}
    return found


def write_labels(folder, names):
    records = [{"poseId": 7, "s3Filename": name} for name in (*names, "of-elsewhere.jpg")]
    (folder / "labels.json").write_text(json.dumps(records))
