"""Walk engine against its peers and its own parts, in one run, on one machine.

    make bench-walks                    # everything; about 15 minutes on 2 cores
    make bench-walks ARGS="--quick"     # a tenth of the size, to see that it runs

The graph is `power_law.power_law_graph`: 1 M items, 200 k contexts, 11 M edges; 100 walks of
5 visits, T = 50. Every part is warmed up and reported as the median of its repeats:

    kernel       neighborhoods_of on one core, on a sample of nodes, and where its time goes
    stage        from the graph folder to the committed Delta table, in a warm session; cold apart
    DGL          PinSAGESampler in its own environment, best of three batch sizes
    join plan    one join per step in Spark SQL; fewer walkers, compared by edge steps per second
    growth       the stage at a tenth, one and four times the items, at constant degree
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from power_law import power_law_graph
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from walkbits.config import Walks
from walkbits.graph import walks as kernel
from walkbits.graph.csr import BipartiteCsr
from walkbits.graph.neighborhoods import build_neighborhoods
from walkbits.schemas import NEIGHBORHOODS
from walkbits.session import get_session
from walkbits.storage.artifacts import distribute
from walkbits.storage.tables import Store

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "walks.json"
PEER_PYTHON = ROOT / ".cache" / "bench-dgl" / "bin" / "python"

WALKS = Walks(num_walks=100, walk_length=5, num_neighbors=50)
HOPS = 2 * WALKS.num_walks * WALKS.walk_length
"""Edge steps of one node: out and home for each visit."""
SEED = 1


def main() -> None:
    """Measure, print, write RESULTS."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the size")
    parser.add_argument("--repeats", type=int, default=3, help="warm repeats of the stage (default: 3)")
    args = parser.parse_args()
    items = 100_000 if args.quick else 1_000_000
    spark = get_session("bench-walks")
    with tempfile.TemporaryDirectory(prefix="walkbits-bench-") as scratch:
        folder = Path(scratch)
        figures: dict[str, float] = {"items": items}
        graphs = {n: graph_folder(folder, n) for n in (items // 10, items, 4 * items)}
        parts: list[Callable[[], dict[str, float]]] = [
            lambda: measure_kernel(BipartiteCsr.open(graphs[items]), min(items, 100_000)),
            lambda: measure_dgl(graphs[items], min(items, 40_000)),
            lambda: measure_stage(spark, graphs, items, folder, args.repeats),
            lambda: measure_join_plan(spark, BipartiteCsr.open(graphs[items]), folder),
        ]
        for part in parts:
            figures |= show(part())
        spark.stop()
    figures |= show(
        {
            "vs_dgl": figures["stage_nodes_per_s"] / figures["dgl_nodes_per_s"],
            "vs_join_plan": figures["stage_nodes_per_s"] * HOPS / figures["join_plan_steps_per_s"],
        }
    )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def show(figures: dict[str, float]) -> dict[str, float]:
    """Print what was just measured."""
    for name, value in figures.items():
        sys.stdout.write(f"{name:<34} {value:>14,.4g}\n")
    sys.stdout.flush()
    return figures


def graph_folder(folder: Path, items: int) -> Path:
    """The power-law graph of that many items, at 11 edges an item and 5 items a context."""
    path = folder / f"graph-{items}"
    power_law_graph(items, items // 5, 11 * items).save(path)
    return path


def measure_kernel(csr: BipartiteCsr, num_nodes: int) -> dict[str, float]:
    """Nodes per second of one core, the shares of its parts, and the machine's random-read limit."""
    nodes = np.sort(np.random.default_rng(0).permutation(csr.item.num_nodes)[:num_nodes]).astype(np.int32)
    kernel.neighborhoods_of(csr, "item_from_item", nodes[:2_000], WALKS, SEED)
    seconds = median(lambda: kernel.neighborhoods_of(csr, "item_from_item", nodes, WALKS, SEED), 3)

    hops, sort, top = _parts(csr, nodes[: num_nodes // 4])
    total = hops + sort + top
    return {
        "kernel_nodes_per_s_per_core": num_nodes / seconds,
        "kernel_ns_per_hop": seconds / num_nodes / HOPS * 1e9,
        "kernel_share_hops": hops / total,
        "kernel_share_sort": sort / total,
        "kernel_share_top": top / total,
        "random_read_ns": _random_read_ns(csr.item.indices),
    }


def _parts(csr: BipartiteCsr, nodes: np.ndarray[Any, Any]) -> tuple[float, float, float]:
    """Seconds of hops, sort and top-T over the same blocks."""
    out, home = csr.sides("item_from_item")
    spent = [0.0, 0.0, 0.0]
    size = WALKS.block_size
    visited = np.empty((size, WALKS.num_walks * WALKS.walk_length), np.int32)
    room = np.empty(size * WALKS.num_neighbors, np.int32), np.empty(size * WALKS.num_neighbors, np.int32)
    for low in range(0, len(nodes) - size, size):
        starts = nodes[low : low + size]
        marks = [time.perf_counter()]
        kernel._walk(
            kernel._arrays(out), kernel._arrays(home), csr.weighted, starts, out.keys[starts].view(np.uint64),
            np.uint64(SEED), WALKS.walk_length, np.uint64(0), True,
            visited.reshape(size, WALKS.num_walks, WALKS.walk_length),
        )  # fmt: skip
        marks.append(time.perf_counter())
        visited.sort(axis=1)
        marks.append(time.perf_counter())
        kernel._top(visited, starts, WALKS.num_neighbors, *room)
        marks.append(time.perf_counter())
        spent = [
            total + after - before for total, before, after in zip(spent, marks, marks[1:], strict=False)
        ]
    return spent[0], spent[1], spent[2]


def _random_read_ns(indices: np.ndarray[Any, Any]) -> float:
    """Nanoseconds of one independent random 4-byte read of the edge array: what a hop needs at least."""
    at = np.random.default_rng(0).integers(0, len(indices), 20_000_000)
    out = np.empty(len(at), indices.dtype)
    np.take(indices, at[:1000], out=out[:1000])
    return median(lambda: np.take(indices, at, out=out, mode="clip"), 3) / len(at) * 1e9


def measure_dgl(graph: Path, num_nodes: int) -> dict[str, float]:
    """The peer's best rate, on the whole machine."""
    argv = [WALKS.num_walks, WALKS.walk_length, WALKS.num_neighbors, num_nodes]
    done = subprocess.run(
        [PEER_PYTHON, ROOT / "benchmarks" / "dgl_walks.py", graph, *map(str, argv)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    rates = json.loads(done.stdout.strip().splitlines()[-1])
    return {"dgl_nodes_per_s": max(rates.values())} | {f"dgl_batch_{n}": rate for n, rate in rates.items()}


def measure_stage(
    spark: SparkSession, graphs: dict[int, Path], items: int, scratch: Path, repeats: int
) -> dict[str, float]:
    """The Spark stage, cold, warm, without its Delta write, and at other sizes."""
    store = Store(spark, str(scratch / "tables"))
    peak = PeakMemory()
    peak.start()

    def stage(n: int) -> DataFrame:
        return build_neighborhoods(spark, distribute(spark, graphs[n]), "item_from_item", WALKS, SEED)

    def write(n: int) -> None:
        frame = stage(n).drop("relation")
        store.write(NEIGHBORHOODS, frame, "bench", relation="item_from_item")

    cold = median(lambda: write(items), 1)
    warm = median(lambda: write(items), repeats)
    unwritten = median(lambda: stage(items).write.format("noop").mode("overwrite").save(), repeats)
    growth = {
        n: (warm if n == items else median(lambda n=n: write(n), 1 if n > items else repeats)) / n
        for n in graphs
    }
    peak.stop()
    return {
        "stage_nodes_per_s": items / warm,
        "stage_seconds": warm,
        "stage_cold_seconds": cold,
        "stage_seconds_without_delta": unwritten,
        **{f"seconds_per_million_{n}": seconds * 1e6 for n, seconds in growth.items()},
        "growth_max": max(growth.values()) / min(growth.values()),
        "peak_worker_mb": peak.private_mb,
        "peak_worker_mb_with_mapped_graph": peak.resident_mb,
    }


def measure_join_plan(spark: SparkSession, csr: BipartiteCsr, scratch: Path) -> dict[str, float]:
    """Edge steps per second of the plan that joins walkers with the edges at every step.

    Degrees and numbered edges lie in Parquet; a walker's draw picks an edge number, one
    equi-join finds its end. 10 walks of 5 visits from 2% of the items, counted and cut to T.
    """
    out, home = csr.sides("item_from_item")
    spark.conf.set("spark.sql.autoBroadcastJoinThreshold", -1)  # the edges' degrees outgrow a broadcast
    for name, side in (("out", out), ("home", home)):
        numbered = spark.createDataFrame(_numbered(side))
        numbered.write.mode("overwrite").parquet(str(scratch / f"{name}_edges"))
    edges = {name: spark.read.parquet(str(scratch / f"{name}_edges")) for name in ("out", "home")}
    starts = out.num_nodes // 50

    def walk() -> None:
        walkers = (
            spark.range(starts).select((F.col("id") * 50).cast("int").alias("start"))
            .crossJoin(spark.range(10).select(F.col("id").alias("walk")))
            .withColumn("at", F.col("start"))
        )  # fmt: skip
        visits = []
        for step in range(WALKS.walk_length):
            for name in ("out", "home"):
                degrees = edges[name].groupBy("node").agg(F.count("*").alias("degree"))
                draw = F.pmod(F.xxhash64("start", "walk", F.lit(step), F.lit(name)), F.col("degree")).cast(
                    "int"
                )
                walkers = (
                    walkers.join(degrees, F.col("at") == F.col("node")).drop("node")
                    .withColumn("number", draw).drop("degree")
                    .join(edges[name], (F.col("at") == F.col("node")) & (F.col("number") == F.col("place")))
                    .select("start", "walk", F.col("end").alias("at"))
                )  # fmt: skip
            visits.append(walkers.select("start", "at"))
        every = visits[0]
        for more in visits[1:]:
            every = every.unionAll(more)
        counts = every.where("start <> at").groupBy("start", "at").agg(F.count("*").alias("visits"))
        ranked = counts.groupBy("start").agg(
            F.slice(F.sort_array(F.collect_list(F.struct("visits", "at")), asc=False), 1, WALKS.num_neighbors)
        )
        ranked.write.format("noop").mode("overwrite").save()

    walk()
    return {"join_plan_steps_per_s": starts * 10 * 2 * WALKS.walk_length / median(walk, 2)}


def _numbered(side: Any) -> Any:
    import pandas as pd

    degrees = np.diff(side.indptr)
    node = np.repeat(np.arange(side.num_nodes, dtype=np.int32), degrees)
    place = (np.arange(len(node)) - np.repeat(side.indptr[:-1], degrees)).astype(np.int32)
    return pd.DataFrame({"node": node, "place": place, "end": np.asarray(side.indices)})


class PeakMemory(threading.Thread):
    """Largest memory of any Python worker: private pages, and with the mapped graph's."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.private_mb = self.resident_mb = 0.0
        self._done = threading.Event()

    def run(self) -> None:
        """Look at every pyspark worker twice a second."""
        while not self._done.wait(0.5):
            for status in Path("/proc").glob("[0-9]*/status"):
                try:
                    if b"pyspark" not in (status.parent / "cmdline").read_bytes():
                        continue
                    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
                except OSError:
                    continue
                if "java" in lines["Name"]:
                    continue
                self.private_mb = max(self.private_mb, int(lines["RssAnon"].split()[0]) / 1024)
                self.resident_mb = max(self.resident_mb, int(lines["VmRSS"].split()[0]) / 1024)

    def stop(self) -> None:
        """End the watch."""
        self._done.set()
        self.join()


def median(body: Callable[[], object], repeats: int) -> float:
    """Median seconds of a body."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        body()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


if __name__ == "__main__":
    try:
        main()
    finally:
        shutil.rmtree(ROOT / "spark-warehouse", ignore_errors=True)
