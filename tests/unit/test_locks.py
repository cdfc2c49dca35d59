"""Locks between processes: one holder, who is named; numbers that rise; a killed holder lets go."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from walkbits.tables import locks
from walkbits.tables.locks import Busy, locked

HOLD = """
import sys, time
from pathlib import Path
from walkbits.tables.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(file: Path) -> subprocess.Popen[str]:
    """Another process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(file)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_one_holder_at_a_time_and_the_other_is_named(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "lock"
    other = holder(file)
    try:
        with pytest.raises(Busy, match=f"process {other.pid} on .* since 20"), locked(file):
            pass
        with pytest.raises(Busy), locked(file, wait=0.2):
            pass
        os.kill(other.pid, signal.SIGSTOP)  # a stopped process still holds it
        with pytest.raises(Busy), locked(file):
            pass
    finally:
        other.kill()
        other.wait()
    with locked(file):
        pass


def test_a_waiting_process_gets_it_when_it_is_let_go(tmp_path: Path) -> None:
    other = holder(tmp_path / "lock")
    os.kill(other.pid, signal.SIGKILL)
    with locked(tmp_path / "lock", wait=20):
        pass
    other.wait()


def test_one_process_excludes_itself_too(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with locked(file):
        with pytest.raises(Busy, match=f"process {os.getpid()}"), locked(file):
            pass
        # looking at who holds it has not let go of it
        with pytest.raises(subprocess.CalledProcessError):
            subprocess.run(
                [sys.executable, "-c", HOLD, str(file)], check=True, capture_output=True, timeout=30
            )


def test_numbers_rise_also_when_the_file_is_lost_or_the_clock_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, seen = tmp_path / "lock", []
    for change in (None, "lost", "clock"):
        with locked(file) as number:
            seen.append(number)
        if change == "lost":
            monkeypatch.setattr(locks.time, "time", lambda: seen[-1] + 60.0)
            file.unlink()
        if change == "clock":
            monkeypatch.setattr(locks.time, "time", lambda: 0.0)
    with locked(file) as number:
        seen.append(number)
    assert seen == sorted(set(seen))


def test_a_forked_child_holds_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    waiting = context.Event()
    child = context.Process(target=waiting.wait)
    with locked(tmp_path / "lock"):
        child.start()
    try:
        other = holder(tmp_path / "lock")
        other.kill()
        other.wait()
    finally:
        waiting.set()
        child.join()
