"""A Ray cluster of several nodes on this machine, each started by `ray start`."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import requests
from ray.job_submission import JobStatus, JobSubmissionClient
from running import free_ports, responds, wait_for

BIN = Path(sys.executable).parent
STORE_BYTES = 200 * 2**20
ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}


@dataclass
class Nodes:
    """A head and the nodes that joined it; `stop` ends all of them."""

    folder: Path  # a short path: that of a socket has at most 108 bytes
    port: int
    dashboard_port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list, init=False)
    _num_started: int = field(default=0, init=False)

    @property
    def address(self) -> str:
        """The value of RAY_ADDRESS for processes that join the cluster."""
        return f"127.0.0.1:{self.port}"

    @property
    def dashboard(self) -> str:
        """The URL to which jobs are submitted."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    def start_head(self, *flags: str, num_cpus: int = 2) -> None:
        """Start the head and wait until it accepts jobs."""
        agent, client, export = free_ports(3)
        self._start(
            *("--head", "--port", str(self.port), "--dashboard-port", str(self.dashboard_port)),
            *("--node-ip-address", "127.0.0.1", "--dashboard-agent-listen-port", str(agent)),
            *("--ray-client-server-port", str(client), "--metrics-export-port", str(export)),
            *flags,
            num_cpus=num_cpus,
        )
        wait_for(lambda: responds(f"{self.dashboard}/api/version"), timeout_s=60, what="the dashboard")
        self._wait_for_all()

    def add(self, *flags: str, num_cpus: int = 2) -> subprocess.Popen[bytes]:
        """Add one node and wait for it: two nodes that start at the same time would choose the same ports."""
        agent, export = free_ports(2)
        process = self._start(
            *("--address", self.address, "--dashboard-agent-listen-port", str(agent)),
            *("--node-ip-address", "127.0.0.1", "--metrics-export-port", str(export)),
            *flags,
            num_cpus=num_cpus,
        )
        self._wait_for_all()
        return process

    def _wait_for_all(self) -> None:
        wait_for(lambda: self.num_alive() == len(self.processes), timeout_s=60, what="all nodes")

    def _start(self, *flags: str, num_cpus: int) -> subprocess.Popen[bytes]:
        store = () if "--object-store-memory" in flags else ("--object-store-memory", str(STORE_BYTES))
        self._num_started += 1
        name = f"node-{self._num_started}"
        # Each node has its own folder: one that removes the files of a job would remove those of others.
        own = ("--block", "--num-cpus", str(num_cpus), "--temp-dir", str(self.folder / name), *store)
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(BIN / "ray"), "start", *own, *flags],
                env={**os.environ, **ENVIRONMENT},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def num_alive(self) -> int:
        """Count the nodes that are alive according to the dashboard."""
        answer = requests.get(f"{self.dashboard}/nodes?view=summary", timeout=10).json()
        return sum(node["raylet"].get("state") == "ALIVE" for node in answer["data"]["summary"])

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill the processes of a node at once, as a power failure does."""
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
        process.wait()
        self.processes.remove(process)

    def stop(self) -> None:
        """End all nodes, the head last."""
        for process in reversed(self.processes):
            with contextlib.suppress(psutil.NoSuchProcess):
                children = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)
                for child in (*children, process):
                    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                        child.kill()
            process.wait()

    def client(self) -> JobSubmissionClient:
        """Give a client of the job API."""
        return JobSubmissionClient(self.dashboard)

    def wait_for_job(self, job_id: str, *, timeout_s: float = 240) -> JobStatus:
        """Wait until a job has ended; give its status."""
        client = self.client()
        wait_for(
            lambda: client.get_job_status(job_id).is_terminal(),
            timeout_s=timeout_s,
            what=f"the end of {job_id}",
        )
        return client.get_job_status(job_id)


def command(*words: str) -> Sequence[str]:
    """Give the words of a command with its path in this environment."""
    return [str(BIN / words[0]), *words[1:]]
