"""The HTTP side of a review: its page, and a few small requests. Photos are named by number only.

    GET  /                     the page, with /page.css and /page.js
    GET  /session              poses and their keys, the number of photos, where to start
    GET  /queue?from=N         the photos from this position on, without their pixels
    GET  /photo/N              the photo of this number as a JPEG without EXIF data; ?zoom=1: larger
    GET  /search?q=TEXT        photos whose key contains the text
    GET  /progress             what was done, and contradictions with the label file
    POST /decide               {"row": N, "pose": 7 or null}
    POST /undo                 {}

What is refused, in this order:

    431  the headers are too large
    403  on loopback, the Host is not this machine: a page of another site would read photos by DNS rebinding
    403  a page of another origin sends the request
    401  off loopback, the bearer token is missing or wrong; only the page's own three files need none
    413  the body is too large
    415  a POST whose Content-Type is not JSON, which pages of other origins cannot send unasked
    409  X-Review, which /session gives, is of an earlier start: the numbers of the photos may differ now
    400  the body is not the JSON of the request, or a number is not one
"""

import json
import logging
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from physiq_ray.errors import PhotoError, ReviewError, StorageError
from physiq_ray.machine import is_loopback
from physiq_ray.review.photos import Photos
from physiq_ray.review.session import Session
from physiq_ray.serving.access import PREDICT, Tokens
from physiq_ray.serving.edge import HEADERS, MAX_HEADER_BYTES, PAGE_POLICY, limited
from physiq_ray.serving.refusals import RequestError

LOGGER = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
FILES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
MAX_BODY_BYTES = 4096
MAX_QUERY_CHARACTERS = 300


def build_app(session: Session, photos: Photos, tokens: Tokens, *, only_loopback: bool) -> ASGIApp:
    """Build the application of a review."""
    review_id = secrets.token_hex(8)

    def check_start(request: Request) -> None:
        given = request.headers.get("x-review")
        if given != review_id and (given is not None or request.method == "POST"):
            raise RequestError(409, "restarted", "the review was started again; reload this page")

    def serve_file(name: str) -> Callable[[Request], Awaitable[Response]]:
        async def send_file(_request: Request) -> Response:
            return FileResponse(PAGE / name)

        return send_file

    async def describe(_request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(session.describe) | {"review": review_id})

    async def queue(request: Request) -> Response:
        check_start(request)
        start, count = _number(request, "from", 0), _number(request, "count", 20)
        return JSONResponse({"items": await run_in_threadpool(session.items, start, count)})

    async def photo(request: Request) -> Response:
        check_start(request)
        row = request.path_params["row"]
        session.check_row(row)
        is_zoomed = request.query_params.get("zoom") == "1"
        data = await run_in_threadpool(lambda: photos.jpeg(row, is_zoomed=is_zoomed))
        return Response(data, media_type="image/jpeg")

    async def search(request: Request) -> Response:
        check_start(request)
        text = request.query_params.get("q", "")[:MAX_QUERY_CHARACTERS]
        return JSONResponse({"items": await run_in_threadpool(session.search, text)})

    async def progress(_request: Request) -> Response:
        return JSONResponse(session.progress())

    async def decide(request: Request) -> Response:
        body = await _read_body(request)
        check_start(request)
        row, pose = body.get("row"), body.get("pose", "missing")
        if type(row) is not int or not (pose is None or type(pose) is int):
            raise RequestError(400, "bad_request", 'expected {"row": number, "pose": pose id or null}')
        return JSONResponse(await run_in_threadpool(session.decide, row, pose))

    async def undo(request: Request) -> Response:
        await _read_body(request)
        check_start(request)
        return JSONResponse(await run_in_threadpool(session.undo))

    routes = [
        *(Route(path, serve_file(name)) for path, name in FILES.items()),
        Route("/session", describe),
        Route("/queue", queue),
        Route("/photo/{row:int}", photo),
        Route("/search", search),
        Route("/progress", progress),
        Route("/decide", decide, methods=["POST"]),
        Route("/undo", undo, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {
        RequestError: lambda _request, error: _answer(error),
        HTTPException: lambda _request, error: _answer(
            RequestError(error.status_code, "refused", str(error.detail))
        ),
        ReviewError: lambda _request, error: _answer(RequestError(507, "not_written", str(error))),
        # Sentences about storage name buckets and rights; the page shows them to a reviewer, who has both.
        StorageError: lambda _request, error: _answer(RequestError(422, "unreadable", str(error))),
        PhotoError: lambda _request, error: _answer(RequestError(422, "unreadable", f"the photo {error}")),
    }
    return Guard(Starlette(routes=routes, exception_handlers=handlers), tokens, only_loopback=only_loopback)


class Guard:
    """ASGI middleware: decides by the headers alone who may ask, and adds headers to every response."""

    def __init__(self, app: ASGIApp, tokens: Tokens, *, only_loopback: bool) -> None:
        self._app, self._tokens, self._only_loopback = app, tokens, only_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers["Content-Security-Policy"] = PAGE_POLICY
                headers["Cross-Origin-Resource-Policy"] = "same-origin"
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, limited(receive, MAX_BODY_BYTES), send_with_headers)
        except RequestError as refusal:
            await _answer(refusal)(scope, receive, send_with_headers)

    def _check(self, scope: Scope) -> None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            raise RequestError(431, "headers_too_large", f"more than {MAX_HEADER_BYTES} bytes of headers")
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._only_loopback and not is_loopback(_host_name(host)):
            raise RequestError(403, "wrong_host", "this page is only for this machine; open it by 127.0.0.1")
        if origin is not None and urlsplit(origin).netloc != host:
            raise RequestError(403, "wrong_origin", "a page of another origin must not use this one")
        if self._tokens.is_open or scope["path"] in FILES:
            return
        if PREDICT not in self._tokens.find(headers.get("authorization"))[1]:
            raise RequestError(
                401, "unauthorised", "the bearer token is missing or wrong: Authorization: Bearer …"
            )


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def _read_body(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestError(415, "unsupported_type", "send Content-Type: application/json")
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise RequestError(400, "bad_request", "the body is not a JSON object")
    return body


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise RequestError(400, "bad_request", f"{name}: expected a whole number")
    return int(text)


def _answer(error: RequestError) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
    return JSONResponse(
        {"error": {"code": error.code, "message": error.message}}, status_code=error.status, headers=headers
    )
