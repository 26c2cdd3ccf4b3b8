"""What the tests of sync share: a look at the folder and a server between us and the store."""

import http.client
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from physiq_ray import storage
from physiq_ray.cli import main

Answer = tuple[int, dict[str, str], bytes]
Rule = Callable[[str, str], Answer | None]  # method and path → an answer in place of the store's
StartProxy = Callable[[Rule], str]


@pytest.fixture
def start_proxy(s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartProxy]:
    """Give a function that starts a server which passes on to the store what its rule does not answer.

    The AWS environment then leads to it; its address is returned.
    """
    servers: list[ThreadingHTTPServer] = []
    store = urlsplit(s3.endpoint_url).netloc

    def start(rule: Rule) -> str:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, headers, body = rule(self.command, self.path) or self._ask_the_store()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815

            def _ask_the_store(self) -> Answer:
                connection = http.client.HTTPConnection(store)
                connection.request(self.command, self.path, headers=dict(self.headers))
                answer = connection.getresponse()
                headers = {
                    name: value
                    for name, value in answer.getheaders()
                    if name.lower() not in {"transfer-encoding", "connection", "date", "server"}
                }
                body = answer.read()
                connection.close()
                return answer.status, headers, body

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        storage.forget_clients()
        return address

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
    storage.forget_clients()


@dataclass(frozen=True)
class Done:
    """As of a process that has ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run_here(
    s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Give a function that does what `run_cli` does, in this process: half a second sooner."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        status = main(arguments)
        return Done(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Give a function that reads all files below a folder, hidden ones too, by their paths."""

    def read(folder: Path) -> dict[str, bytes]:
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }

    return read
