"""The errors of the HTTP API: status, code and sentence, and which error of the program gets which.

Each error is the JSON of `ErrorAnswer` in `physiq_ray/serving/schema.py`.
"""

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

from physiq_ray.errors import (
    FormatError,
    PhotoError,
    PhysiqError,
    StorageError,
    TooLargeError,
    UnreachableError,
)

if TYPE_CHECKING:
    from physiq_ray.serving.schema import ErrorAnswer


class RequestError(Exception):
    """An error that is answered to the client: an HTTP status, a code for programs, a sentence for people."""

    def __init__(self, status: int, code: str, message: str, *, retry_after_s: int | None = None) -> None:
        """retry_after_s: for 429 and 503, after how many seconds the client may try again."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s

    def to_answer(self) -> "ErrorAnswer":
        """Give the body of the response."""
        from physiq_ray.serving.schema import ErrorAnswer, ErrorDetail  # not above: it imports torch

        return ErrorAnswer(error=ErrorDetail(code=self.code, message=self.message))

    def to_response(self) -> JSONResponse:
        """Give the response."""
        headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.to_answer().model_dump(), status_code=self.status, headers=headers)


def too_large(max_bytes: int) -> RequestError:
    """Give the error for a body that is too long."""
    return RequestError(413, "too_large", f"the request has more than {max_bytes} bytes; send smaller photos")


def unavailable() -> RequestError:
    """Give the error for a model that does not answer."""
    return RequestError(503, "unavailable", "the model does not respond at the moment", retry_after_s=5)


def to_request_error(error: PhysiqError) -> RequestError:
    """Translate an error of the program for the client.

    Sentences about storage and models are left out: they name buckets, rights and addresses.
    """
    if isinstance(error, TooLargeError):
        return RequestError(413, "too_large", f"the photo is too large: {error}")
    if isinstance(error, FormatError):
        return RequestError(415, "unsupported_format", str(error))
    if isinstance(error, PhotoError):
        return RequestError(422, "unreadable", f"the photo {error}")
    if isinstance(error, UnreachableError):
        return RequestError(503, "storage_unreachable", "the bucket does not respond", retry_after_s=10)
    if isinstance(error, StorageError):
        return RequestError(422, "unreadable_uri", "no photo can be read at this uri")
    return unavailable()
