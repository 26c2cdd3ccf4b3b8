from building import PLENTY, PLENTY_LABELS, POSES, build_manifest, labels_of, list_bucket, poses_by_key


def test_two_spellings_with_different_poses_conflict_but_an_exact_name_wins() -> None:
    keys = [*PLENTY, "x 1.jpg", "y 1.jpg", "z 1.jpg"]
    labels = labels_of(
        *PLENTY_LABELS,
        *(("x%201.jpg", 1), ("x+1.jpg", 2)),
        *(("y 1.jpg", 1), ("y%201.jpg", 2)),
        *(("z 1.jpg", 1), ("z%201.jpg", 1)),
    )

    manifest = build_manifest([list_bucket("checkins", *keys)], labels, POSES)

    poses = poses_by_key(manifest)
    assert manifest.report.conflicts == ("'s3://checkins/x 1.jpg': labelled with different poses",)
    assert (poses["y 1.jpg"], poses["z 1.jpg"]) == (1, 1)
    assert manifest.report.labels_without_photo == ("y%201.jpg",)
    assert manifest.report.loose.count == 3
