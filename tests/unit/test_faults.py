"""Fault points: silent by default, traced and deadly on demand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from walkbits.faults import FAULT, TRACE

PASS = "from walkbits.faults import hit; [hit(name) for name in ('one', 'two', 'three')]; print('through')"


def ended(**environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in (FAULT, TRACE)}
    return subprocess.run(
        [sys.executable, "-c", PASS], env=clean | environment, capture_output=True, text=True, check=False
    )


def test_nothing_happens_unasked() -> None:
    assert (ended().returncode, ended().stdout) == (0, "through\n")


def test_a_trace_names_the_points_and_shows_where_the_process_ended(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    assert ended(**{TRACE: str(trace)}).returncode == 0
    assert trace.read_text().split() == ["one", "two", "three"]
    trace.unlink()
    killed = ended(**{TRACE: str(trace), FAULT: "three,two"})
    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, "")
    assert trace.read_text().split() == ["one", "two"]
    assert ended(**{FAULT: "tw,wo,two three"}).returncode == 0
