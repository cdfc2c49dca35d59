"""Jobs as users submit them: processes of their own, to be stopped, killed and looked at."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT, TEST_SETTINGS

from support import reader


@dataclass(frozen=True)
class Submitted:
    """A job at work, and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, text: str, seconds: float = 300) -> None:
        """Until the log says `text`."""
        end = time.monotonic() + seconds
        while text not in self.text:
            assert self.process.poll() is None, self.text[-2000:]
            assert time.monotonic() < end, f"no '{text}' within {seconds} s"
            time.sleep(0.05)

    def ended(self, seconds: float = 600) -> int:
        """The exit code."""
        return self.process.wait(timeout=seconds)

    def signal_all(self, number: int) -> None:
        """spark-submit, the JVM, the driver, and the workers, which have a group of their own."""
        for pid in [self.process.pid, *below(self.process.pid)]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue


def submit(
    job: str, log: Path, *arguments: str, settings: Mapping[str, str] | None = None, **environment: str
) -> Submitted:
    """spark-submit of a job in a session of its own."""
    flags = TEST_SETTINGS | {"spark.driver.memory": "1g"} | dict(settings or {})
    command = [
        str(Path(sys.executable).parent / "spark-submit"), "--properties-file", "conf/spark-defaults.conf",
        *(part for key, value in flags.items() for part in ("--conf", f"{key}={value}")),
        f"jobs/{job}.py", *arguments,
    ]  # fmt: skip
    # spark-submit passes a Python driver's stderr on as stdout.
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | environment, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    return Submitted(process, log)


def below(pid: int) -> list[int]:
    """Living descendants of a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found += [int(stat.parent.name), *below(int(stat.parent.name))]
    return found


def kill(job: Submitted) -> None:
    """kill -9 of all of it."""
    job.signal_all(signal.SIGKILL)
    job.process.wait(timeout=60)


def look(root: Path) -> str:
    """The run that another process, with another reader, is shown; it must be whole."""
    command = [sys.executable, str(Path(reader.__file__)), str(root)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert told["seen"] == {"whole": 1}, told
    (shown,) = told["shown"]
    return str(shown)
