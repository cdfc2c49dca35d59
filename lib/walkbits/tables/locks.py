"""Locks that a process holds by a file on a disk that all drivers share.

The system releases those of a killed process. They are record locks: a forked child, as a training's
producers are, holds none of its parent's. Within one process, where record locks exclude nobody, a table of
the files held does.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

LOG = logging.getLogger("walkbits")

_POLL: Final = 0.05
_SAY_AFTER: Final = 5.0
"""Seconds of waiting before a line says for whom."""
_HELD: dict[Path, str] = {}
_GUARD: Final = threading.Lock()


class Busy(Exception):
    """Somebody else holds the lock; the text says who."""


@contextmanager
def locked(file: Path, wait: float = 0.0) -> Iterator[int]:
    """Hold a lock; its folder is made.

    Args:
        file: Names the lock, on a disk that all who want it share.
        wait: Seconds to wait for another holder.

    Yields:
        The number of this holding: one more than the last one's.

    Raises:
        Busy: it is held by another process or thread.
        OSError: the file cannot be made or written.
    """
    began, said = time.monotonic(), False
    while (handle := _take(file)) is None:
        waited = time.monotonic() - began
        if waited >= wait:
            raise Busy(_holder(file))
        if waited > _SAY_AFTER and not said:
            LOG.info("lock=%s state=waiting holder=%s", file.name, _holder(file))
            said = True
        time.sleep(_POLL)
    try:
        # Seconds since 1970, so that numbers rise even when the file is lost.
        number = max(int(_content(handle).get("number", 0)) + 1, int(time.time()))
        # In one call and with its end marked: a killed writer leaves the old text or the new one.
        os.pwrite(handle, json.dumps({"number": number, "holder": _me()}).encode() + b"\n", 0)
        yield number
    finally:
        with _GUARD:
            os.close(handle)
            _HELD.pop(file, None)


def _take(file: Path) -> int | None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with _GUARD:
        if file in _HELD:  # not even to be opened: closing it again would let go of the lock
            return None
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have removed the file, and the lock with it, between the two lines above.
            if os.fstat(handle).st_ino == file.stat().st_ino:
                _HELD[file] = _me()
                return handle
        except (BlockingIOError, PermissionError, FileNotFoundError):
            pass
        os.close(handle)
    return None


def _content(handle: int) -> dict[str, Any]:
    try:
        return dict(json.loads(os.pread(handle, 4096, 0).partition(b"\n")[0]))
    except ValueError:  # new
        return {}


def _holder(file: Path) -> str:
    with _GUARD:
        if file in _HELD:
            return _HELD[file]
        try:
            with file.open("rb") as handle:
                return str(_content(handle.fileno()).get("holder", "unknown"))
        except OSError:
            return "unknown"


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
