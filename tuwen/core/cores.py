"""How many cores this process may use: not those of the host, but those of its affinity and its container."""

import math
import os
from collections.abc import Iterator
from pathlib import Path


def count_cores(proc: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the cores of the affinity, or the quota of the cgroup, rounded up, where that is less.

    proc, mounted: where Linux tells the groups of a process, and has their files (cgroups(7), of both versions).
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(math.ceil(quota) for quota in _list_quotas(proc, mounted))]))


def _list_quotas(proc: Path, mounted: Path) -> Iterator[float]:
    """Yield the quotas, in cores, of the groups of a process and of all groups above them."""
    try:
        groups = [line.split(":", 2) for line in proc.read_text(encoding="ascii").splitlines()]
    except OSError:  # no Linux
        return
    for _, controllers, path in groups:
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mounted / "cpu" if controllers else mounted
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            quota = _read_quota(folder)
            if quota is not None:
                yield quota
            if folder == root:
                break


def _read_quota(folder: Path) -> float | None:
    """Return the quota of one group, None where it has none."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period")
            )
        return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
    except (OSError, ValueError):
        return None
