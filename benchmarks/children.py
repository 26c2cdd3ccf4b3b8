"""Measurements in processes of their own: nothing of one is left over when the next begins."""

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

LIMIT_S = 600  # what one process may take before it is given up


def run_child(script: str, name: str, work: dict[str, Any]) -> Any:
    """Run one measurement of a script in a process and a folder of its own, and leave nothing behind.

    The script is called with --child name, --work (JSON) and --folder, and gives them to `answer_parent`.
    """
    folder = tempfile.mkdtemp(prefix="physiq-scale-")  # short: sockets' paths are at most 107 bytes
    command = [sys.executable, script, "--child", name, "--work", json.dumps(work), "--folder", folder]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        family = _Family(process.pid)
        try:
            output, _ = process.communicate(timeout=LIMIT_S)
        finally:
            family.end()
            shutil.rmtree(folder, ignore_errors=True)
        lines = [line for line in output.splitlines() if line.startswith("{")]
        if process.returncode or not lines:
            errors.seek(0)
            raise SystemExit(f"{name} {work}: exit {process.returncode}\n{errors.read()[-3000:]}")
    return json.loads(lines[-1])


def answer_parent(measure: Callable[[dict[str, Any], str], dict[str, Any]], work: str, folder: str) -> None:
    """Measure in a child and print the result as the line that its parent reads."""
    _end_with_parent(folder)
    print(json.dumps(measure(json.loads(work), folder)))


def add_child_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that a script's children are called with."""
    for flag in ("--child", "--work", "--folder"):
        parser.add_argument(flag, help=argparse.SUPPRESS)


def _end_with_parent(folder: str) -> None:
    """Watch from this process for the end of the one that started it, and end all of this one."""
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


class _Family:
    """Know a process and all that it started, and end what is left of them, whoever their parent is then."""

    def __init__(self, pid: int) -> None:
        self._members = {psutil.Process(pid)}
        self._root = psutil.Process(pid)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End them, the first one first: it takes its nodes with it."""
        self._done.set()
        self._thread.join()
        with contextlib.suppress(psutil.Error):
            self._members.update(self._root.children(recursive=True))
            self._root.terminate()
        psutil.wait_procs([self._root], timeout=20)
        for member in self._members:
            with contextlib.suppress(psutil.Error):
                member.kill()  # psutil compares the start time: never another process of the same id
        psutil.wait_procs(list(self._members), timeout=20)

    def _watch(self) -> None:
        while not self._done.wait(2.0):
            with contextlib.suppress(psutil.Error):
                self._members.update(self._root.children(recursive=True))
