"""The outermost layer of the service: it refuses what needs no work, and adds headers to every response.

Where a request is refused, in this order:

    where                           status   when
    edge                            431      the headers have more than MAX_HEADER_BYTES
    edge, as pace decides           503      a prediction, and the replica has no room
    edge, while the body arrives    413      the body has more than max_body_bytes
    FastAPI                         404, 405 no such path, or not this method
    access, called by api           401      the bearer token is missing or wrong
                                    403      the bearer token is for other requests
                                    429      the client sent too many requests
    api                             413      Content-Length is more than max_body_bytes
    uploads, called by api          408      the upload is too slow
                                    503      too many uploads, and this one is the oldest of its client
    encodings, called by body       415      the Content-Encoding is not gzip
                                    400      the body is not gzip, or not base64
                                    413      the decompressed body has more than max_body_bytes
    body                            415      the Content-Type contains no photo
                                    400      empty, or not what the Content-Type says
                                    413      too many photos, or long JSON that is not photos
                                    422      other JSON, or a uri that access does not allow
    api, as pace decides            503      no room any more, after the upload
    corrections                     413, 422 feedback that is too long, or names no photo or no known pose
                                    503      the feedback cannot be stored at the moment
    service                         413      the photo has more than max_pixels
                                    415      not an image of a format that is read here
                                    422      the photo is damaged, or the uri cannot be read
                                    503      the model or the bucket does not respond
    api                             503      no answer within request_timeout_s
    edge                            500      a fault of the service itself

Clients that send again at once, whatever Retry-After says, would take the processor time of the answers. So
edge holds a request without room for PAUSE_S before it refuses it, and each response with 429 as well.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from physiq_ray.serving.refusals import RequestError, too_large

LOGGER = logging.getLogger("ray.serve")

# Only what this service itself sends; the page shows chosen photos from the browser's memory.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
PAUSE_S = 0.5
MAX_HEADER_BYTES = 32 * 1024  # of a request: HAProxy has a limit, Serve's own proxy has none
PREDICT_PATH = "/v1/predict"
DOCS = "/docs"  # FastAPI's page, whose scripts come from another host


class Edge:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        find_refusal: Callable[[], RequestError | None],
        count: Callable[[str, int], None],
        max_paused: int,
    ) -> None:
        """find_refusal: gives the error if there is no room. count: gets path and status of each answer.

        max_paused: so many requests are held at a time; more are refused at once.
        """
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._find_refusal = find_refusal
        self._count = count
        self._max_paused = max_paused
        self._num_paused = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = _place_under_root(scope)
        is_head = scope["method"] == "HEAD"
        if is_head:
            scope = {**scope, "method": "GET"}
        has_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                if message["status"] == 429:
                    await self._pause()
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if not path.startswith(DOCS):
                    headers.setdefault("Content-Security-Policy", PAGE_POLICY)
                if location := headers.get("location"):
                    headers["location"] = _without_host(location)
                self._count(_route(scope, path), message["status"])
            elif is_head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        refusal = _refusal_of_headers(scope)
        if refusal is None and scope["method"] == "POST" and path == PREDICT_PATH:
            refusal = await self._refusal_for_room()
        if refusal is not None:
            # Before anything else: under ten times the load, most requests are refused, and the time that a
            # refusal takes is lost for answers.
            await refusal.to_response()(scope, receive, send_with_headers)
            return
        try:
            await self._app(scope, limited(receive, self._max_body_bytes), send_with_headers)
        except ClientDisconnect:
            return  # nobody waits for a response
        except Exception:
            # Here and not in an exception handler: Starlette's is outside, without headers and count.
            LOGGER.exception("a fault in %s", _route(scope, path))
            if has_started:
                raise
            fault = RequestError(500, "internal", "a fault of the service")
            await fault.to_response()(scope, receive, send_with_headers)

    async def _refusal_for_room(self) -> RequestError | None:
        refusal = self._find_refusal()
        if refusal is not None:
            await self._pause()
            refusal = self._find_refusal()
        return refusal

    async def _pause(self) -> None:
        if self._num_paused >= self._max_paused:
            return
        self._num_paused += 1
        try:
            await asyncio.sleep(PAUSE_S)
        finally:
            self._num_paused -= 1


def _refusal_of_headers(scope: Scope) -> RequestError | None:
    if sum(len(name) + len(value) for name, value in scope["headers"]) <= MAX_HEADER_BYTES:
        return None
    return RequestError(
        431, "headers_too_large", f"the request's headers have more than {MAX_HEADER_BYTES} bytes"
    )


def limited(receive: Receive, max_bytes: int) -> Receive:
    """Wrap the function that gives a request's body so that it counts the bytes.

    A client may announce one length and send another. The function returned raises RequestError: 413 more
    than max_bytes.
    """
    num_bytes = 0

    async def receive_limited() -> Message:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if num_bytes > max_bytes:
            raise too_large(max_bytes)
        return message

    return receive_limited


def _place_under_root(scope: Scope) -> str:
    """Give the path below the one under which the service is shown (root_path, or Serve's route_prefix).

    A reverse proxy may remove that path or leave it; uvicorn puts it in front in both cases.
    """
    root = scope.get("root_path", "")
    path: str = scope["path"]
    if root and f"{path}/".startswith(f"{root}{root}/"):
        path = scope["path"] = path.removeprefix(root)
    return path.removeprefix(root)


def _without_host(location: str) -> str:
    """Keep a redirect on the address that the client used, which a proxy in front may not pass on."""
    parts = urlsplit(location)
    return urlunsplit(("", "", "/" + parts.path.lstrip("/"), parts.query, ""))


def _route(scope: Scope, path: str) -> str:
    """Give the route that answered: what a client sends must not become the name of a metric."""
    route: Any = scope.get("route")
    return str(getattr(route, "path", PREDICT_PATH if path == PREDICT_PATH else "unknown"))
