"""Closing the server of a Serve proxy; test_ingress closes the ingress of a whole service."""

import asyncio
import socket
from typing import Any

import pytest
from ray.serve._private.http_util import start_asgi_http_server
from ray.serve.config import HTTPOptions

from physiq_ray.serving.closing import proxy_calls

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Proxy:
    """The parts of Serve's proxy that open and close its port."""

    def __init__(self, port: int, loop: asyncio.AbstractEventLoop) -> None:
        self.is_inside, self.may_answer = asyncio.Event(), asyncio.Event()
        options = HTTPOptions(host="127.0.0.1", port=port)
        self._start_http_server_task = loop.create_task(
            start_asgi_http_server(self.answer, options, event_loop=loop)
        )
        self._running_http_server_task: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        self._running_http_server_task, _ = await self._start_http_server_task

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        self.is_inside.set()
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    for _ in range(100):
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
    raise TimeoutError


def test_a_closing_proxy_refuses_connections_and_completes_its_last_answers() -> None:
    close, is_closed, end = proxy_calls()

    async def run() -> None:
        port = free_port()
        proxy = Proxy(port, asyncio.get_running_loop())
        await proxy.ready()
        reader, writer = await connect(port)
        idle, idle_writer = await connect(port)
        writer.write(REQUEST)
        await proxy.is_inside.wait()

        close(proxy)
        await asyncio.wait_for(idle.read(), 5)  # an idle connection ends without an answer
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        assert not is_closed(proxy)

        proxy.may_answer.set()
        answer = await asyncio.wait_for(reader.read(), 5)  # until the connection ends
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert answer.endswith(b"ok")
        for _ in range(100):
            if is_closed(proxy):
                break
            await asyncio.sleep(0.05)
        assert is_closed(proxy)
        end(proxy)
        for each in (writer, idle_writer):
            each.close()

    asyncio.run(asyncio.wait_for(run(), 30))
