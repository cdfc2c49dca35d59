"""A real Airflow, its own environment and a SQLite database, runs the DAGs on a slice of Complete Journey.

`make test-airflow` runs this; it takes minutes, most of them the start of a Spark for every task.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest
from deltalake import DeltaTable
from support import week_slice as week
from support.small_data import SMALL_DATA

ROOT = Path(__file__).resolve().parents[2]
AIRFLOW = ROOT / ".cache" / "airflow" / "bin" / "airflow"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not AIRFLOW.exists(), reason="needs Airflow's own environment: make test-airflow"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inputs, config and an Airflow home."""
    folder = tmp_path_factory.mktemp("airflow")
    week.write(folder)
    subprocess.run([AIRFLOW, "db", "migrate"], env=environment(folder), check=True, capture_output=True)
    return folder


def environment(folder: Path) -> dict[str, str]:
    """What an Airflow worker would have, and nothing of this process's Spark."""
    home = folder / "home"
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "airflow_dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps(
            {"conn_type": "spark", "host": SMALL_DATA["spark.master"], "extra": {"deploy-mode": "client"}}
        ),
        "WALKBITS_HOME": str(ROOT),
        "WALKBITS_CONFIG": str(folder / "config.yaml"),
        "WALKBITS_RETRY_SECONDS": "1",
        "WALKBITS_DEADLINE_HOURS": "0",  # `dags test` cannot take a deadline
        "WALKBITS_SPARK_CONF": json.dumps(SMALL_DATA),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }


def dags_test(
    folder: Path, *arguments: str, meanwhile: Callable[[str], bool] = lambda log: True
) -> tuple[int, str]:
    """`airflow dags test`: its exit code and log.

    Args:
        meanwhile: Called with the log so far until it returns True.
    """
    log = folder / "airflow.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [AIRFLOW, "dags", "test", *arguments],
            env=environment(folder), cwd=folder, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    done = False
    while process.poll() is None:
        done = done or meanwhile(log.read_text(encoding="utf-8"))
        time.sleep(0.2)
    return process.returncode, log.read_text(encoding="utf-8")


def run_id(log: str, ds: date) -> str:
    """The day's run, as its jobs named it."""
    (found,) = set(re.findall(rf"run=({ds:%Y%m%d}-[0-9a-f]{{8}}-a1) ", log))
    return str(found)


def run_date(ds: date) -> str:
    """`dags test` takes the time of the run: the end of the day's interval."""
    return str(ds + timedelta(days=1))


def pointers(folder: Path) -> list[tuple[str, int, date]]:
    """(channel, seq, ds) of all publications, read without Spark."""
    rows = DeltaTable(folder / "tables" / "publications").to_pyarrow_table().to_pylist()
    return sorted((row["channel"], row["seq"], row["ds"]) for row in rows)


def writes(folder: Path) -> dict[str, int]:
    """Commits of rows to every table but `runs`, where each workflow leaves its label."""
    tables = [path.parent for path in (folder / "tables").glob("*/_delta_log") if path.parent.name != "runs"]
    commits = {path.name: [c["operation"] for c in DeltaTable(path).history()] for path in tables}
    return {name: operations.count("WRITE") for name, operations in commits.items()}


def kill_job(folder: Path, job: str) -> bool:
    """kill -9 the JVM of a job of this folder's config."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        mine = str(folder / "config.yaml") in command and any(word.endswith(f"/{job}.py") for word in command)
        if mine and Path(command[0]).name == "java":
            os.kill(int(entry.parent.name), signal.SIGKILL)
            return True
    return False


@pytest.mark.timeout(3000)
def test_two_days_a_kill_a_repeat_and_a_backfill(folder: Path) -> None:
    started = "stage=build_neighborhoods run=20171229"

    def kill(log: str) -> bool:
        return started in log and kill_job(folder, "build_neighborhoods")

    code, log = dags_test(folder, "walkbits_daily", run_date(week.FIRST), meanwhile=kill)
    assert code == 0, log[-4000:]
    assert log.count(f"{started}") >= 3  # started, killed, started, done
    assert log.count(f"stage=ingest_graph run={run_id(log, week.FIRST)} state=started") == 1  # not again
    assert pointers(folder) == [("live", 1, week.FIRST)]

    code, log = dags_test(folder, "walkbits_daily", run_date(week.SECOND))
    assert code == 0, log[-4000:]
    assert "stage=maintain_tables state=done" in log
    (report,) = {line.split("report=")[1].split()[0] for line in log.splitlines() if "report=file://" in line}
    assert run_id(log, week.SECOND) in Path(report.removeprefix("file://")).read_text(encoding="utf-8")
    assert pointers(folder) == [("live", 1, week.FIRST), ("live", 2, week.SECOND)]
    models = DeltaTable(folder / "tables" / "publications").to_pyarrow_table()["model_version"].to_pylist()
    assert len(set(models)) == 1  # a week's model serves the second day

    before = writes(folder)
    code, log = dags_test(folder, "walkbits_daily", run_date(week.SECOND))
    assert code == 0, log[-4000:]
    assert "state=done rows=" not in log
    assert writes(folder) == before

    conf = json.dumps({"first": str(week.FIRST), "last": str(week.FIRST)})
    code, log = dags_test(folder, "walkbits_backfill", "-c", conf)
    assert code == 0, log[-4000:]
    assert pointers(folder) == [
        (f"ds={week.FIRST}", 1, week.FIRST), ("live", 1, week.FIRST), ("live", 2, week.SECOND),
    ]  # fmt: skip


def test_a_bad_param_ends_the_run_before_any_task(folder: Path) -> None:
    code, log = dags_test(folder, "walkbits_backfill", "-c", '{"first": "yesterday", "last": "2017-12-29"}')
    assert code == 1
    assert "Invalid input for param first" in log
