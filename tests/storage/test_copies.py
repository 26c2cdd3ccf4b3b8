import pytest

from physiq_ray.storage.copies import copy_object
from physiq_ray.storage.deletion import State
from physiq_ray.storage.versions import Target

pytestmark = pytest.mark.slow

ETAG_A = "0cc175b9c0f1b6a831c399e269772661"


def test_a_copy_overwrites_nothing_on_a_server_that_ignores_the_condition(
    make_bucket, s3_direct, read_bucket, on_request
):
    bucket, attic = make_bucket({"a.jpg": b"a"}), make_bucket({"a.jpg": b"another object"})
    on_request("provide-client-params.s3.CopyObject", lambda params, **_: params.pop("IfNoneMatch") and None)

    outcome = copy_object(bucket, Target("a.jpg", ETAG_A, 1), attic, "a.jpg")

    assert outcome is not None
    assert (outcome.state, outcome.error) == (
        State.FAILED,
        f"another object is at s3://{attic}/a.jpg; both stay",
    )
    assert read_bucket(attic) == {"a.jpg": b"another object"}
