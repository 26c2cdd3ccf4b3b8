"""Notices that a node of the run is about to be taken away, as spot nodes are."""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import ray.train

from physiq_ray.training.measures import gather


class Notices:
    """The notices of preemption that Ray got from the cloud.

    Ray asks all ranks together, as it does when they report a checkpoint. So one thread of each rank makes
    both calls, in an order that is equal on all ranks. In two threads, a rank that reports could meet a rank
    that asks.
    """

    def __init__(self, ask: Callable[[Callable[[], Any]], Future[Any]]) -> None:
        """ask: calls a function in the thread that also reports checkpoints."""
        self._ask = ask
        # Ray does not watch for notices where the run has one machine, unless it is asked to.
        self._is_watched = os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER") != "0"
        self._asked: deque[Future[Any]] = deque()
        self._latest: ray.train.PreemptionInfo | None = None
        self._given: list[ray.train.PreemptionInfo] = []

    def is_new(self) -> bool:
        """Tell once for each notice that it is there; equal on all ranks, which call this together.

        It never waits for Ray: a notice is seen by a later call.
        """
        if not self._is_watched:
            return False
        while self._asked and self._asked[0].done():
            self._latest = self._asked.popleft().result()
        self._asked.append(self._ask(ray.train.get_preemption_info))
        new = [info for info in gather(self._latest) if info is not None and info not in self._given]
        self._given += new
        return bool(new)
