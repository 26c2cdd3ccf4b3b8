"""The body of a request → the photos in it, within limits.

A photo is the body itself, a part of a multipart form, base64 in JSON, or an address in S3. The Content-Type
decides only how the body is parsed; the bytes of a photo decide which format it has.
"""

import json
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from physiq_ray.config import ServingSettings
from physiq_ray.serving.access import is_allowed
from physiq_ray.serving.encodings import decode_base64, decoded
from physiq_ray.serving.refusals import RequestError

MAX_JSON_BYTES = 64 * 1024  # without photos
# Characters of JSON's structure; a photo in base64 has at most one of them, the comma of its data: address.
JSON_MARKS = (b",", b"[", b"{")
MAX_LONG_JSON_MARKS = 1024
JSON_WANTED = (
    'send {"image": "<base64>"}, {"images": ["<base64>", …]}, {"uri": "s3://bucket/key"} or '
    '{"uris": ["s3://…", …]}'
)
MAX_NAME_LENGTH = 200  # of a part's file name, which is returned to the client
# The last is what curl sends with --data-binary; a browser's form of this type has no photo, so that decoding
# fails.
BODY_TYPES = ("", "application/octet-stream", "application/x-www-form-urlencoded")


@dataclass(frozen=True)
class Upload:
    """One photo of a request: its bytes, or the uri to read it from; name: the one that the client gave."""

    name: str | None
    data: bytes = b""
    uri: str | None = None


async def read_uploads(request: Request, settings: ServingSettings) -> tuple[Upload, ...]:
    """Find the photos in a request.

    Raises RequestError: 400 the body is empty, or is not what its type says. 413 it has too many bytes or
    photos. 415 its type contains no photo, or its encoding is not read. 422 the JSON has another shape, or a
    uri is not allowed.
    """
    if encoding := request.headers.get("content-encoding"):
        request = Request(request.scope, decoded(request.receive, encoding, settings.max_body_bytes))
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        uploads = await _read_form(request, settings.max_photos)
    elif media_type == "application/json":
        uploads = _parse_json(await request.body(), settings)
    elif media_type in BODY_TYPES or media_type.startswith("image/"):
        uploads = (Upload(None, await request.body()),)
    else:
        raise RequestError(
            415,
            "unsupported_type",
            f"Content-Type {media_type[:100]!r}: send the photo as image/jpeg or the like, as parts of "
            'multipart/form-data, or {"image": "<base64>"} or {"uri": "s3://…"} as application/json',
        )
    if all(upload.uri is None and not upload.data for upload in uploads):
        raise RequestError(400, "empty", "no photo in the request: its body is empty")
    return uploads


async def _read_form(request: Request, max_photos: int) -> tuple[Upload, ...]:
    try:
        # One more than allowed: the photos are counted below, so that the message is ours.
        form = await request.form(max_files=max_photos + 1, max_fields=16)
    except HTTPException as error:  # Starlette's, if it is no form or has too many parts
        status, code = (413, "too_many") if "Too many" in str(error.detail) else (400, "bad_form")
        raise RequestError(status, code, f"multipart/form-data: {error.detail}") from error
    except UnicodeError as error:  # of a charset such as "undefined", which Starlette accepts
        raise RequestError(400, "bad_form", "multipart/form-data: not text in its charset") from error
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if len(files) > max_photos:
        raise RequestError(413, "too_many", f"more than {max_photos} photos in one request")
    if not files:
        raise RequestError(400, "empty", "multipart/form-data: no part has a file name")
    uploads = []
    for file in files:
        # A lone surrogate, of a charset such as "unicode_escape", could not be sent back.
        name = (file.filename or "").encode(errors="replace").decode()
        uploads.append(Upload(name[:MAX_NAME_LENGTH] or None, await file.read()))
        await file.close()  # parts of more than a megabyte are files on the disk
    return tuple(uploads)


def _parse_json(body: bytes, settings: ServingSettings) -> tuple[Upload, ...]:
    if len(body) > MAX_JSON_BYTES and sum(map(body.count, JSON_MARKS)) > MAX_LONG_JSON_MARKS:
        # Photos do not contain these characters. Text with many of them takes many times its length of memory
        # when it is parsed.
        raise RequestError(413, "too_large", f"JSON of more than {MAX_JSON_BYTES} bytes besides its photos")
    try:
        # Not strict, so that base64 may contain line breaks, as the command base64 writes them.
        value = json.loads(body, strict=False)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "bad_json", f"the body is not JSON; {JSON_WANTED}") from error
    name, items = "", None
    if isinstance(value, dict) and len(value) == 1:
        [(name, given)] = value.items()
        items = [given] if name in {"image", "uri"} else given if name in {"images", "uris"} else None
    if not isinstance(items, list) or not items or not all(isinstance(item, str) for item in items):
        raise RequestError(422, "bad_json", f"the JSON contains neither photos nor addresses; {JSON_WANTED}")
    if len(items) > settings.max_photos:
        raise RequestError(413, "too_many", f"more than {settings.max_photos} photos in one request")
    if name in {"image", "images"}:
        return tuple(
            Upload(None, decode_base64(item, name if name == "image" else f"images[{index}]"))
            for index, item in enumerate(items)
        )
    if len(body) > MAX_JSON_BYTES:
        raise RequestError(413, "too_large", f"addresses of more than {MAX_JSON_BYTES} bytes")
    for uri in items:
        if not is_allowed(uri, settings.allowed_sources):
            raise RequestError(422, "uri_not_allowed", f"{uri[:MAX_NAME_LENGTH]!r} may not be read here")
    return tuple(Upload(uri, uri=uri) for uri in items)
