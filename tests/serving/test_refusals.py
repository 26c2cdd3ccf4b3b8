import pytest

from physiq_ray import errors
from physiq_ray.errors import PhysiqError
from physiq_ray.serving.refusals import to_request_error

ERRORS = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, PhysiqError)
]

STATUSES = {
    "PhysiqError": (503, "unavailable"),
    "SettingError": (503, "unavailable"),
    "LabelError": (503, "unavailable"),
    "StorageError": (422, "unreadable_uri"),
    "NotFoundError": (422, "unreadable_uri"),
    "ChangedError": (422, "unreadable_uri"),
    "DeniedError": (422, "unreadable_uri"),
    "UnreachableError": (503, "storage_unreachable"),
    "DataError": (503, "unavailable"),
    "PhotoError": (422, "unreadable"),
    "FormatError": (415, "unsupported_format"),
    "TooLargeError": (413, "too_large"),
    "WeightsError": (503, "unavailable"),
    "CheckpointError": (503, "unavailable"),
    "ClusterError": (503, "unavailable"),
    "TrainingError": (503, "unavailable"),
    "PredictionError": (503, "unavailable"),
    "ServingError": (503, "unavailable"),
    "CleanseError": (503, "unavailable"),
    "ReviewError": (503, "unavailable"),
}


def test_every_error_of_the_package_has_its_status_and_code() -> None:
    found = {
        error.__name__: (answer.status, answer.code)
        for error in ERRORS
        for answer in [to_request_error(error("is wrong"))]
    }

    assert found == STATUSES


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_has_a_status_from_400_to_503_and_retry_after_with_503_only(
    error: type[PhysiqError],
) -> None:
    answer = to_request_error(error("is wrong"))

    assert 400 <= answer.status <= 503
    assert answer.status != 500
    assert answer.to_answer().model_dump() == {"error": {"code": answer.code, "message": answer.message}}
    assert answer.message
    assert (answer.retry_after_s is not None) == (answer.status == 503)


@pytest.mark.parametrize(
    "error", [error for error in ERRORS if not issubclass(error, errors.PhotoError)], ids=lambda e: e.__name__
)
def test_details_that_do_not_concern_the_photo_are_not_revealed_to_the_client(
    error: type[PhysiqError],
) -> None:
    answer = to_request_error(
        error("read s3://athletes/secret as arn:aws:iam::1: AKIA123 at http://10.0.0.3")
    )

    for secret in ("athletes", "arn:", "AKIA", "10.0.0.3"):
        assert secret not in answer.message
