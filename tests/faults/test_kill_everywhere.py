"""kill -9 of the daily job at every named point: readers see a whole run or none, and the next run ends with
the bits of an undisturbed one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, TEST_SETTINGS
from support import reader, world
from walkbits.faults import FAULT, TRACE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

DS = "2026-01-31"
AFTER_THE_FLIP = {"publications.appended", "publish_run.flipped", "publish_run.logged"}


def run_day(root: Path, config: Path, trace: Path, *points: str) -> subprocess.CompletedProcess[str]:
    """The daily job as a user submits it, which dies at the first of the points that it passes."""
    settings = TEST_SETTINGS | {"spark.driver.memory": "1g"}
    flags = [part for key, value in settings.items() for part in ("--conf", f"{key}={value}")]
    command = [
        str(Path(sys.executable).parent / "spark-submit"), "--properties-file", "conf/spark-defaults.conf",
        *flags, "jobs/run_daily.py", "--config", str(config), "--root", str(root), "--ds", DS,
    ]  # fmt: skip
    environment = os.environ | {TRACE: str(trace), FAULT: ",".join(points)}
    return subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False, timeout=600,
    )  # fmt: skip


def look(root: Path) -> str:
    """The run that another process, with another reader, is shown; it must be whole."""
    command = [sys.executable, str(Path(reader.__file__)), str(root)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert told["seen"] == {"whole": 1}, told
    (shown,) = told["shown"]
    return str(shown)


def test_a_driver_killed_at_any_point_loses_nothing(tmp_path: Path) -> None:
    """One driver after the other on one root: each dies at the first point that none has died at. What a
    resumed run no longer passes is left for the next root."""
    world.write_inputs(tmp_path / "inputs")
    config = world.write_config(tmp_path, tmp_path / "inputs", tmp_path / "whole")
    whole = tmp_path / "whole"
    baseline = run_day(whole, config, tmp_path / "trace")
    assert baseline.returncode == 0, baseline.stdout[-3000:]
    points = list(dict.fromkeys((tmp_path / "trace").read_text().split()))
    assert len(points) > 30
    run_id = look(whole)
    expected = reader.bits(whole, run_id)

    left, chain = [*points], 0
    while left:
        chain += 1
        root, before, published = tmp_path / f"root{chain}", len(left), False
        while True:
            trace = tmp_path / f"trace{chain}.{len(left)}"
            ended = run_day(root, config, trace, *left)
            if ended.returncode == 0:
                break
            died_at = trace.read_text().split()[-1]
            assert died_at in left, ended.stdout[-3000:]  # by the fault and by nothing else
            left.remove(died_at)
            published = published or died_at in AFTER_THE_FLIP
            assert look(root) == (run_id if published else "None"), died_at
        assert look(root) == run_id
        assert reader.bits(root, run_id) == expected
        assert len(left) < before, f"never passed again: {left}"
