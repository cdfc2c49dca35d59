"""What every benchmark shares: timing, memory of the Python workers, figures shown and kept as they come."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from walkbits.schemas import Table
from walkbits.tables.store import Store

ROOT: Final = Path(__file__).resolve().parent.parent


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def median(work: Callable[[], object], repeats: int) -> float:
    """Median wall time of some calls."""
    return statistics.median(seconds(work) for _ in range(repeats))


def drop_files(store: Store, table: Table, run_id: str) -> None:
    """Delete what a run wrote, so that the next one writes to the same pages of memory.

    A virtual machine pays extra for every page that it has not used before: a run would measure how many
    runs were before it.
    """
    shutil.rmtree(f"{store.path(table)}/run_id={run_id}")


class Figures:
    """Named figures: each is printed and the file rewritten as soon as it is known."""

    def __init__(self, name: str, **about: Any) -> None:
        self.path = ROOT / "benchmarks" / "results" / f"{name}.json"
        self.values: dict[str, Any] = {"machine": machine()}
        self.record(**about)

    def record(self, **figures: Any) -> None:
        """Show, remember, write."""
        self.values |= figures
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(json.dumps(self.values, indent=2) + "\n", encoding="utf-8")
        for name, value in figures.items():
            sys.stdout.write(f"{name:<36}{value if isinstance(value, str) else f'{value:,.4g}':>16}\n")
        sys.stdout.flush()

    def __getitem__(self, name: str) -> float:
        return float(self.values[name])


def machine() -> str:
    """Cores and processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = "unknown processor"
    return f"{os.cpu_count()} cores, {model}"


class PeakMemory(threading.Thread):
    """Largest memory while the block runs: of any Python worker, its own pages and with mapped files; of the
    driver, Java and Python together.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.private_mb = self.resident_mb = self.driver_mb = 0.0
        self._done = threading.Event()

    def __enter__(self) -> PeakMemory:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        """Look at every process five times a second."""
        while not self._done.wait(0.2):
            driver = 0.0
            for status in Path("/proc").glob("[0-9]*/status"):
                try:
                    command = (status.parent / "cmdline").read_bytes()
                    is_worker = b"pyspark.daemon" in command  # it and what it forks
                    is_driver = status.parent.name == str(os.getpid()) or b"deploy.SparkSubmit" in command
                    if not is_worker and not is_driver:
                        continue
                    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
                    private, resident = (int(lines[name].split()[0]) / 1024 for name in ("RssAnon", "VmRSS"))
                except (OSError, KeyError):
                    continue
                if is_driver:
                    driver += private
                    continue
                self.private_mb = max(self.private_mb, private)
                self.resident_mb = max(self.resident_mb, resident)
            self.driver_mb = max(self.driver_mb, driver)
