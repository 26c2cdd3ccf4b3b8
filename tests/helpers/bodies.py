"""Requests with a body, as a server hands them over, and what is read from them."""

import asyncio
import json

import pytest
from starlette.requests import Request

from physiq_ray.config import ServingSettings
from physiq_ray.serving.body import Upload, read_uploads
from physiq_ray.serving.edge import limited
from physiq_ray.serving.refusals import RequestError


def request_of(
    *chunks: bytes, content_type: str | None = None, encoding: str | None = None, max_bytes: int = 1000
) -> Request:
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    waiting = iter(messages)

    async def receive() -> dict[str, object]:
        return next(waiting)

    headers = [] if content_type is None else [(b"content-type", content_type.encode())]
    if encoding is not None:
        headers.append((b"content-encoding", encoding.encode()))
    # With "app", as under FastAPI: Starlette then gives its form errors as HTTP errors.
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "app": None}
    return Request(scope, limited(receive, max_bytes))


def read(request: Request, *allowed: str, max_body_bytes: int = 2**20) -> tuple[Upload, ...]:
    settings = ServingSettings(allowed_sources=allowed, max_photos=2, max_body_bytes=max_body_bytes)
    return asyncio.run(read_uploads(request, settings))


def refusal(request: Request, *allowed: str, max_body_bytes: int = 2**20) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read(request, *allowed, max_body_bytes=max_body_bytes)
    return caught.value


def json_of(value: object) -> Request:
    return request_of(json.dumps(value).encode(), content_type="application/json")
