"""The outermost layer of each answer: headers that keep browsers careful, a count, and the body's limit."""

import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from physiq_ray.serving.body import limited
from physiq_ray.serving.refusals import RequestError

LOGGER = logging.getLogger("ray.serve")

# Nothing but what this service sends itself; photos chosen on the page are shown from the browser's memory.
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
MAX_HEADER_BYTES = 32 * 1024  # of a request: HAProxy has a limit, Serve's own proxy has none
PREDICT_PATH = "/v1/predict"
DOCS = "/docs"  # FastAPI's, whose scripts come from another host


class Edge:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        busy: Callable[[], RequestError | None],
        count: Callable[[str, int], None],
    ) -> None:
        """busy: says why a photo cannot be taken just now; count: is told path and status of each answer."""
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._busy = busy
        self._count = count

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

        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            refusal = RequestError(
                431, "headers_too_large", f"the request's headers have more than {MAX_HEADER_BYTES} bytes"
            )
            await refusal.to_response()(scope, receive, send_with_headers)
            return
        is_prediction = scope["method"] == "POST" and path == PREDICT_PATH
        if is_prediction and (busy := self._busy()):
            # Before all else: ten times the capacity is mostly refusals, and what they cost answers lose.
            await busy.to_response()(scope, receive, send_with_headers)
            return
        try:
            await self._app(scope, limited(receive, self._max_body_bytes), send_with_headers)
        except ClientDisconnect:
            return  # nobody to answer
        except Exception:
            # Here and not by a handler: Starlette's is outside of this, without headers and count.
            LOGGER.exception("a fault in %s", _route(scope, path))
            if has_started:
                raise
            fault = RequestError(500, "internal", "a fault of the service")
            await fault.to_response()(scope, receive, send_with_headers)


def _place_under_root(scope: Scope) -> str:
    """Give the path below the one under which the service is shown (root_path, or Serve's route_prefix).

    A reverse proxy may take that path away or leave it: uvicorn has put it in front in both cases.
    """
    root = scope.get("root_path", "")
    path: str = scope["path"]
    if root and f"{path}/".startswith(f"{root}{root}/"):
        path = scope["path"] = path.removeprefix(root)
    return path.removeprefix(root)


def _without_host(location: str) -> str:
    """Keep a redirect on the address that the client used, which proxies in front may not pass on."""
    parts = urlsplit(location)
    return urlunsplit(("", "", "/" + parts.path.lstrip("/"), parts.query, ""))


def _route(scope: Scope, path: str) -> str:
    """Give the route that answered: what a client sends must not become a metric's name."""
    route: Any = scope.get("route")
    return str(getattr(route, "path", PREDICT_PATH if path == PREDICT_PATH else "unknown"))
