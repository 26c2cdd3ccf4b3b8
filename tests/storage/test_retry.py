import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.retries.standard import ExponentialBackoff
from listings import keys_of, list_one
from s3_answers import Script, error_answer

from physiq_ray import storage
from physiq_ray.errors import UnreachableError
from physiq_ray.storage import Bucket, create_bytes, read_bytes, write_bytes

pytestmark = pytest.mark.slow

MakeBucket = Callable[..., str]


@pytest.mark.slow
def test_listings_and_writes_survive_five_seconds_without_a_server(
    s3: Any, make_bucket: MakeBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.walk, "PAGE_KEYS", 20)
    bucket = make_bucket({f"{number % 3}/{number:03d}.jpg": b"1" for number in range(90)} | {"a.txt": b""})
    s3.stop()
    back = threading.Timer(5, s3.start)
    back.start()
    try:
        with ThreadPoolExecutor() as threads:
            listing = threads.submit(list_one, f"s3://{bucket}")
            names = threads.submit(storage.list_names, Bucket(bucket))
            written = threads.submit(write_bytes, b"written", f"s3://{bucket}/out/written")
            created = threads.submit(create_bytes, b"created", f"s3://{bucket}/out/created")
    finally:
        back.join()

    assert len(keys_of(listing.result())) == 90
    assert names.result() == ("a.txt",)
    assert written.result() is None
    assert created.result() is True
    assert read_bytes(f"s3://{bucket}/out/written") == b"written"
    assert read_bytes(f"s3://{bucket}/out/created") == b"created"


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (429, "Throttled")])
def test_a_server_s_error_is_retried_with_growing_waits_and_then_reported(
    scripted_s3: Callable[[Script], list[str]], monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0)
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", lambda seconds: waits.append(seconds) if seconds else None)
    scripted_s3(lambda _: error_answer(status, code))

    with pytest.raises(UnreachableError, match=rf"^read s3://checkins/a\.jpg: {code} after several tries"):
        read_bytes("s3://checkins/a.jpg")

    longest = [0.5, 1, 2, 4, 8, 8, 8]
    assert len(waits) == len(longest)
    assert all(most * 0.75 <= wait <= most for wait, most in zip(waits, longest, strict=True))
