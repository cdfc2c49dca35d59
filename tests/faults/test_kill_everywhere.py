"""kill -9 of the daily job at every named point: readers see a whole run or none, and the next run ends with
the bits of an undisturbed one."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import reader, world
from support.submitted import Submitted, look, submit
from walkbits.faults import FAULT, TRACE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]

DS = "2026-01-31"
AFTER_THE_FLIP = {"publications.appended", "publish_run.flipped", "publish_run.logged"}


def run_day(root: Path, config: Path, trace: Path, *points: str) -> Submitted:
    """The daily job, which dies at the first of the points that it passes."""
    often = "training.checkpoint_seconds=0.001"
    arguments = ("--config", str(config), "--root", str(root), "--ds", DS, "--set", often)
    faults = {TRACE: str(trace), FAULT: ",".join(points)}
    return submit("run_daily", trace.with_suffix(".log"), *arguments, **faults)


def test_a_driver_killed_at_any_point_loses_nothing(tmp_path: Path) -> None:
    """One driver after the other on one root: each dies at the first point that none has died at. What a
    resumed run no longer passes is left for the next root."""
    world.write_inputs(tmp_path / "inputs")
    config = world.write_config(tmp_path, tmp_path / "inputs", tmp_path / "whole")
    whole = tmp_path / "whole"
    baseline = run_day(whole, config, tmp_path / "whole.trace")
    assert baseline.ended() == 0, baseline.text[-3000:]
    points = list(dict.fromkeys((tmp_path / "whole.trace").read_text().split()))
    assert len(points) > 30
    assert "training.checkpoint" in points
    run_id = look(whole)
    expected = reader.bits(whole, run_id)

    left, chain = [*points], 0
    while left:
        chain += 1
        root, before, published = tmp_path / f"root{chain}", len(left), False
        while True:
            trace = tmp_path / f"{chain}-{len(left)}.trace"
            driver = run_day(root, config, trace, *left)
            if driver.ended() == 0:
                break
            died_at = trace.read_text().split()[-1]
            assert died_at in left, driver.text[-3000:]  # by the fault and by nothing else
            left.remove(died_at)
            published = published or died_at in AFTER_THE_FLIP
            assert look(root) == (run_id if published else "None"), died_at
        assert look(root) == run_id
        assert reader.bits(root, run_id) == expected
        assert len(left) < before, f"never passed again: {left}"
