"""The number of available processors, read from cgroup files in the kernel's format."""

from __future__ import annotations

import os

import pytest

from thestral.config import cpus


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Function (own, files) that returns available() on a machine with 8 processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)

    def machine(own, files):
        for name, text in files.items():
            file = tmp_path / "cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        (tmp_path / "own").write_text(own)
        return cpus.available(tmp_path / "cgroup", tmp_path / "own")

    return machine


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("max 100000", 8),
        ("400000 100000", 4),
        ("150000 100000", 2),  # rounded up
        ("10000 100000", 1),
        ("5000 10000", 1),
        ("1600000 100000", 8),  # more than the machine has
        ("nonsense", 8),
    ],
)
def test_version_2(machine, text, count):
    assert machine("0::/\n", {"cpu.max": text + "\n"}) == count


@pytest.mark.parametrize(("quota", "count"), [("-1", 8), ("250000", 3), ("100000", 1)])
def test_version_1(machine, quota, count):
    files = {"cpu/cpu.cfs_quota_us": f"{quota}\n", "cpu/cpu.cfs_period_us": "100000\n"}
    assert machine("5:memory:/m\n4:cpu,cpuacct:/\n1:name=systemd:/\n", files) == count


@pytest.mark.parametrize(
    ("own", "files", "count"),
    [
        # CPUQuota= of a unit, of a slice above it, and of both, where the smaller one counts.
        ("0::/a.slice/b.service\n", {"a.slice/b.service/cpu.max": "200000 100000"}, 2),
        ("0::/a.slice/b.service\n", {"a.slice/cpu.max": "300000 100000"}, 3),
        (
            "0::/a.slice/b.service\n",
            {"a.slice/cpu.max": "100000 100000", "a.slice/b.service/cpu.max": "200000 100000"},
            1,
        ),
        ("0::/a.slice\n", {"other.slice/cpu.max": "100000 100000"}, 8),
        # A container does not see the host's path.
        ("0::/docker/1234\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/../..\n", {"cpu.max": "200000 100000"}, 2),
        (
            "4:cpu:/g\n0::/\n",
            {"cpu/g/cpu.cfs_quota_us": "500000", "cpu/g/cpu.cfs_period_us": "100000"},
            5,
        ),
        ("0::/\n", {}, 8),
        ("", {"cpu.max": "200000 100000"}, 8),
    ],
)
def test_own_group_and_those_above(machine, own, files, count):
    assert machine(own, files) == count


def test_affinity(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert cpus.available(tmp_path, tmp_path / "none") == 2
