from collections.abc import Callable

import pytest
from s3_answers import Script

from physiq_ray.errors import UnreachableError
from physiq_ray.storage import read_bytes


@pytest.mark.usefixtures("without_waiting")
def test_an_incomplete_body_is_read_again(
    scripted_s3: Callable[[Script], list[str]],
) -> None:
    requests = scripted_s3(
        lambda number: (200, {"Content-Length": "10"}, b"01234" if number < 3 else b"0123456789")
    )

    assert read_bytes("s3://checkins/a.jpg") == b"0123456789"
    assert requests == ["/checkins/a.jpg"] * 3


@pytest.mark.usefixtures("without_waiting")
def test_a_body_that_stays_incomplete_is_an_error(
    scripted_s3: Callable[[Script], list[str]],
) -> None:
    requests = scripted_s3(lambda _: (200, {"Content-Length": "10"}, b"01234"))

    with pytest.raises(UnreachableError, match=r"^read s3://checkins/a\.jpg: .*5 bytes read"):
        read_bytes("s3://checkins/a.jpg")
    assert len(requests) == 16  # eight attempts of each client
