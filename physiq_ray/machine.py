"""Facts about this machine: CPUs and memory of this process, folders, its own addresses. No Ray."""

import ipaddress
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from physiq_ray.errors import StorageError

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
MEMORY = Path("/proc/meminfo")


def usable_cpus(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """Count the CPUs that this process may use, at least 1: those of its affinity, or fewer with a quota.

    A container may get 2 of a machine's 16 CPUs by an affinity or by a quota, but still sees 16. Ray counts
    quotas in the same way, rounded down, but only some affinities. cgroups: the folder of the cgroup file
    systems, version 1 or 2. own: the file that names the cgroups of this process.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # missing on macOS and Windows
    num_cpus = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return max(1, min([num_cpus, *(int(quota) for quota in _quotas(cgroups, own))]))


def usable_memory(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """Give the bytes of memory that this process may use: the machine's, or less with a limit.

    cgroups, own: as in `usable_cpus`.
    """
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for folder in _folders(cgroups, own, "memory"):
        # Version 2 and version 1; "max" or a number beyond all memory without a limit.
        texts = (_read(folder / name) for name in ("memory.max", "memory.limit_in_bytes"))
        limits.extend(int(text) for text in texts if text.isdecimal())
    return min(limits)


def available_memory(memory: Path = MEMORY) -> int | None:
    """Give the bytes of memory that new processes can get, None if the system does not tell."""
    lines = dict(line.split(":", 1) for line in _read(memory).splitlines() if ":" in line)
    words = lines.get("MemAvailable", "").split()
    return int(words[0]) * 1024 if words else None


def ray_parent_folder() -> tuple[str, str]:
    """Give the variable that names the parent of Ray's folder, and that parent folder."""
    for name in ("RAY_TMPDIR", *(("TMPDIR",) if sys.platform.startswith("linux") else ())):
        if folder := os.environ.get(name):
            return name, folder
    return "RAY_TMPDIR", "/tmp"


def is_loopback(host: str) -> bool:
    """Tell whether a host, given by name or address, always means the machine that uses it."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _quotas(cgroups: Path, own: Path) -> Iterator[float]:
    """Give the quotas, in CPUs, of the cgroups of this process and of their parents."""
    for folder in _folders(cgroups, own, "cpu"):
        # Version 2: "200000 100000", or "max 100000" without a quota.
        yield from _share(_read(folder / "cpu.max").split())
        # Version 1: microseconds in two files, -1 without a quota.
        yield from _share([_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")])


def _folders(cgroups: Path, own: Path, controller: str) -> Iterator[Path]:
    yield from (cgroups, cgroups / controller)  # a container sees only these: its own cgroup is the root
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for root in (cgroups / controllers, cgroups / controller, cgroups / "unified"):
            folder = root
            for part in Path(path).parts[1:]:
                folder /= part
                yield folder


def _share(quota_and_period: list[str]) -> list[float]:
    try:
        quota, period = map(int, quota_and_period)
    except ValueError:  # the file is missing, or it says "max"
        return []
    return [quota / period] if quota > 0 and period > 0 else []


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def check_writable(
    name: str, address: str, remedy: str = "give another folder", *, is_file: bool = False
) -> None:
    """Check before long work that a folder can be written, without leaving anything in it.

    name: the setting or flag that names it. address: a path whose last parts may not exist yet, or an s3://
    address, which is not checked. is_file: address is a file to be created.
    Raises StorageError: it cannot be written; the message has name, address and remedy.
    """
    if address.startswith("s3://"):
        return
    path = Path(address).expanduser().absolute()
    folder = path.parent if is_file else path
    try:
        while not os.path.lexists(folder) and folder != folder.parent:
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StorageError(f"{name}={address}: cannot be written: {error.strerror}; {remedy}") from error
