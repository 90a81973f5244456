"""How much memory there is, how much a thing takes, and how to say it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["available_bytes", "format_bytes", "tensor_bytes"]

_CGROUP = Path("/sys/fs/cgroup")
_FALLBACK_BYTES = 4 * 2**30  # where the system tells nothing (macOS, Windows)


def available_bytes(device: torch.device) -> int:
    """Bytes that can still be taken on `device`: free GPU memory, or what Linux calls available.

    A container's own limit counts where it is the smaller one.
    """
    if device.type == "cuda":
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reusable
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return _FALLBACK_BYTES
    fields = dict(line.split(":", 1) for line in lines)
    available = int(fields["MemAvailable"].split()[0]) * 1024
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return available
    return available if limit == "max" else min(available, max(0, int(limit) - used))


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages behind `tensors`: views of one storage count once."""
    storages = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def format_bytes(number: float) -> str:
    """`1536` -> `1.5 KiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"
