"""Two of everything at once: drivers of one run, publishers of one channel, days of one root, readers beside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from support import reader, world
from support.days import DAY, NEXT_DAY, Day
from support.submitted import look, submit
from walkbits.stages import daily
from walkbits.stages.publish_run import roll_back
from walkbits.tables.views import register_views

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def test_a_stopped_driver_keeps_its_run_and_goes_on(two_days: Day, tmp_path: Path) -> None:
    """Stopped in every stage, as a host that stalls; another driver of the run ends with code 4 each time."""
    arguments = (
        "--config",
        str(world.write_config(tmp_path, tmp_path / "inputs", tmp_path / "root")),
        "--ds",
        str(DAY),
    )
    world.write_inputs(tmp_path / "inputs")
    first = submit("run_daily", tmp_path / "first.log", *arguments)
    for stage in daily.DAILY:
        first.wait_for(f"stage={stage.name} run=")
        first.signal_all(signal.SIGSTOP)
        second = submit("run_daily", tmp_path / f"{stage.name}.log", *arguments)
        assert second.ended() == 4, second.text[-2000:]
        assert "one driver at a time may work on it, got process" in second.text
        assert "Traceback" not in second.text
        first.signal_all(signal.SIGCONT)
    assert first.ended() == 0, first.text[-3000:]
    run_id = look(tmp_path / "root")
    assert run_id == two_days.context(DAY).run_id
    assert reader.bits(tmp_path / "root", run_id) == reader.bits(Path(two_days.config.root), run_id)


def test_two_days_at_once_end_as_one_after_the_other(two_days: Day, tmp_path: Path) -> None:
    """Two drivers of two runs on one root commit to the same tables and logs; each day has its channel."""
    world.write_inputs(tmp_path / "inputs")
    config = world.write_config(tmp_path, tmp_path / "inputs", tmp_path / "root")
    both = [
        submit(
            "run_daily",
            tmp_path / f"{ds}.log",
            "--config",
            str(config),
            "--ds",
            str(ds),
            "--channel",
            f"ds={ds}",
        )
        for ds in (DAY, NEXT_DAY)
    ]
    assert [job.ended() for job in both] == [0, 0], "\n".join(job.text[-2000:] for job in both)
    for ds in (DAY, NEXT_DAY):
        run_id = two_days.context(ds).run_id
        shown = reader.pointer(tmp_path / "root", f"ds={ds}")
        assert shown is not None
        assert shown["run_id"] == run_id
        assert reader.bits(tmp_path / "root", run_id) == reader.bits(Path(two_days.config.root), run_id)


RACER = """
import sys, time
from datetime import date
from pathlib import Path
from pyspark.sql import SparkSession
from conftest import TEST_SETTINGS, shipped_settings
from walkbits.errors import LostRaceError
from walkbits.runs.log import Run
from walkbits.runs.pointer import flip, read_pointer
from walkbits.tables.store import Store, Written

root, name, races = sys.argv[1], sys.argv[2], int(sys.argv[3])
builder = SparkSession.builder
for key, value in (shipped_settings() | TEST_SETTINGS | {"spark.driver.memory": "1g"}).items():
    builder = builder.config(key, value)
store = Store(builder.getOrCreate(), root)
place = Path(root).parent
for number in range(races):
    pointer = read_pointer(store, "live")
    (place / f"{number}.{name}").touch()
    while not all((place / f"{number}.{one}").exists() for one in "ab"):
        time.sleep(0.001)
    run = Run(date(2026, 1, 31), name * 64, number + 1)
    try:
        seq = flip(store, "live", run, pointer, "m", [Written("embeddings", 1, name, 1, 1)])
        print(number, "won", seq, flush=True)
    except LostRaceError:
        print(number, "lost", flush=True)
    (place / f"{number}.{name}.done").touch()
    while not all((place / f"{number}.{one}.done").exists() for one in "ab"):
        time.sleep(0.001)
"""
RACES = 50


def test_of_two_publishers_one_wins_every_time(tmp_path: Path) -> None:
    """Two processes with a JVM each look at the same pointer, then flip at once."""
    (tmp_path / "root").mkdir()
    command = [sys.executable, "-c", RACER, str(tmp_path / "root")]
    environment = {"PYTHONPATH": f"{ROOT}/lib:{ROOT}/tests:{ROOT}"}
    both = [
        subprocess.Popen(
            [*command, name, str(RACES)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | environment,
        )
        for name in "ab"
    ]
    told = [process.communicate(timeout=1800)[0].split("\n")[:-1] for process in both]
    assert [len(lines) for lines in told] == [RACES, RACES], told
    for number in range(RACES):
        outcomes = sorted(lines[number].split()[1] for lines in told)
        assert outcomes == ["lost", "won"], (number, [lines[number] for lines in told])
    rows = reader.DeltaTable(str(tmp_path / "root" / "publications")).to_pyarrow_table().to_pylist()
    assert sorted(row["seq"] for row in rows) == [*range(1, RACES + 1)]


JOINED = """
SELECT
    count(*) AS rows,
    array_distinct(flatten(collect_set(array(e.run_id, c.run_id, b.run_id, shown.run_id)))) AS runs
FROM published_embeddings AS e
INNER JOIN published_codes AS c ON e.external_id = c.external_id AND e.node_type = c.node_type AND c.code_bits = 64
INNER JOIN published_lsh_buckets AS b ON e.external_id = b.external_id
CROSS JOIN published_run AS shown
"""


def test_readers_beside_twenty_publications_see_one_whole_run(
    copied: Callable[..., Day], tmp_path: Path
) -> None:
    day = copied()
    stop, seen, over = tmp_path / "stop", Counter[str](), threading.Event()
    register_views(day.spark, day.config.root)
    command = [sys.executable, str(Path(reader.__file__)), day.config.root, str(stop)]
    beside = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def query() -> None:
        while not over.is_set():
            (row,) = day.spark.sql(JOINED).collect()
            seen["mixed"] += len(row["runs"]) != 1
            seen["short"] += row["rows"] != world.NUM_ITEMS * 8
            seen["queries"] += 1

    thread = threading.Thread(target=query)
    thread.start()
    try:
        for _ in range(20):
            roll_back(day.store, day.config)
    finally:
        over.set()
        thread.join()
        stop.touch()
    told: dict[str, Any] = json.loads(beside.communicate(timeout=120)[0])
    assert set(told["seen"]) == {"whole"}, told
    assert told["seen"]["whole"] >= 10
    assert len(told["shown"]) == 2  # it saw both
    assert (seen["mixed"], seen["short"]) == (0, 0)
    assert seen["queries"] >= 10
    assert day.live().seq == 22
