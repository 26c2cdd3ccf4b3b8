"""Uploads in progress, without a server; test_ingress sends uploads to a service."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import pytest

from physiq_ray.serving.refusals import RequestError
from physiq_ray.serving.uploads import Uploads

SLOW_S = 0.05


def uploads_of(
    max_uploads: int = 100, *, max_slow_per_client: int = 2, slow_after_s: float = SLOW_S
) -> Uploads:
    return Uploads(
        max_uploads=max_uploads, max_slow_per_client=max_slow_per_client, slow_after_s=slow_after_s
    )


async def upload(uploads: Uploads, client: str, *, takes_s: float, timeout_s: float = 0.4) -> str:
    """Upload for some seconds; give the code of the refusal, or "read"."""
    try:
        async with uploads.receiving(client, timeout_s=timeout_s):
            await asyncio.sleep(takes_s)
    except RequestError as error:
        return f"{error.status} {error.code}"
    return "read"


def run_all(*work: Coroutine[Any, Any, str]) -> list[str]:
    async def gather() -> list[str]:
        return await asyncio.gather(*work)

    return asyncio.run(gather())


@pytest.mark.slow
def test_an_upload_that_takes_too_long_ends_with_408() -> None:
    uploads = uploads_of()

    assert run_all(upload(uploads, "a", takes_s=9), upload(uploads, "b", takes_s=0.2)) == [
        "408 upload_timeout", "read",
    ]  # fmt: skip


def test_slow_uploads_of_a_client_above_its_limit_end_with_408() -> None:
    uploads = uploads_of(max_slow_per_client=2)

    results = run_all(
        *(upload(uploads, "a", takes_s=0.2) for _ in range(4)),
        upload(uploads, "b", takes_s=0.2),
        *(upload(uploads, "a", takes_s=0.001) for _ in range(4)),
    )

    assert results == ["read"] * 2 + ["408 upload_timeout"] * 2 + ["read"] * 5


def test_half_of_all_uploads_may_be_slow() -> None:
    uploads = uploads_of(8, max_slow_per_client=2)

    results = run_all(*(upload(uploads, f"client {number}", takes_s=0.2) for number in range(6)))

    assert results == ["read"] * 4 + ["408 upload_timeout"] * 2


def test_a_complete_slow_upload_makes_room_for_the_next() -> None:
    uploads = uploads_of(max_slow_per_client=1)

    for _ in range(3):
        assert run_all(upload(uploads, "a", takes_s=2 * SLOW_S)) == ["read"]


def test_one_upload_too_many_ends_the_oldest_of_the_client_with_the_most_uploads() -> None:
    uploads = uploads_of(4, slow_after_s=9)

    results = run_all(
        upload(uploads, "b", takes_s=0.1),
        *(upload(uploads, "a", takes_s=0.1) for _ in range(3)),
        upload(uploads, "c", takes_s=0.001),
    )

    assert results == ["read", "503 busy", "read", "read", "read"]


def test_failed_and_cancelled_uploads_make_room_for_others() -> None:
    async def fill() -> None:
        uploads = uploads_of(2, slow_after_s=9)
        for _ in range(10):
            with contextlib.suppress(ValueError):
                async with uploads.receiving("a", timeout_s=1):
                    raise ValueError
            task = asyncio.create_task(upload(uploads, "a", takes_s=9))
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        first, second = (asyncio.create_task(upload(uploads, "a", takes_s=0.05)) for _ in range(2))
        assert await asyncio.gather(first, second) == ["read", "read"]

    asyncio.run(fill())


@pytest.mark.parametrize("num_uploads", [50, 500])
def test_many_concurrent_uploads_all_end_and_make_room_for_others(num_uploads: int) -> None:
    uploads = uploads_of(20)

    # No upload reaches its time limit even if this machine pauses, so some are read.
    results = run_all(
        *(upload(uploads, f"client {number % 7}", takes_s=0.1, timeout_s=60) for number in range(num_uploads))
    )

    assert set(results) <= {"read", "503 busy", "408 upload_timeout"}
    assert "read" in results
    assert run_all(*(upload(uploads, "a", takes_s=0.001) for _ in range(20))) == ["read"] * 20
