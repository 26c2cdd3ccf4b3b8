import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from physiq_ray.errors import PredictionError
from physiq_ray.images import UInt8Array
from physiq_ray.serving.engine import Computed, Engine

WAIT_S = 10


class Gate:
    """A network whose passes wait until they may continue, and that records its batches.

    Its logits are twice the number that fills the photo. 250 stands for damaged weights, and 251 for a lost
    GPU.
    """

    def __init__(self, *, is_open: bool = True) -> None:
        self.batches: list[list[int]] = []
        self.started = threading.Event()
        self.may_continue = threading.Event()
        self.threads: set[int] = set()
        if is_open:
            self.may_continue.set()

    def outputs(self, images: Tensor) -> Tensor:
        numbers = images[:, 0, 0, 0].float()  # (B,)
        self.batches.append(numbers.int().tolist())
        self.threads.add(threading.get_ident())
        self.started.set()
        assert self.may_continue.wait(WAIT_S)
        if (numbers == 251).any():
            raise RuntimeError("CUDA error: the device is lost")
        numbers[numbers == 250] = float("nan")
        return numbers[:, None].repeat(1, 2)


def photo(number: int) -> UInt8Array:
    return np.full((4, 4, 3), number, np.uint8)


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine(max_batch_size=4, threads=1)
    yield engine
    engine.close()


def submit(engine: Engine, network: Gate, *numbers: int) -> list["Future[Computed]"]:
    return [engine.submit(photo(number), network) for number in numbers]  # type: ignore[arg-type]


def submit_behind(engine: Engine, network: Gate, *numbers: int) -> list["Future[Computed]"]:
    """Queue photos while a pass of `network` with photo 0 runs."""
    submit(engine, network, 0)
    assert network.started.wait(WAIT_S)
    return submit(engine, network, *numbers)


def firsts(futures: list["Future[Computed]"]) -> list[float]:
    return [float(future.result(WAIT_S).outputs[0]) for future in futures]


def test_a_single_photo_is_computed_at_once(engine: Engine) -> None:
    network = Gate()
    started_s = time.monotonic()

    [future] = submit(engine, network, 7)
    computed = future.result(WAIT_S)

    assert computed.outputs.tolist() == [7.0, 7.0]
    assert computed.outputs.dtype == np.float32
    assert computed.batch_size == 1
    assert 0 <= computed.waited_s < 0.5
    assert 0 <= computed.computed_s < 0.5
    assert time.monotonic() - started_s < 0.5


def test_all_waiting_photos_form_the_next_batch(engine: Engine) -> None:
    network = Gate(is_open=False)
    futures = submit_behind(engine, network, 1, 2, 3)

    network.may_continue.set()

    assert firsts(futures) == [1, 2, 3]
    assert network.batches == [[0], [1, 2, 3]]
    assert [future.result().batch_size for future in futures] == [3, 3, 3]


def test_a_batch_has_at_most_max_batch_size_photos(engine: Engine) -> None:
    network = Gate(is_open=False)
    futures = submit_behind(engine, network, *range(1, 11))

    network.may_continue.set()

    assert firsts(futures) == list(range(1, 11))
    assert network.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


def test_photos_of_two_networks_never_share_a_batch_and_keep_their_order(engine: Engine) -> None:
    gate, one, other = Gate(is_open=False), Gate(), Gate()
    submit(engine, gate, 0)
    assert gate.started.wait(WAIT_S)
    order = [(one, 1), (other, 2), (one, 3), (other, 4), (one, 5), (one, 6), (one, 7), (other, 8)]
    futures = [future for network, number in order for future in submit(engine, network, number)]

    gate.may_continue.set()

    assert firsts(futures) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert one.batches == [[1, 3, 5, 6], [7]]
    assert other.batches == [[2, 4, 8]]


def test_each_photo_of_many_threads_gets_its_own_answer(engine: Engine) -> None:
    network = Gate()

    def ask(number: int) -> float:
        [answer] = firsts(submit(engine, network, number))
        return answer

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(ask, list(range(200)) * 5))

    assert answers == [float(number) for number in range(200)] * 5
    assert max(map(len, network.batches)) <= 4
    assert len(network.threads) == 1


def test_a_cancelled_photo_is_not_computed(engine: Engine) -> None:
    network = Gate(is_open=False)
    first, gone, last = submit_behind(engine, network, 1, 2, 3)

    is_cancelled = gone.cancel()
    network.may_continue.set()

    assert is_cancelled
    assert firsts([first, last]) == [1, 3]
    assert network.batches == [[0], [1, 3]]
    with pytest.raises(CancelledError):
        gone.result(WAIT_S)


def test_a_queue_of_cancelled_photos_forms_no_batch(engine: Engine) -> None:
    network = Gate(is_open=False)
    gone = submit_behind(engine, network, 1, 2, 3, 4, 5)

    for future in gone:
        future.cancel()
    network.may_continue.set()

    assert firsts(submit(engine, network, 9)) == [9]
    assert network.batches == [[0], [9]]


def test_an_error_in_a_batch_fails_only_that_batch(engine: Engine) -> None:
    network = Gate(is_open=False)
    futures = submit_behind(engine, network, 1, 251, 3, 4, 5, 6)

    network.may_continue.set()

    for future in futures[:4]:
        with pytest.raises(PredictionError, match=r"^the network failed: CUDA error: the device is lost$"):
            future.result(WAIT_S)
    assert firsts(futures[4:]) == [5, 6]
    assert firsts(submit(engine, network, 7)) == [7]


def test_a_batch_with_images_of_two_sizes_fails_and_the_thread_continues(engine: Engine) -> None:
    network = Gate(is_open=False)
    futures = submit_behind(engine, network, 1)
    futures.append(engine.submit(np.zeros((5, 5, 3), np.uint8), network))  # type: ignore[arg-type]

    network.may_continue.set()

    for future in futures:
        with pytest.raises(PredictionError, match="the network failed: "):
            future.result(WAIT_S)
    assert firsts(submit(engine, network, 7)) == [7]


class TooFew(Gate):
    """A network that gives one output too few."""

    def outputs(self, images: Tensor) -> Tensor:
        return super().outputs(images)[1:]


def test_no_photo_waits_forever_if_a_network_gives_too_few_outputs(engine: Engine) -> None:
    [future] = submit(engine, TooFew(), 1)

    with pytest.raises(PredictionError):
        future.result(2)
    assert firsts(submit(engine, Gate(), 7)) == [7]


def test_an_output_that_is_not_a_number_fails_only_its_photo(engine: Engine) -> None:
    network = Gate(is_open=False)
    futures = submit_behind(engine, network, 1, 250, 3)

    network.may_continue.set()

    assert firsts([futures[0], futures[2]]) == [1, 3]
    with pytest.raises(
        PredictionError, match="output is not a number: its weights are damaged, or too large"
    ):
        futures[1].result(WAIT_S)
    assert network.batches == [[0], [1, 250, 3]]


def test_close_computes_the_waiting_photos_and_refuses_later_ones() -> None:
    engine = Engine(max_batch_size=4, threads=1)
    network = Gate(is_open=False)
    futures = submit_behind(engine, network, *range(1, 8))
    closing = threading.Thread(target=engine.close)
    closing.start()
    while not engine.call(lambda: None).done():  # an open engine is still in its pass; a closed one refuses
        time.sleep(0.001)

    late, called = submit(engine, network, 9)[0], engine.call(lambda: 1)
    network.may_continue.set()
    closing.join(WAIT_S)

    assert not closing.is_alive()
    assert firsts(futures) == [1, 2, 3, 4, 5, 6, 7]
    for future in (late, called):
        with pytest.raises(PredictionError, match=r"^the service is shutting down$"):
            future.result(WAIT_S)
    assert [9] not in network.batches


def test_close_may_be_called_twice() -> None:
    engine = Engine(max_batch_size=4, threads=1)

    engine.close()
    engine.close()

    with pytest.raises(PredictionError):
        submit(engine, Gate(), 1)[0].result(WAIT_S)


def test_a_call_runs_between_two_batches_and_in_their_thread(engine: Engine) -> None:
    network = Gate(is_open=False)
    futures = submit_behind(engine, network, 1, 2)

    called = engine.call(lambda: (threading.get_ident(), len(network.batches)))
    network.may_continue.set()
    thread, num_batches = called.result(WAIT_S)

    assert num_batches == 1  # the call ran after the running batch and before the waiting one
    assert {thread} == network.threads
    assert firsts(futures) == [1, 2]


def test_a_call_runs_with_the_number_of_threads_of_the_engine() -> None:
    before = torch.get_num_threads()
    engine = Engine(max_batch_size=4, threads=2)
    try:
        assert engine.call(torch.get_num_threads).result(WAIT_S) == 2
    finally:
        engine.close()
        torch.set_num_threads(before)


def test_an_error_in_a_call_is_raised_to_its_caller_and_the_thread_continues(engine: Engine) -> None:
    def fail() -> None:
        raise ValueError("a bad model")

    with pytest.raises(ValueError, match="a bad model"):
        engine.call(fail).result(WAIT_S)
    assert firsts(submit(engine, Gate(), 7)) == [7]


def test_a_cancelled_call_does_not_run(engine: Engine) -> None:
    network = Gate(is_open=False)
    submit_behind(engine, network)
    made = []

    called = engine.call(lambda: made.append(1))
    called.cancel()
    network.may_continue.set()

    assert firsts(submit(engine, network, 7)) == [7]
    assert made == []
