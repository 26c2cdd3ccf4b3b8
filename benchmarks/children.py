"""Run each measurement in a process of its own, so that nothing of it remains when the next one starts."""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil

LIMIT_S = 600  # after which a measurement is stopped


def run_child(script: str, name: str, work: dict[str, Any]) -> Any:
    """Run one measurement of a script in a process and a folder of its own, and remove both afterwards.

    The script gets --child name, --work (JSON) and --folder, and passes them to `report_to_parent`.
    """
    folder = tempfile.mkdtemp(prefix="physiq-scale-")  # short: the path of a socket has at most 107 bytes
    command = [sys.executable, script, "--child", name, "--work", json.dumps(work), "--folder", folder]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        tree = _ProcessTree(process.pid)
        try:
            output, _ = process.communicate(timeout=LIMIT_S)
        finally:
            tree.end()
            shutil.rmtree(folder, ignore_errors=True)
        lines = [line for line in output.splitlines() if line.startswith("{")]
        if process.returncode or not lines:
            errors.seek(0)
            raise SystemExit(f"{name} {work}: exit {process.returncode}\n{errors.read()[-3000:]}")
    return json.loads(lines[-1])


def report_to_parent(
    measure: Callable[[dict[str, Any], str], dict[str, Any]], work: str, folder: str
) -> None:
    """Measure in this child process and print the result as one line of JSON for the parent."""
    _end_with_parent(folder)
    print(json.dumps(measure(json.loads(work), folder)))


def add_child_flags(parser: argparse.ArgumentParser) -> None:
    """Add the hidden flags that `run_child` passes to the script."""
    for flag in ("--child", "--work", "--folder"):
        parser.add_argument(flag, help=argparse.SUPPRESS)


def _end_with_parent(folder: str) -> None:
    """End this process and all its children if the parent process ends."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _ProcessTree:
    """A process and its descendants, including those that have another parent by now."""

    def __init__(self, pid: int) -> None:
        self._members = {psutil.Process(pid)}
        self._root = psutil.Process(pid)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End all of them; the root is first, because it stops its Ray nodes itself."""
        self._done.set()
        self._thread.join()
        with contextlib.suppress(psutil.Error):
            self._members.update(self._root.children(recursive=True))
            self._root.terminate()
        psutil.wait_procs([self._root], timeout=20)
        for member in self._members:
            with contextlib.suppress(psutil.Error):
                member.kill()  # psutil compares the start time, so a reused process id is safe
        psutil.wait_procs(list(self._members), timeout=20)

    def _watch(self) -> None:
        while not self._done.wait(2.0):
            with contextlib.suppress(psutil.Error):
                self._members.update(self._root.children(recursive=True))
