"""kill -9 of the real job, between and inside its stages; readers and the next run must not notice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from pyspark.sql import SparkSession
from support import world
from support.submitted import submit
from walkbits.errors import ConfigError
from walkbits.runs.log import find_run, logged_stages
from walkbits.schemas import EMBEDDINGS, PUBLICATIONS, PUBLISHED, RECOMMENDATIONS
from walkbits.tables.store import Store

pytestmark = pytest.mark.system

DS = "2026-01-31"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_job_killed_in_a_stage_resumes_and_publishes_whole(spark: SparkSession, tmp_path: Path) -> None:
    world.write_inputs(tmp_path / "inputs")
    config = world.write_config(tmp_path, tmp_path / "inputs", tmp_path / "root")
    arguments = ("--config", str(config), "--ds", DS)
    killed = submit("run_daily", tmp_path / "killed.log", *arguments)
    killed.wait_for("stage=infer_layers/layer=1 ")
    os.killpg(killed.process.pid, signal.SIGKILL)
    assert killed.ended(60) == -signal.SIGKILL

    store = Store(spark, str(tmp_path / "root"))
    run_id = find_run(store, None).run_id
    before = logged_stages(store, run_id)
    assert [*before] == ["build_features", "build_neighborhoods", "ingest_graph", "train_model"]
    assert not store.exists(PUBLICATIONS)

    again = submit("run_daily", tmp_path / "again.log", *arguments)
    assert again.ended(500) == 0, again.text[-3000:]
    log = again.text
    for stage in (*before, "infer_layers/layer=1"):
        assert f"stage={stage} run={run_id} state=kept" in log
    for stage in ("infer_layers", "build_index", "publish_run"):
        assert f"stage={stage} run={run_id} state=done" in log
    fresh = Store(spark, str(tmp_path / "root"))
    after = logged_stages(fresh, run_id)
    assert {name: after[name] for name in before} == before
    assert fresh.read(PUBLICATIONS).count() == 1
    assert fresh.read(EMBEDDINGS, run_id=run_id).count() == world.NUM_ITEMS
    assert all(fresh.read(table, run_id=run_id).count() for table in PUBLISHED if table != RECOMMENDATIONS)


@pytest.mark.parametrize("flag", ["--no-such-flag", "--ds=yesterday"])
def test_a_bad_flag_ends_as_a_bad_setting_does_with_usage(flag: str) -> None:
    command = [sys.executable, "jobs/run_daily.py", flag]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == ConfigError.exit_code
    assert "usage: spark-submit jobs/run_daily.py" in ended.stderr
