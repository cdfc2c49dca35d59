"""A real cluster of processes on this machine, from the pip wheel: the same run as in local mode, bit for bit.

`make test-standalone` runs this.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from deltalake import DeltaTable
from reference.walks import random_graph
from support import walks_elsewhere, world
from support.small_data import SMALL_DATA
from walkbits.walks.kernel import neighborhoods_of
from walkbits.walks.replicated import neighborhood_batch

BIN = Path(sys.executable).parent
NUM_WORKERS = 2

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def daemon(stack: ExitStack, log: Path, kind: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A master or worker in the foreground; ended with the stack."""
    output = stack.enter_context(log.open("wb"))
    environment = os.environ | {"SPARK_NO_DAEMONIZE": "1"}
    process = subprocess.Popen(
        [BIN / "spark-class", f"org.apache.spark.deploy.{kind}", *arguments],
        env=environment, cwd=log.parent, stdout=output, stderr=subprocess.STDOUT,
    )  # fmt: skip

    def end() -> None:
        process.terminate()
        process.wait(timeout=30)

    stack.callback(end)
    return process


def wait_for(log: Path, text: str, count: int = 1, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while log.read_text(encoding="utf-8").count(text) < count:
        assert time.monotonic() < end, f"no '{text}' in {log.read_text(encoding='utf-8')[-2000:]}"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a master with two workers of one core each."""
    folder, port = tmp_path_factory.mktemp("cluster"), free_port()
    address = f"spark://127.0.0.1:{port}"
    with ExitStack() as stack:
        log = folder / "master.log"
        daemon(stack, log, "master.Master", "--host", "127.0.0.1", "--port", str(port), "--webui-port", "0")
        wait_for(log, "I have been elected leader")
        for number in range(NUM_WORKERS):
            size = ("--cores", "1", "--memory", "1g", "--webui-port", "0")
            # Hosts of their own: Spark never runs a task and its copy on one host.
            place = ("--host", f"127.0.0.{1 + number}", "--work-dir", str(folder / f"work{number}"))
            daemon(stack, folder / f"worker{number}.log", "worker.Worker", *size, *place, address)
        wait_for(log, "Registering worker", NUM_WORKERS)
        yield address


def run_day(folder: Path, master: str, *overrides: str) -> list[tuple[str, str, int, str]]:
    """spark-submit of a whole day; (stage, output, rows, fingerprint) of all that it committed."""
    folder.mkdir()
    config = world.write_config(folder, folder.parent / "inputs", folder / "root")
    settings = SMALL_DATA | {
        "spark.master": master, "spark.driver.memory": "1g", "spark.executor.memory": "640m",
        "spark.driver.host": "127.0.0.1",
    }  # fmt: skip
    command = [BIN / "spark-submit", "--properties-file", "conf/spark-defaults.conf"]
    for key, value in settings.items():
        command += ["--conf", f"{key}={value}"]
    command += ["jobs/run_daily.py", "--config", config, "--ds", "2026-01-31"]
    for override in ("model.num_layers=1", "training.epochs=1", *overrides):
        command += ["--set", override]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
    logged = DeltaTable(folder / "root" / "stage_log").to_pyarrow_table().to_pylist()
    kept = [row for row in logged if not row["output"].startswith("run_metrics")]
    return sorted((row["stage"], row["output"], row["rows"], row["fingerprint"]) for row in kept)


@pytest.mark.timeout(1800)
def test_a_cluster_commits_the_bits_of_local_mode(master: str, tmp_path: Path) -> None:
    world.write_inputs(tmp_path / "inputs")
    # The cluster's executors copy what they map, and walk in shards: neither may change a bit.
    far = (tmp_path / "far").as_uri()
    on_cluster = run_day(tmp_path / "cluster", master, f"artifacts={far}", "walks.plan=sharded")
    (run,) = (tmp_path / "far").glob("*/*")  # <root's part>/<run>
    stored = {path.relative_to(run).parts[0] for path in run.rglob("*") if path.is_file()}
    assert stored == {"feature_space", "graph", "inputs", "model"}
    assert [path.name for path in (tmp_path / "cluster" / "root").glob("_*")] == ["_locks"]
    assert {stage for stage, *_ in on_cluster} >= {"ingest_graph", "build_index", "publish_run"}
    assert run_day(tmp_path / "local", "local[2,4]") == on_cluster


@pytest.mark.timeout(600)
def test_a_task_and_its_speculative_copy_give_each_row_once(master: str, tmp_path: Path) -> None:
    csr = random_graph(100, 40, 300, 2, False).csr()
    csr.save(tmp_path / "graph")
    done = subprocess.run(
        [sys.executable, "-m", walks_elsewhere.__name__, master, tmp_path],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "graph.copied").exists()
    assert int(done.stdout.split("speculative=")[1]) >= 1
    nodes = np.arange(100, dtype=np.int32)
    relation, walks, seed = "item_from_item", walks_elsewhere.WALKS, walks_elsewhere.SEED
    expected = neighborhood_batch(nodes, *neighborhoods_of(csr, relation, nodes, walks, seed))
    found = pq.read_table(tmp_path / "rows.parquet").sort_by("node")
    assert found.to_pylist() == expected.to_pylist()
