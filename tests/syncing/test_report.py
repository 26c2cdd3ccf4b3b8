"""The text and the JSON of a sync's results."""

from physiq_ray.syncing import BucketReport, SyncReport, describe_problems, describe_sync, sync_as_dict

DONE = BucketReport(
    "s3://done", found=5, left_out=1, to_download=2, downloaded=2, skipped=2, bytes=3_000_000, seconds=2.0
)
FAILING = BucketReport(
    "s3://failing",
    found=13,
    to_download=13,
    to_download_bytes=2_500_000,
    gone=("s3://failing/gone.jpg",),
    failures=tuple(
        (f"s3://failing/{n:02d}.jpg", f"download s3://failing/{n:02d}.jpg: no") for n in range(12)
    ),
)
MISSING = BucketReport("s3://missing", error="list s3://missing: NoSuchBucket")


def test_each_listed_bucket_has_a_line_and_the_last_one_is_the_total() -> None:
    report = SyncReport((DONE, FAILING, MISSING), dry_run=False, seconds=4.0)
    assert list(describe_sync(report)) == [
        "s3://done: 5 found, 1 left out, 2 downloaded, 2 skipped, 0 failed, "
        "3.0 MB in 2.0 s (1.5 MB/s, 1 files/s)",
        "s3://failing: 13 found, 0 downloaded, 0 skipped, 12 failed, 1 deleted since they were listed, "
        "0.0 MB",
        "total: 18 found, 1 left out, 2 downloaded, 2 skipped, 12 failed, 1 deleted since they were listed, "
        "3.0 MB in 4.0 s (0.8 MB/s, 0 files/s)",
    ]
    assert not report.is_complete


def test_a_dry_run_says_what_would_be_done() -> None:
    report = SyncReport((FAILING,), dry_run=True, seconds=0.0, moved=(("a", "b"),), removed=("c", "d"))
    assert list(describe_sync(report))[1:] == [
        "total: 13 found, 13 to download, 0 to skip, 12 failed, 1 deleted since they were listed, 2.5 MB",
        "would move 1 photos to the split and pose that they have now, 2 second copies removed",
    ]


def test_a_bucket_whose_photos_were_compared_by_length_is_named() -> None:
    report = SyncReport((DONE,), dry_run=False, seconds=2.0, checked_by_length=("s3://done",))
    assert list(describe_sync(report))[1] == (
        "s3://done: its ETags look like MD5s of the photos but are none (as in S3's directory buckets): the "
        "downloads were checked by their length only"
    )


def test_problems_are_ten_failures_of_a_bucket_stale_photos_and_missing_sources() -> None:
    stale = ("training/1/a.jpg", "training/1/b.jpg", "training/1/c.jpg", "training/1/d.jpg")
    report = SyncReport((DONE, FAILING, MISSING), dry_run=False, seconds=4.0, stale=stale)
    lines = list(describe_problems(report))
    assert lines[:10] == [f"physiq-ray sync: download s3://failing/{n:02d}.jpg: no" for n in range(10)]
    assert lines[10] == "physiq-ray sync: s3://failing: and 2 more failed; --json names all"
    assert lines[11].startswith(
        "physiq-ray sync: 4 stale photos in training and validation are no longer in the"
    )
    assert lines[11].endswith(
        ": training/1/a.jpg; training/1/b.jpg; training/1/c.jpg; …; check and delete them"
    )
    assert lines[12:] == ["NOT COMPLETE: without s3://missing: list s3://missing: NoSuchBucket"]


def test_json_names_every_failure_and_has_the_total() -> None:
    as_json = sync_as_dict(SyncReport((DONE, FAILING), dry_run=False, seconds=4.0))
    assert [source["failed"] for source in as_json["sources"]] == [0, 12]
    assert as_json["sources"][1]["failures"][11] == {
        "uri": "s3://failing/11.jpg",
        "error": "download s3://failing/11.jpg: no",
    }
    assert (as_json["total"]["found"], as_json["total"]["downloaded"], as_json["total"]["failed"]) == (
        18,
        2,
        12,
    )
    assert as_json["sources"][0]["megabytes_per_s"] == 1.5
    assert as_json["sources"][1]["files_per_s"] is None
