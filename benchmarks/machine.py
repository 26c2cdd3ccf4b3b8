"""The line that every benchmark prints above its figures: the machine and the versions."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from physiq_ray.machine import usable_cpus


def describe_machine(*packages: str) -> str:
    """Give one line with the processor, cores, memory, Python, and the versions of packages."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} not installed")
    return (
        f"{cpu}, {usable_cpus()} cores, {memory:.0f} GiB, Python {platform.python_version()}, "
        + ", ".join(versions)
    )
