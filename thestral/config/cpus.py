"""How many processors this process may use: its affinity, and its control group's quota."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")  # cgroups(7): a line "number:controllers:path" for each hierarchy


def available(root: Path = CGROUP, own: Path = OWN) -> int:
    """Return how many processors this process may use, at least 1; a quota is rounded up."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    limit = quota(root, own)
    return count if limit is None else max(1, min(count, math.ceil(limit)))


def quota(root: Path = CGROUP, own: Path = OWN) -> float | None:
    """Return how many processors the control group (version 2 or 1) and its parents may use; None
    for no limit.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "cpu" if controllers else root
        group = top / path.lstrip("/")  # inside a container it may be missing
        above = [parent for parent in group.parents if parent.is_relative_to(top)]
        limits += [limit_of(directory) for directory in (group, *above)]
    return min((limit for limit in limits if limit is not None), default=None)


def limit_of(directory: Path) -> float | None:
    """Return the quota of one control group, without its parents'; None for no limit."""
    try:
        allowed, period = (directory / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            allowed = (directory / "cpu.cfs_quota_us").read_text().strip()
            period = (directory / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if allowed in ("max", "-1"):
        return None
    return int(allowed) / int(period)
