from building import (
    PLENTY,
    PLENTY_LABELS,
    POSES,
    build_manifest,
    labels_of,
    labels_with_sources,
    list_bucket,
    list_plenty,
    poses_by_key,
)

from physiq_ray.manifest import find_labelled
from physiq_ray.storage import Bucket, Listing


def test_a_decomposed_accent_matches_a_composed_one() -> None:
    photos = list_plenty(**{"x/se\u0301ance.jpg": "one"})

    manifest = build_manifest([photos], labels_of(*PLENTY_LABELS, ("s\u00e9ance.jpg", 1)), POSES)

    assert poses_by_key(manifest)["x/se\u0301ance.jpg"] == 1


def test_a_name_with_a_folder_is_searched_below_the_prefix_unless_it_is_a_whole_key() -> None:
    def below(prefix: str, *keys: str) -> Listing:
        return Listing(Bucket("one", prefix), list_bucket("one", *keys).table)

    listing = below("2026/", "2026/anna/a.jpg", "2026/2026/b.jpg", "2026/b.jpg", "2026/anna/c 1.jpg")
    labels = labels_with_sources(("anna/a.jpg", None), ("2026/b.jpg", None), ("anna/c%201.JPG", None))

    (named,) = find_labelled([listing], labels, POSES, {})

    assert named is not None
    assert named.is_labelled.to_pylist() == [True, False, True, True]
    both = [below("2025/", "2025/anna/a.jpg"), below("2026/", "2026/anna/a.jpg")]
    report = build_manifest([*both, list_plenty()],
                            labels_of(*PLENTY_LABELS, ("anna/a.jpg", 1)), POSES).report  # fmt: skip
    assert report.ambiguous == ("anna/a.jpg",)
    assert len(report.conflicts) == 2


def test_photos_with_the_same_file_name_in_two_folders_keep_their_own_poses() -> None:
    photos = list_bucket("checkins", *PLENTY, "anna/1.jpg", "bea/1.jpg", "cleo/1.jpg")

    manifest = build_manifest([photos], labels_of(*PLENTY_LABELS, ("anna/1.jpg", 1), ("bea/1.jpg", 2)), POSES)

    poses = poses_by_key(manifest)
    assert (poses["anna/1.jpg"], poses["bea/1.jpg"]) == (1, 2)
    assert "cleo/1.jpg" not in poses
    assert not manifest.report.conflicts
