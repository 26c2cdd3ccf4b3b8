"""The text and the JSON of the results of `cleanse`."""

from physiq_ray.cleanse import describe_removals, describe_restoral, removal_as_dict, restoral_as_dict
from physiq_ray.cleanse.plan import Kept
from physiq_ray.cleanse.report import RemovalReport, RestoreReport
from physiq_ray.storage import Bucket
from physiq_ray.storage.deletion import Condition

REMOVAL = RemovalReport(
    Bucket("checkins"),
    planned=20,
    deleted=9,
    freed_bytes=2_340_000,
    changed=("s3://checkins/c.jpg changed since it was listed (ETag 1 → 2)",),
    gone=2,
    kept=tuple(Kept(f"s3://checkins/{n}.jpg", "is labelled now") for n in range(7)),
    failures=("s3://checkins/f.jpg: AccessDenied",),
    condition=Condition.BATCH,
)


def test_every_photo_of_a_plan_is_counted_and_some_kept_photos_are_named() -> None:
    first, *kept = describe_removals([REMOVAL], is_move=False)
    assert first == (
        "s3://checkins: 9 of 20 deleted, 2.3 MB freed, 7 stay: the labels changed since the scan, "
        "1 stay: changed since the scan, 2 were already deleted, 1 failed"
    )
    assert kept == [
        *(f"  stays: s3://checkins/{n}.jpg is labelled now" for n in range(5)),
        "  stays: s3://checkins/c.jpg changed since it was listed (ETag 1 → 2)",
    ]
    assert next(describe_removals([REMOVAL], is_move=True)).startswith("s3://checkins: 9 of 20 moved")


def test_json_names_every_kept_or_failed_photo() -> None:
    as_json = removal_as_dict(REMOVAL)
    assert (as_json["deleted"], as_json["gone"], as_json["condition"]) == (9, 2, "batch")
    assert as_json["kept"] == [f"s3://checkins/{n}.jpg is labelled now" for n in range(7)]
    assert as_json["failures"] == ["s3://checkins/f.jpg: AccessDenied"]
    assert not REMOVAL.is_complete


def test_restored_photos_and_those_already_in_place_are_counted_separately() -> None:
    restoral = RestoreReport(total=24, restored=20, in_place=3, failures=("s3://checkins/a.jpg: gone",))
    assert describe_restoral(restoral) == (
        "24 photos in the journal: 20 restored, 3 already in place, 1 failed"
    )
    assert restoral_as_dict(restoral) == {
        "photos": 24,
        "restored": 20,
        "in_place": 3,
        "failures": ["s3://checkins/a.jpg: gone"],
    }
