"""kill -9 of the real job, between and inside its stages; readers and the next run must not notice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, TEST_SETTINGS
from pyspark.sql import SparkSession
from support import world
from walkbits.runs.log import find_run, logged_stages
from walkbits.schemas import EMBEDDINGS, PUBLICATIONS, PUBLISHED
from walkbits.tables.store import Store

DS = "2026-01-31"


def submit(config: Path, log: Path) -> subprocess.Popen[bytes]:
    """spark-submit of the daily job, in a process group of its own, as a user would type it."""
    settings = TEST_SETTINGS | {"spark.driver.memory": "1g"}
    flags = [part for key, value in settings.items() for part in ("--conf", f"{key}={value}")]
    command = [
        str(Path(sys.executable).parent / "spark-submit"),
        "--properties-file",
        "conf/spark-defaults.conf",
    ]
    command += [*flags, "jobs/run_daily.py", "--config", str(config), "--ds", DS]
    # spark-submit passes a Python driver's stderr on as stdout.
    with log.open("wb") as output:
        return subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )


def wait_for(log: Path, text: str, process: subprocess.Popen[bytes], seconds: float = 300) -> None:
    """Until the job's log says `text`."""
    end = time.monotonic() + seconds
    while text not in log.read_text(encoding="utf-8"):
        assert process.poll() is None, log.read_text(encoding="utf-8")[-2000:]
        assert time.monotonic() < end, f"no '{text}' within {seconds} s"
        time.sleep(0.2)


@pytest.mark.timeout(1200)
def test_a_job_killed_in_a_stage_resumes_and_publishes_whole(spark: SparkSession, tmp_path: Path) -> None:
    world.write_inputs(tmp_path / "inputs")
    config = world.write_config(tmp_path, tmp_path / "inputs", tmp_path / "root")
    killed = submit(config, tmp_path / "killed.log")
    wait_for(tmp_path / "killed.log", "stage=infer_layers/layer=1 ", killed)
    os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait(timeout=60) == -signal.SIGKILL

    store = Store(spark, str(tmp_path / "root"))
    run_id = find_run(store, None).run_id
    before = logged_stages(store, run_id)
    assert [*before] == ["build_features", "build_neighborhoods", "ingest_graph", "train_model"]
    assert not store.exists(PUBLICATIONS)

    again = submit(config, tmp_path / "again.log")
    assert again.wait(timeout=500) == 0, (tmp_path / "again.log").read_text(encoding="utf-8")[-3000:]
    log = (tmp_path / "again.log").read_text(encoding="utf-8")
    for stage in (*before, "infer_layers/layer=1"):
        assert f"stage={stage} run={run_id} state=kept" in log
    for stage in ("infer_layers", "build_index", "publish_run"):
        assert f"stage={stage} run={run_id} state=done" in log
    fresh = Store(spark, str(tmp_path / "root"))
    after = logged_stages(fresh, run_id)
    assert {name: after[name] for name in before} == before
    assert fresh.read(PUBLICATIONS).count() == 1
    assert fresh.read(EMBEDDINGS, run_id=run_id).count() == world.NUM_ITEMS
    assert all(fresh.read(table, run_id=run_id).count() for table in PUBLISHED)


@pytest.mark.parametrize("flag", ["--no-such-flag", "--ds=yesterday"])
def test_a_bad_flag_ends_with_code_2_and_usage(flag: str) -> None:
    command = [sys.executable, "jobs/run_daily.py", flag]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "usage: spark-submit jobs/run_daily.py" in ended.stderr
