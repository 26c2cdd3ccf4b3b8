"""A bounded number of photos, chosen by a hash."""

from physiq_ray.evaluation.behaviour import MOST_PHOTOS
from physiq_ray.manifest.subset import choose_rows


def test_the_sample_is_bounded_and_new_photos_change_little_of_it():
    uris = [f"s3://b/{number}.jpg" for number in range(1000)]
    chosen = {uris[row] for row in choose_rows(uris, MOST_PHOTOS)}
    assert len(chosen) == MOST_PHOTOS
    assert choose_rows(uris[:30], MOST_PHOTOS).tolist() == list(range(30))
    assert {uris[::-1][row] for row in choose_rows(uris[::-1], MOST_PHOTOS)} == chosen
    more = [*uris, *(f"s3://c/{number}.jpg" for number in range(100))]
    assert len({more[row] for row in choose_rows(more, MOST_PHOTOS)} & chosen) > 0.8 * MOST_PHOTOS


def test_of_no_photos_none_is_chosen():
    assert choose_rows([], 3).tolist() == []


def test_rows_are_drawn_once_each_and_the_same_each_time() -> None:
    uris = [f"{number}.jpg" for number in range(5000)]

    rows = choose_rows(uris, 2000)

    assert len(set(rows.tolist())) == 2000
    assert rows.tolist() == sorted(rows.tolist()) == choose_rows(uris, 2000).tolist()
    assert choose_rows(uris[:3], 2000).tolist() == [0, 1, 2]
