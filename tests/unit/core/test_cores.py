"""Cores that a process may use, by files as Linux has them."""

import os
from pathlib import Path

import pytest

from tuwen.core.cores import count_cores


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def host(tmp_path: Path, monkeypatch) -> Path:
    """A machine of 16 cores, whose process is in a group of both versions."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    write(tmp_path / "proc", "4:memory:/job\n1:cpu,cpuacct:/job\n0::/pod/job\n")
    return tmp_path


def count(host: Path) -> int:
    return count_cores(host / "proc", host / "groups")


def test_without_a_quota_the_affinity_counts_and_without_linux_too(host, monkeypatch) -> None:
    assert count(host) == 16
    write(host / "groups/pod/job/cpu.max", "max 100000\n")
    assert count(host) == 16
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5})
    assert count(host) == 2
    assert count_cores(host / "none", host / "groups") == 2


@pytest.mark.parametrize(
    ("name", "text", "cores"),
    [
        ("pod/job/cpu.max", "250000 100000\n", 3),
        ("pod/cpu.max", "400000 100000\n", 4),  # of the group above
        ("cpu.max", "50000 100000\n", 1),
        ("pod/job/cpu.max", "6400000 100000\n", 16),
        ("pod/job/cpu.max", "nonsense\n", 16),
        ("elsewhere/cpu.max", "100000 100000\n", 16),
    ],
)
def test_the_smallest_quota_on_the_way_up_counts(host, name, text, cores) -> None:
    write(host / "groups" / name, text)
    assert count(host) == cores


def test_a_quota_of_the_first_version_counts(host) -> None:
    write(host / "groups/cpu/job/cpu.cfs_quota_us", "150000\n")
    write(host / "groups/cpu/job/cpu.cfs_period_us", "100000\n")
    assert count(host) == 2
    write(host / "groups/cpu/job/cpu.cfs_quota_us", "-1\n")
    assert count(host) == 16
