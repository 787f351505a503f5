"""How many processors this process may use: affinity, and the quota of its control group."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def available(root: Path = CGROUP) -> int:
    """At least 1. A container with a quota of half the machine gets half the workers."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    limit = quota(root)
    return count if limit is None else max(1, min(count, math.ceil(limit)))


def quota(root: Path) -> float | None:
    """Processors that the control group may use, version 2 or 1; None for no limit."""
    try:
        allowed, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            allowed = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if allowed in ("max", "-1"):
        return None
    return int(allowed) / int(period)
