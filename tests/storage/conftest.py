"""S3 clients with a changed configuration, and a server with scripted answers."""

from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from s3_answers import Script

from physiq_ray import storage

Aws = Callable[..., None]


@pytest.fixture
def aws(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """Give a function that changes AWS environment variables; None removes a variable."""

    def change(**variables: str | None) -> None:
        for name, value in variables.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        storage.forget_clients()

    yield change
    storage.forget_clients()


@pytest.fixture
def scripted_s3(replace_s3: Any) -> Callable[[Script], list[str]]:
    """Give a function that starts a server with scripted answers, to inject faults.

    The script gets the number of the request, from 1, and gives the answer: status, headers and body. They
    are sent unchanged. The function returns a list, to which the path of each request is appended.
    """

    def start(script: Script) -> list[str]:
        paths: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                paths.append(self.path)
                status, headers, body = script(len(paths))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_PUT = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        replace_s3(Handler)
        return paths

    return start
