"""How much memory is free, for this process: of the machine, of its container, of a GPU."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

from dscsr_arch.errors import ImageError

_CGROUP = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int:
    """Bytes that can be taken on a device without swapping, or harm to others."""
    if device.type == "cuda":
        import torch

        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + cached)
    return free_ram()


def free_ram() -> int:
    """Bytes of RAM that can be taken, of the machine and of its container."""
    limits = (_free_of_machine(), _free_of_container())
    return min(limit for limit in limits if limit is not None)


def check_memory(needed: int, height: int, width: int, scale: int = 1) -> None:
    """Raise `ImageError` for an image that takes more bytes than are free, as one that only claims its size may."""
    free = free_ram()
    if needed > free:
        raise ImageError(
            f"{needed / 2**30:.1f} GiB of free memory for {width}x{height} pixels{f' times {scale}' * (scale > 1)}",
            f"{free / 2**30:.1f} GiB",
            "Cut the image, or use another machine.",
        )


def _free_of_machine(meminfo: Path = Path("/proc/meminfo")) -> int:
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _free_of_container(root: Path = _CGROUP) -> int | None:
    """What a container's limit leaves, in either version of cgroups; None without a limit."""
    for limit, used, file_cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, now = int((root / limit).read_text()), int((root / used).read_text())
            lines = (root / used).with_name("memory.stat").read_text().splitlines()
        except (OSError, ValueError):  # no such file; or "max"
            continue
        # Files that the kernel remembers count as used, but are given up when memory is asked for.
        spare = next((int(line.split()[1]) for line in lines if line.split()[0] == file_cache), 0)
        return max(0, most - now + spare)
    return None
