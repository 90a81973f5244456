"""On what a benchmark ran: hardware and versions, as they stand above every table."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from landscape.memory import format_bytes

__all__ = ["environment"]

_DISTRIBUTIONS = (
    "torch",
    "landscape-geometry",
    "scikit-learn",
    "scipy",
    "pyhessian",
    "curvlinops-for-pytorch",
    "hessian-eigenthings",
    "loss-landscapes",
)


def environment() -> dict[str, str]:
    """Hardware, load and versions; a distribution that is missing says so."""
    import torch

    one_minute = f"{os.getloadavg()[0]:.1f}"
    found = {
        "cpu": _cpu_model(),
        "cores": f"{_cores()} usable, torch takes {torch.get_num_threads()} threads",
        "load": f"{one_minute} before the start (idle is 0; above it others were at work)",
        "memory": format_bytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    return found | {name: _version(name) for name in _DISTRIBUTIONS}


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cores() -> int:
    # A container may give fewer than the machine has.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
