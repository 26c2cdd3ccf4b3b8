"""`map_ahead` keeps the order of the items and its bounds, and cancels waiting calls when it is closed."""

import threading
import time

import pytest

from physiq_ray.threads import map_ahead


def test_results_come_in_the_order_of_the_items():
    def slow_first(number):
        time.sleep(0.02 if number % 4 == 0 else 0)
        return number * 10

    results = map_ahead(slow_first, iter(range(20)), num_threads=4, most_calls=8)
    assert list(results) == [number * 10 for number in range(20)]


def test_no_items_give_no_results():
    assert list(map_ahead(str, [], num_threads=2, most_calls=2)) == []


def test_at_most_most_calls_start_before_their_results_are_used():
    started, most = [], 0
    for used, _ in enumerate(map_ahead(started.append, range(50), num_threads=4, most_calls=3), 1):
        time.sleep(0.001)
        most = max(most, len(started) - used)
    assert len(started) == 50
    assert 1 <= most <= 3


def test_the_calls_ahead_have_at_most_most_bytes_unless_it_is_one():
    sizes = [1, 30, 99, 5, 500, 40, 40, 40] * 10
    lock, unused, most = threading.Lock(), [], []

    def call(size):
        with lock:
            unused.append(size)
            most.append((sum(unused), len(unused)))

    results = map_ahead(
        call, sizes, num_threads=4, most_calls=50, num_bytes=lambda size: size, most_bytes=100
    )
    for size, _ in zip(sizes, results, strict=True):
        time.sleep(0.001)
        with lock:
            unused.remove(size)
    assert max(num_bytes for num_bytes, num_calls in most if num_calls > 1) in range(60, 101)
    assert max(most) == (500, 1)


def test_a_closed_generator_cancels_the_calls_that_wait():
    started, may_end = [], threading.Event()

    def call(number):
        started.append(number)
        return number if number == 0 else may_end.wait(10)

    results = map_ahead(call, range(100), num_threads=1, most_calls=20)
    assert next(results) == 0
    threading.Timer(0.05, may_end.set).start()
    results.close()
    assert len(started) <= 2


def test_an_error_of_a_call_is_raised_in_its_place():
    results = map_ahead(lambda number: 6 // number, [3, 2, 0, 1], num_threads=2, most_calls=4)
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)
