import pytest

from physiq_ray.errors import DataError
from physiq_ray.quarantine import Unreadable, check_unreadable


def test_the_error_of_too_many_unreadable_photos_counts_changed_and_gone_ones():
    items = [
        Unreadable(f"s3://b/{n}.jpeg", step, "no") for n, step in enumerate(["changed", "gone", "fetch"])
    ]
    with pytest.raises(DataError) as caught:
        check_unreadable(items, 20, 0.1)
    assert str(caught.value) == (
        "3 of 20 photos cannot be read, more than max_unreadable_share=0.1 allows: s3://b/0.jpeg: no; "
        "s3://b/1.jpeg: no; s3://b/2.jpeg: no; 2 of them changed or disappeared since they were listed "
        "(1 changed, 1 gone): check their labels, then start a new run, which lists the photos again"
    )
