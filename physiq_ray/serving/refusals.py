"""What is answered in place of a prediction."""

from typing import Any

from starlette.responses import JSONResponse


class RequestError(Exception):
    """What is answered in place of a prediction: an HTTP status, a code for programs, a sentence."""

    def __init__(self, status: int, code: str, message: str, *, retry_after_s: int | None = None) -> None:
        """retry_after_s: for 429 and 503, when to come again."""
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after_s = retry_after_s

    def to_dict(self) -> dict[str, Any]:
        """Give the body of the answer."""
        return {"error": {"code": self.code, "message": self.message}}

    def to_response(self) -> JSONResponse:
        """Give the answer."""
        headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.to_dict(), status_code=self.status, headers=headers)


def too_large(max_bytes: int) -> RequestError:
    """Give the answer to a body that is too long."""
    return RequestError(413, "too_large", f"the request has more than {max_bytes} bytes; send smaller photos")
