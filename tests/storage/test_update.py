"""A file that several processes change at once keeps the changes of all of them."""

import multiprocessing
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from physiq_ray.errors import StorageError
from physiq_ray.storage import read_bytes, write_bytes
from physiq_ray.storage.update import TRIES, update_bytes


def appending(line: bytes) -> Callable[[bytes | None], bytes]:
    return lambda before: (before or b"") + line


def append(uri: str, word: str, times: int) -> None:
    for number in range(times):
        update_bytes(uri, appending(f"{word}{number}\n".encode()))


def append_from_processes(uri: str, times: int) -> set[str]:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=append, args=(uri, word, times)) for word in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    return set(read_bytes(uri).decode().splitlines())


def every(times: int) -> set[str]:
    return {f"{word}{number}" for word in "ab" for number in range(times)}


@pytest.mark.slow
def test_two_processes_that_change_a_file_lose_nothing(tmp_path: Path) -> None:
    assert append_from_processes(str(tmp_path / "labels.jsonl"), 20) == every(20)


@pytest.mark.slow
def test_two_processes_that_change_an_object_lose_nothing(make_bucket: Callable[..., str]) -> None:
    bucket = make_bucket({})
    assert append_from_processes(f"s3://{bucket}/labels.jsonl", 5) == every(5)


@pytest.mark.slow
def test_a_second_writer_of_a_file_waits_for_the_first(tmp_path: Path) -> None:
    uri, is_reading, may_write = str(tmp_path / "labels.json"), threading.Event(), threading.Event()
    seen = []

    def first(_before: bytes | None) -> bytes:
        is_reading.set()
        may_write.wait(10)
        return b"a"

    def second(before: bytes | None) -> bytes:
        seen.append(before)
        return (before or b"") + b"b"

    with ThreadPoolExecutor(2) as threads:
        threads.submit(update_bytes, uri, first)
        assert is_reading.wait(10)
        threads.submit(update_bytes, uri, second)
        time.sleep(0.3)
        may_write.set()

    assert seen == [b"a"]
    assert read_bytes(uri) == b"ab"


@pytest.fixture(params=["file", "object"])
def uri(request: pytest.FixtureRequest, tmp_path: Path, make_bucket: Callable[..., str]) -> str:
    if request.param == "file":
        return str(tmp_path / "labels.json")
    return f"s3://{make_bucket({})}/labels.json"


def test_a_missing_file_is_none_and_is_created(uri: str) -> None:
    update_bytes(uri, lambda before: b"1" if before is None else b"wrong")

    assert read_bytes(uri) == b"1"


def test_a_change_by_another_program_meanwhile_is_seen_by_a_second_call(uri: str) -> None:
    write_bytes(b"1", uri)
    seen = []

    def change(before: bytes | None) -> bytes:
        seen.append(before)
        if len(seen) == 1:
            write_bytes(b"2", uri)
        return (before or b"") + b"+"

    update_bytes(uri, change)

    assert seen == [b"1", b"2"]
    assert read_bytes(uri) == b"2+"


def test_a_file_that_changes_at_every_try_is_an_error(uri: str) -> None:
    write_bytes(b"0", uri)
    tries = []

    def change(before: bytes | None) -> bytes:
        tries.append(before)
        write_bytes(str(len(tries)).encode(), uri)
        return b"never"

    with pytest.raises(StorageError, match="others changed it"):
        update_bytes(uri, change)
    assert len(tries) == TRIES


def test_none_leaves_the_file(uri: str) -> None:
    write_bytes(b"1", uri)

    update_bytes(uri, lambda _: None)

    assert read_bytes(uri) == b"1"


def test_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_bytes(b"1")
    (tmp_path / "link.json").symlink_to("real.json")

    update_bytes(str(tmp_path / "link.json"), lambda _: b"2")

    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_bytes() == b"2"
