"""Named points at which tests end a driver; nothing happens unless the environment asks for it.

    WALKBITS_FAULT=NAME,NAME,...   kill this process with signal 9 at the first of these points
    WALKBITS_FAULT_TRACE=FILE      append the name of every point that is passed, before anything else

The trace shows a test which points there are, and that its fault fired.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final

FAULT: Final = "WALKBITS_FAULT"
TRACE: Final = "WALKBITS_FAULT_TRACE"


def hit(name: str) -> None:
    """Pass a point."""
    trace = os.environ.get(TRACE)
    if trace is not None:
        with Path(trace).open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")
            file.flush()
            os.fsync(file.fileno())
    if name in os.environ.get(FAULT, "").split(","):
        os.kill(os.getpid(), signal.SIGKILL)
