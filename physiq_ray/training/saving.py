"""Checkpoints written while the next epoch trains.

At an epoch's end the training thread only copies the state to the host's memory; a thread of its own writes,
uploads and reports it. A row of the table still means a checkpoint that is saved: it comes when that is done.
One checkpoint at a time: the next one waits before it is copied, so the host holds one copy at most.
"""

import datetime
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed

# How long the ranks wait for rank 0's upload. Ray ends them before, when rank 0 fails.
PATIENCE = datetime.timedelta(days=7)


class HostCopy:
    """A state's tensors copied to the host's memory, as they are at this moment.

    From a GPU the copies only start here, into pinned memory. What is computed on the same stream afterwards
    comes after them.
    """

    def __init__(self, state: Mapping[str, Any], device: torch.device) -> None:
        """device: where the state's tensors are; those on the host are copied, too."""
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
    """The thread of one rank that saves, and what the ranks wait for before they save again.

    The ranks wait for each other outside of NCCL, which would end them all where an upload takes longer than
    its timeout.
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
        """Wait for the last checkpoint; raise what it raised, unless something else is raised already."""
        self._thread.shutdown()
        if error is None:
            self.check()

    def wait(self) -> None:
        """Wait until the latest task is done on every rank; raise what it raised here."""
        if self._latest is not None:
            self._latest.result()
            if self._ranks is not None:
                torch.distributed.barrier(self._ranks)

    def save(self, task: Callable[[], None]) -> None:
        """Run a task in the thread, after those before it."""
        self._latest = self._thread.submit(task)

    def check(self) -> None:
        """Raise what the latest task raised, if it has ended so; do not wait for it."""
        if self._latest is not None and self._latest.done():
            self._latest.result()
