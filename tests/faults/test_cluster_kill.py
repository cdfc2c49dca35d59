"""kill -9 of an executor in the middle of every stage that shuffles or computes: the same bits, one attempt."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from support import reader, world
from support.days import DAY, Day
from support.submitted import below, look, submit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
STAGES = ("ingest_graph", "build_neighborhoods", "infer_layers", "build_index")


def executors(pid: int) -> list[int]:
    found = []
    for child in below(pid):
        try:
            line = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        found += [child] if b"CoarseGrainedExecutorBackend" in line else []
    return found


def test_a_killed_executor_changes_no_bit(two_days: Day, tmp_path: Path) -> None:
    world.write_inputs(tmp_path / "inputs")
    config = world.write_config(tmp_path, tmp_path / "inputs", tmp_path / "root")
    job = submit(
        "run_daily", tmp_path / "day.log", "--config", str(config), "--ds", str(DAY),
        settings={
            "spark.master": "local-cluster[2,1,1024]", "spark.executor.memory": "700m", "spark.driver.host": "127.0.0.1",
        },
        SPARK_WORKER_DIR=str(tmp_path / "work"),
    )  # fmt: skip
    killed = []
    for stage in STAGES:
        job.wait_for(f"stage={stage} run=", seconds=600)
        time.sleep(1.0)
        alive = executors(job.process.pid)
        if alive:
            os.kill(alive[0], signal.SIGKILL)
            killed.append(stage)
    assert job.ended(900) == 0, job.text[-3000:]
    assert len(killed) >= 3
    assert job.text.count("Lost executor") >= 3
    run_id = look(tmp_path / "root")
    assert reader.bits(tmp_path / "root", run_id) == reader.bits(Path(two_days.config.root), run_id)
