"""Error responses of S3 that the server did not send, for handlers of botocore's `before-send` events."""

from collections.abc import Iterator
from typing import Any

from botocore.awsrequest import AWSResponse


class Body:
    """The body of a response, as botocore reads it."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        yield self.data


def refusal(code: str, message: str, status: int = 403) -> AWSResponse:
    """Give the response with which S3 refuses a request."""
    xml = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return AWSResponse("http://127.0.0.1", status, {"Content-Type": "application/xml"}, Body(xml.encode()))
