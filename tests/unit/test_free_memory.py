"""The free memory that `data.cache auto` goes by: what a container or a job leaves, not what the host has."""

import os
from pathlib import Path

import pytest

from mixdist.data.free_memory import free_memory

MEMINFO = (
    "MemTotal:       24684084 kB\nMemFree:           1000 kB\nMemAvailable:      8000 kB\nHugePages_Total:       0\n"
)
FREE = 8000 * 1024


def machine(folder: Path, cgroup: str, **groups: dict[str, object]) -> tuple[Path, Path]:
    """Make up /proc and /sys/fs/cgroup; groups by path, "__" for a slash, with the contents of their files."""
    files = {"proc/meminfo": MEMINFO, "proc/self/cgroup": cgroup}
    for group, contents in groups.items():
        files |= {f"groups/{group.replace('__', '/')}/{name}": str(text) for name, text in contents.items()}
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "proc", folder / "groups"


def v2(limit: object, used: int, inactive: int) -> dict[str, object]:
    stat = f"anon 5\ninactive_file {inactive}\nactive_file 9\n"
    return {"memory.max": f"{limit}\n", "memory.current": f"{used}\n", "memory.stat": stat}


def v1(limit: int, used: int, inactive: int) -> dict[str, object]:
    stat = f"inactive_file 1\ntotal_inactive_file {inactive}\n"
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used, "memory.stat": stat}


def test_cached_files_count_as_free(tmp_path):
    assert free_memory(*machine(tmp_path, "0::/\n")) == FREE


@pytest.mark.parametrize(
    ("group", "left"),
    [
        (v2(1_000_000, 400_000, 50_000), 650_000),
        (v2("max", 400_000, 50_000), FREE),
        (v2(10**12, 400_000, 50_000), FREE),
        (v2(400_000, 500_000, 0), 0),  # a limit that was lowered meanwhile
        ({"memory.current": 400_000}, FREE),  # the root of a machine without containers
    ],
)
def test_a_container_s_limit_counts_where_it_leaves_less(tmp_path, group, left):
    proc, groups = machine(tmp_path, "0::/\n", **{".": group})
    assert free_memory(proc, groups) == left


def test_of_groups_within_groups_the_tightest_counts(tmp_path):
    cgroup = "0::/slurm/job_7/step_0\n"
    inside = {"slurm__job_7": v2(900_000, 500_000, 0), "slurm__job_7__step_0": v2(2_000_000, 300_000, 0)}
    assert free_memory(*machine(tmp_path, cgroup, slurm=v2("max", 0, 0), **inside)) == 400_000


@pytest.mark.parametrize("group", ["memory", "memory__docker__abc"])  # as a container sees itself, and as the host does
def test_the_first_version_of_groups_counts_too(tmp_path, group):
    cgroup = "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n0::/docker/abc\n"
    assert free_memory(*machine(tmp_path, cgroup, **{group: v1(700_000, 300_000, 20_000)})) == 420_000
    (tmp_path / "groups" / group.replace("__", "/") / "memory.limit_in_bytes").write_text(str(2**63 - 4096))  # none
    assert free_memory(tmp_path / "proc", tmp_path / "groups") == FREE


def test_a_system_without_proc_is_asked_for_its_free_pages(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sysconf", {"SC_AVPHYS_PAGES": 7, "SC_PAGE_SIZE": 4096}.get)
    assert free_memory(tmp_path, tmp_path) == 7 * 4096


def test_this_machine_has_some():
    assert 2**20 < free_memory() < 2**50
