"""An HTTP request → the photos in it, within limits, or the reason why not.

A photo comes as the body itself, as parts of a multipart form, or by its address in S3. Nothing is believed
of what the client says of it: the type of a body decides how it is taken apart, its bytes what it is.
"""

import json
import unicodedata
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from physiq_ray.config import ServingSettings
from physiq_ray.errors import (
    FormatError,
    PhotoError,
    PhysiqError,
    StorageError,
    TooLargeError,
    UnreachableError,
)
from physiq_ray.storage import split_uri

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

MAX_JSON_BYTES = 64 * 1024
MAX_NAME_LENGTH = 200  # of a part's file name, which goes back to the client
# curl's own for --data-binary; a browser's form of this type holds no photo, which decoding then says.
BODY_TYPES = ("", "application/octet-stream", "application/x-www-form-urlencoded")


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


@dataclass(frozen=True)
class Upload:
    """One photo of a request: its bytes, or the uri to read it from; name: what the client calls it."""

    name: str | None
    data: bytes = b""
    uri: str | None = None


def limited(receive: Receive, max_bytes: int) -> Receive:
    """Wrap what gives a request's body so that it counts: a client may say one length and send another."""
    num_bytes = 0

    async def receive_limited() -> Message:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if num_bytes > max_bytes:
            raise too_large(max_bytes)
        return message

    return receive_limited


def too_large(max_bytes: int) -> RequestError:
    """Give the answer to a body that is too long."""
    return RequestError(413, "too_large", f"the request has more than {max_bytes} bytes; send smaller photos")


async def read_uploads(request: Request, settings: ServingSettings) -> tuple[Upload, ...]:
    """Take a request apart.

    Raises RequestError: 400 not what its type says, or nothing in it; 413 too much; 415 a type that holds no
    photo; 422 a uri that may not be read.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        uploads = await _read_form(request, settings.max_photos)
    elif media_type == "application/json":
        uploads = _parse_uris(await request.body(), settings)
    elif media_type in BODY_TYPES or media_type.startswith("image/"):
        uploads = (Upload(None, await request.body()),)
    else:
        raise RequestError(
            415,
            "unsupported_type",
            f"Content-Type {media_type[:100]!r}: send the photo as image/jpeg or the like, as parts of "
            'multipart/form-data, or {"uri": "s3://…"} as application/json',
        )
    if all(upload.uri is None and not upload.data for upload in uploads):
        raise RequestError(400, "empty", "no photo in the request: its body is empty")
    return uploads


async def _read_form(request: Request, max_photos: int) -> tuple[Upload, ...]:
    try:
        # One more than may be: it is counted below, for an answer of our own words.
        form = await request.form(max_files=max_photos + 1, max_fields=16)
    except HTTPException as error:  # Starlette's for what is no form, or has too many parts
        status, code = (413, "too_many") if "Too many" in str(error.detail) else (400, "bad_form")
        raise RequestError(status, code, f"multipart/form-data: {error.detail}") from error
    except UnicodeError as error:  # of a charset such as "undefined", which Starlette lets through
        raise RequestError(400, "bad_form", "multipart/form-data: its charset does not read it") from error
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if len(files) > max_photos:
        raise RequestError(413, "too_many", f"more than {max_photos} photos in one request")
    if not files:
        raise RequestError(400, "empty", "multipart/form-data: no part with a file name in it")
    uploads = []
    for file in files:
        # Half a surrogate, of a charset such as "unicode_escape", could not be sent back.
        name = (file.filename or "").encode(errors="replace").decode()
        uploads.append(Upload(name[:MAX_NAME_LENGTH] or None, await file.read()))
        await file.close()  # parts of more than a megabyte are files on the disk
    return tuple(uploads)


def _parse_uris(body: bytes, settings: ServingSettings) -> tuple[Upload, ...]:
    wanted = 'send {"uri": "s3://bucket/key"} or {"uris": ["s3://…", …]}'
    if len(body) > MAX_JSON_BYTES:
        raise RequestError(413, "too_large", f"JSON of more than {MAX_JSON_BYTES} bytes")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "bad_json", f"the body is not JSON; {wanted}") from error
    uris: object = None
    if isinstance(value, dict) and len(value) == 1:
        uris = [value["uri"]] if "uri" in value else value.get("uris")
    if not isinstance(uris, list) or not uris or not all(isinstance(uri, str) for uri in uris):
        raise RequestError(422, "bad_json", f"no addresses in the JSON; {wanted}")
    if len(uris) > settings.max_photos:
        raise RequestError(413, "too_many", f"more than {settings.max_photos} photos in one request")
    for uri in uris:
        if not is_allowed(uri, settings.allowed_sources):
            raise RequestError(422, "uri_not_allowed", f"{uri[:MAX_NAME_LENGTH]!r} may not be read here")
    return tuple(Upload(uri, uri=uri) for uri in uris)


def is_allowed(uri: str, allowed: Sequence[str]) -> bool:
    """Tell whether uri is an object of one of the allowed buckets or prefixes.

    Keys with "." or ".." as a part never are: some S3 servers resolve them, and so lead out of a prefix.
    """
    bucket, key = split_uri(uri)
    if not uri.startswith("s3://") or not key or "\\" in key:
        return False
    if any(unicodedata.category(character) in {"Cc", "Cf", "Cs"} for character in key):
        return False  # control characters, marks that turn text around, half surrogates
    if any(part in {".", ".."} for part in key.split("/")):
        return False
    for source in allowed:
        allowed_bucket, prefix = split_uri(source)
        prefix = prefix.rstrip("/")
        if bucket == allowed_bucket and (not prefix or key.startswith(prefix + "/")):
            return True
    return False


def to_request_error(error: PhysiqError) -> RequestError:
    """Give the HTTP answer to an error of ours."""
    if isinstance(error, TooLargeError):
        return RequestError(413, "too_large", f"the photo is too large: {error}")
    if isinstance(error, FormatError):
        return RequestError(415, "unsupported_format", str(error))
    if isinstance(error, PhotoError):
        return RequestError(422, "unreadable", f"the photo {error}")
    if isinstance(error, UnreachableError):
        return RequestError(503, "storage_unreachable", "the bucket does not answer", retry_after_s=10)
    if isinstance(error, StorageError):  # the sentence names rights and endpoints, which are not the client's
        return RequestError(422, "unreadable_uri", "no photo can be read at this uri")
    return RequestError(503, "unavailable", "the model does not answer just now", retry_after_s=5)
