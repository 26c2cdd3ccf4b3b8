"""Train several runs: as many at the same time as the cluster has room for, by Ray, or one after another.

Runs that are trained at the same time are driven by tasks of Ray, each in a process of its own, on this node,
because paths of this machine must mean the same there. Their lines are shown with the name of their run.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from physiq_ray.checkpoint import load_model_state
from physiq_ray.cluster import cluster_nodes, connect
from physiq_ray.config import Settings
from physiq_ray.errors import CheckpointError, NotFoundError, PhysiqError, TrainingError
from physiq_ray.progress import Display
from physiq_ray.training.events import Event, Note, make_queue, received, send
from physiq_ray.training.folder import RunFolder
from physiq_ray.training.run import train
from physiq_ray.training.workers import WorkerPlan, await_workers

LINE_WIDTH = 200


def train_several(runs: Sequence[Settings], display: Display, *, debug: bool = False) -> None:
    """Train each run to its model files; a run that was started resumes, and a finished one is skipped.

    runs: each has a run_name, and an output of its own. If runs that are trained at the same time fail, the
    others are still trained to their ends.
    Raises PhysiqError of the first run that failed; the message starts with its name.
    """
    unfinished = [settings for settings in runs if not _is_finished(settings)]
    if not unfinished:
        return
    connect(debug=debug)
    plan = await_workers(unfinished[0], display.note)
    at_once = count_at_once(plan, max(1, unfinished[0].num_workers), cluster_nodes(), len(unfinished))
    if at_once == 1:
        for settings in unfinished:
            display.note(f"{settings.run_name}:")
            _train(settings, display, debug=debug)
        return
    display.note(f"training {at_once} of {len(unfinished)} runs at a time")
    queue, width = make_queue(), max(len(str(settings.run_name)) for settings in unfinished)

    def show(event: Event) -> None:
        if isinstance(event, Note):
            display.note(event.text)

    with received(queue, [show]):
        failures = list(_in_tasks(unfinished, at_once, queue, width, debug=debug))
    if failures:
        raise failures[0]


def count_at_once(
    plan: WorkerPlan, num_workers: int, nodes: Sequence[Mapping[str, float]], num_runs: int
) -> int:
    """Give how many runs of num_workers fit into the cluster at the same time, at least 1.

    nodes: each node's resources, {"CPU": …, "GPU": …}. With GPUs, each worker takes one of them. A worker on
    a CPU computes on all CPUs of its node, so another run on the same node would only slow it down. Each run
    needs a CPU to decode with, besides those that its workers reserve.
    """
    places = sum(int(node.get("GPU", 0)) if plan.use_gpu else node.get("CPU", 0) >= 1 for node in nodes)
    num_cpus = sum(node.get("CPU", 0) for node in nodes)
    return max(1, min(num_runs, places // num_workers, int(num_cpus / (num_workers * plan.cpus + 1))))


def _is_finished(settings: Settings) -> bool:
    try:
        load_model_state(settings.output)
    except (NotFoundError, CheckpointError):
        return False
    return True


def _train(settings: Settings, display: Display, *, debug: bool) -> None:
    """Train or resume one run."""
    try:
        folder = RunFolder(settings.storage, str(settings.run_name))
        train(settings, display, resume=folder.is_started(), debug=debug)
    except PhysiqError as error:
        raise type(error)(f"{settings.run_name}: {error}") from error


def _in_tasks(
    runs: Sequence[Settings], at_once: int, queue: Queue, width: int, *, debug: bool
) -> Iterator[PhysiqError]:
    """Train the runs in tasks of Ray, and give the errors of those that failed."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    task: Any = ray.remote(_train_in_task).options(num_cpus=0, max_retries=0, scheduling_strategy=here)
    waiting, running = list(runs), dict[Any, str]()
    while waiting or running:
        while waiting and len(running) < at_once:
            settings = waiting.pop(0)
            running[task.remote(settings, queue, width, debug)] = str(settings.run_name)
        (done,), _ = ray.wait(list(running), num_returns=1)
        name = running.pop(done)
        try:
            failure = ray.get(done)
        except RayError as error:  # its process is gone
            failure = TrainingError(f"{name}: Ray: {str(error).strip().splitlines()[-1]}")
        if failure is not None:
            send(queue, Note(str(failure)))
            yield failure


def _train_in_task(settings: Settings, queue: Queue, width: int, debug: bool) -> PhysiqError | None:
    """Train one run; give the error that ended it, because Ray would wrap one that is raised."""
    with _lines_sent(queue, f"{settings.run_name:<{width}}  ") as display:
        try:
            _train(settings, display, debug=debug)
        except PhysiqError as error:
            return error
    return None


@contextmanager
def _lines_sent(queue: Queue, start: str) -> Iterator[Display]:
    """Give a display that sends its lines to the driver, each with the same start."""
    file = _Lines(lambda line: send(queue, Note(f"{start}{line}")))
    yield Display(Console(file=file, width=LINE_WIDTH))
    file.close()


class _Lines(io.StringIO):
    """A text file that passes on each line when it is complete."""

    def __init__(self, on_line: Callable[[str], Any]) -> None:
        super().__init__()
        self._on_line = on_line
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._on_line(line)
        return len(text)
