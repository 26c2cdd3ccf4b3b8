"""Calls in threads, ahead of the use of their results. No Ray."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    call: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    num_threads: int,
    most_calls: int,
    num_bytes: Callable[[Item], int] = lambda _item: 0,
    most_bytes: int = 0,
) -> Generator[Result, None, None]:
    """Call a function for each item in threads, and give the results in the order of the items.

    At most most_calls calls wait, run, or have a result that is not used yet. By num_bytes, their items have
    at most most_bytes, unless it is a single item. If the generator is closed early, the calls that wait are
    cancelled.
    """
    threads = ThreadPoolExecutor(num_threads)
    ahead: deque[tuple[Future[Result], int]] = deque()
    bytes_ahead = 0
    try:
        for item in items:
            size = num_bytes(item)
            while len(ahead) == most_calls or (ahead and bytes_ahead + size > most_bytes):
                future, freed_bytes = ahead.popleft()
                yield future.result()
                bytes_ahead -= freed_bytes
            ahead.append((threads.submit(call, item), size))
            bytes_ahead += size
        while ahead:
            yield ahead.popleft()[0].result()
    finally:
        threads.shutdown(cancel_futures=True)
