"""Whether a stage fits the machine: asked before it starts, so that it does not end half-way."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from walkbits.arrays.places import Place
from walkbits.errors import WalkbitsError
from walkbits.forecast import Forecast
from walkbits.types import size_text

_LIMITS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Of the container that the process runs in, where it runs in one."""


def check_room(needs: Forecast, root: Place, artifacts: Place) -> None:
    """Refuse a stage whose files or arrays cannot fit; storage below a URI is not asked.

    Args:
        root: Where tables are written.
        artifacts: Where scratch files are. On the disk of the tables they need room beside them.

    Raises:
        WalkbitsError: names the stage, what it needs and what is there.
    """
    disks: dict[int, tuple[Path, int]] = {}
    for place, size in ((root, needs.written), (artifacts, needs.scratch)):
        if isinstance(place, Path):
            device = _existing(place).stat().st_dev
            first, before = disks.get(device, (place, 0))
            disks[device] = first, before + size
    for place, size in disks.values():
        if size > (free := free_bytes(place)):
            raise WalkbitsError(
                f"{needs.stage} needs {size_text(size)} of disk below '{place}' for tables and scratch "
                f"files, got {size_text(free)} free; make room, or name a larger disk as root or artifacts"
            )
    available = available_memory()
    if available is not None and needs.held > available:
        raise WalkbitsError(
            f"{needs.stage} needs {size_text(needs.held)} of memory for what it learns, got "
            f"{size_text(available)} available; lower model.embedding_size, or use a larger host"
        )


def free_bytes(folder: Path) -> int:
    """Of the disk that holds the folder, or will hold it."""
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that this machine or container can still give; None where it does not say."""
    if not meminfo.exists():
        return None
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    found = [int(lines["MemAvailable"].split()[0]) * 1024] if "MemAvailable" in lines else []
    for limit in filter(os.path.exists, _LIMITS):
        text = Path(limit).read_text().strip()
        if text.isdigit():
            found.append(int(text))
    return min(found, default=None)
