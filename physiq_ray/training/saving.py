"""Checkpoints written while the training continues.

At the end of an epoch, the training thread only copies the state to the host's memory. Another thread writes,
uploads and reports it. The epoch's row appears in the table after that, so a row still means that its
checkpoint is saved. The next checkpoint is copied after the previous one is saved, so the host holds at most
one copy.
"""

import datetime
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
import torch.distributed

# How long the ranks wait for rank 0's upload. If rank 0 fails, Ray ends them earlier.
PATIENCE = datetime.timedelta(days=7)

Answer = TypeVar("Answer")


class HostCopy:
    """A state's tensors copied to the host's memory, as they are at this moment.

    Copies from a GPU into pinned memory only start here. Later work on the stream runs after them.
    """

    def __init__(self, state: Mapping[str, Any], device: torch.device) -> None:
        """device: where the state's tensors are; tensors on the host are copied, too."""
        self._state: dict[str, Any] = _copied(state)
        self._done: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record(torch.cuda.current_stream(device))

    def wait(self) -> dict[str, Any]:
        """Give the copied state once it is complete."""
        if self._done is not None:
            self._done.synchronize()
        return self._state


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        copy = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
        return copy.copy_(value.detach(), non_blocking=True)
    if isinstance(value, Mapping):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(part) for part in value)
    return value


class Saver:
    """The thread of one rank that saves checkpoints, and the barrier of all ranks before the next one.

    The barrier uses gloo: NCCL would end all ranks if an upload takes longer than its timeout.
    """

    def __init__(self) -> None:
        """Start on all ranks together."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._latest: Future[None] | None = None
        self._ranks: Any = None
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            self._ranks = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for the last checkpoint; raise its error, unless another error is being raised."""
        self._thread.shutdown()
        if error is None:
            self.check()

    def wait(self) -> None:
        """Wait until the latest task is done on every rank; raise this rank's error."""
        if self._latest is not None:
            self._latest.result()
            if self._ranks is not None:
                torch.distributed.barrier(self._ranks)

    def save(self, task: Callable[[], None]) -> None:
        """Run a task in the thread, after the tasks before it."""
        self._latest = self._thread.submit(task)

    def ask(self, question: Callable[[], Answer]) -> Future[Answer]:
        """Call a function in the thread, after the tasks before it; `wait` does not wait for it."""
        return self._thread.submit(question)

    def check(self) -> None:
        """Raise the error of the latest task if it has failed; do not wait for it."""
        if self._latest is not None and self._latest.done():
            self._latest.result()
