"""A proxy before the S3 server of the tests, which answers some requests itself."""

import contextlib
import http.client
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler

Answer = tuple[int, dict[str, str], bytes]
Rule = Callable[[str, str], Answer | None]  # method and path → the proxy's own answer, None to forward


def make_proxy(rule: Rule, store: str) -> type[BaseHTTPRequestHandler]:
    """Make the handler of a proxy that forwards to the server at store, host:port, what no rule answers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):  # the client has given up
                super().handle()

        def do_GET(self) -> None:
            # Read it even if a rule answers: else the connection's next request would begin with it.
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, body = rule(self.command, self.path) or self.forward(content)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815

        def forward(self, content: bytes) -> Answer:
            connection = http.client.HTTPConnection(store)
            connection.request(self.command, self.path, content, dict(self.headers))
            answer = connection.getresponse()
            headers = {
                name: value
                for name, value in answer.getheaders()
                if name.lower() not in {"transfer-encoding", "connection", "date", "server"}
            }
            body = answer.read()
            connection.close()
            return answer.status, headers, body

        def log_message(self, *_: object) -> None:
            pass

    return Handler
