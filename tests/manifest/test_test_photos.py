import pyarrow as pa
from building import PLENTY_LABELS, POSES, build_manifest, labels_with_groups, list_plenty

from physiq_ray.auditing import audit_manifest, describe
from physiq_ray.constants import SCORED_SPLITS
from physiq_ray.evaluation.candidates import Candidates
from physiq_ray.storage import Listing
from physiq_ray.syncing.sides import sorted_photos


def test_test_photos_are_counted_sorted_and_evaluated_separately() -> None:
    records = [(name, pose, None, "test" if name[2] in "01" else None) for name, pose in PLENTY_LABELS]
    listing = list_plenty()
    assert listing.table is not None
    modified = pa.array([0] * listing.table.num_rows, pa.timestamp("ms", tz="UTC"))
    position = listing.table.schema.get_field_index("modified")
    listing = Listing(listing.source, listing.table.set_column(position, "modified", modified))
    manifest = build_manifest([listing], labels_with_groups(*records), POSES)

    audit = audit_manifest(manifest, POSES)
    folders = {photo.path.rpartition("/")[0] for photo in sorted_photos(manifest, [listing], 255)}

    assert [(pose.train, pose.validation, pose.test, pose.total) for pose in audit.poses] == [
        (6, 2, 2, 10)
    ] * 2
    assert next(line.split() for line in describe(audit) if "validation" in line.split()) == [
        *("pose", "train", "validation", "test", "share")
    ]
    assert folders == {"training/1", "training/2", "validation/1", "validation/2", "test/1", "test/2"}
    assert SCORED_SPLITS == ("validation", "train", "test", "all")
    assert Candidates(manifest, "", manifest).words("test") == "the test photos of the training"
