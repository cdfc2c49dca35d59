"""The layer engine beside the machine's limit and beside a join: `make bench-layers`.

A PinSage of two layers and head (128 wide, T = 50, importance pooling) over synthetic neighborhoods,
half of whose references are uniform and half follow a power law (rank = n * u^4). The limit is
one process with everything in memory: torch's GEMMs and embedding_bag on all cores. The engine reads
features and neighborhoods from Delta and commits each layer to Delta. Figures are wall seconds;
medians of the runs whose number is printed. Writes benchmarks/results/layers.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import torch
from measure import Figures, PeakMemory, drop_files, seconds
from numpy.typing import NDArray
from pydantic import ByteSize
from pyspark.sql import functions as F
from walkbits.arrays.vectors import binary_array, float_lists, read_lists, read_vectors
from walkbits.inference.layers import infer
from walkbits.inference.nodes import as_embeddings, features_of_nodes
from walkbits.inference.references import References, open_slots
from walkbits.models.base import Shapes
from walkbits.models.card import Card, LoadedModel, new_nodes_of
from walkbits.models.pinsage import PinSage
from walkbits.network.module import Module
from walkbits.rng import draw, uniform
from walkbits.runs.cost import cost, spark_stages
from walkbits.schemas import EMBEDDINGS, FEATURES, NEIGHBORHOODS, NODES, REPRESENTATIONS
from walkbits.session import get_session
from walkbits.settings import Inference
from walkbits.tables.rows import Rows
from walkbits.tables.store import Store
from walkbits.types import NodeType

WIDTH: Final = 128
T: Final = 50
RUNS: Final = itertools.count()
F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


def neighbors_of(nodes: NDArray[np.int64], num_nodes: int) -> I32:
    """int32 [n, T]: T / 2 uniform references, then T / 2 by a power law over scattered ranks."""
    u = uniform(draw(0, nodes[:, None], np.arange(T)[None, :]))  # [n, T]
    rank = (num_nodes * np.concatenate([u[:, : T // 2], u[:, T // 2 :] ** 4], axis=1)).astype(np.int64)
    # A prime step scatters the popular ranks over the indices.
    return (rank * 2_147_483_647 % num_nodes).astype(np.int32)


def visits_of(nodes: NDArray[np.int64]) -> I32:
    """int32 [n, T], 1 to 16."""
    return (draw(1, nodes[:, None], np.arange(T)[None, :]) >> np.uint64(60)).astype(np.int32) + 1


def features_of(nodes: NDArray[np.int64]) -> F32:
    """fp32 [n, WIDTH], from one generator per 4,096 nodes."""
    return np.random.default_rng(int(nodes[0])).standard_normal((len(nodes), WIDTH), dtype=np.float32)


def blocks(num_nodes: int) -> Iterator[NDArray[np.int64]]:
    """The nodes, 4,096 at a time."""
    for low in range(0, num_nodes, 4096):
        yield np.arange(low, min(low + 4096, num_nodes))


def write_tables(store: Store, num_nodes: int, run_id: str) -> None:
    """Nodes, features and neighborhoods as the stages before would have left them."""

    def make(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for low in batch.column(0).to_pylist():
                nodes = np.arange(low, min(low + 4096, num_nodes))
                lists = neighbors_of(nodes, num_nodes), visits_of(nodes)
                yield pa.RecordBatch.from_arrays(
                    [
                        pa.array(nodes),
                        binary_array(features_of(nodes)),
                        *(binary_array(rows, "<i4") for rows in lists),
                    ],
                    names=["node_id", "features", "neighbors", "visits"],
                )

    schema = "node_id bigint, features binary, neighbors binary, visits binary"
    starts = store.spark.range(0, num_nodes, 4096, numPartitions=store.spark.sparkContext.defaultParallelism)
    rows = starts.mapInArrow(make, schema)
    store.write(FEATURES, rows.select("node_id", "features"), run_id, node_type="item")
    lists = rows.select(F.col("node_id").cast("int").alias("node"), "neighbors", "visits")
    store.write_rows(NEIGHBORHOODS, [Rows.of(lists)], run_id, relation="item_from_item")
    nodes = store.spark.range(num_nodes).select(
        F.lit("item").alias("node_type"), F.col("id").alias("node_id"),
        F.col("id").cast("string").alias("external_id"), F.lit(None).alias("name"),
        F.col("id").alias("node_key"), F.lit(T).alias("degree"),
    )  # fmt: skip
    store.write(NODES, nodes, run_id)


def model() -> LoadedModel:
    """PinSage with fixed weights."""
    network = PinSage(hidden_size=WIDTH, embedding_size=WIDTH).network(Shapes({"item": 1}, {"item": WIDTH}))
    module = Module(network, 0, torch.device("cpu"))
    digest = "0" * 64
    card = Card(
        network=network, feature_schema=digest, config_hash=digest, data_run="", metrics={},
        weights_sha256=digest, new_nodes=new_nodes_of(network),
    )  # fmt: skip
    return LoadedModel(card, {name: tensor.detach().numpy() for name, tensor in module.weights.items()})


def limit(num_nodes: int, runs: int) -> dict[str, float]:
    """Median seconds of an inner layer and of the last one, in memory, in this process alone."""
    import torch
    from torch.nn import functional as nn

    torch.set_num_threads(os.cpu_count() or 1)
    w = {name: torch.from_numpy(array) for name, array in model().weights.items()}
    h = torch.from_numpy(np.concatenate([features_of(nodes) for nodes in blocks(num_nodes)]))
    neighbors = torch.from_numpy(np.concatenate([neighbors_of(n, num_nodes) for n in blocks(num_nodes)]))
    visits = torch.from_numpy(np.concatenate([visits_of(nodes) for nodes in blocks(num_nodes)])).float()
    visits /= visits.sum(dim=1, keepdim=True)

    def layer(i: int, h: torch.Tensor) -> torch.Tensor:
        q = nn.relu(nn.linear(h, w[f"layers.{i}.project.weight"], w[f"layers.{i}.project.bias"]))
        n = nn.embedding_bag(neighbors, q, per_sample_weights=visits, mode="sum")
        both = torch.cat([h, n], dim=1)
        return nn.normalize(
            nn.relu(nn.linear(both, w[f"layers.{i}.combine.weight"], w[f"layers.{i}.combine.bias"])), dim=1
        )

    def last(h: torch.Tensor) -> torch.Tensor:
        h = nn.relu(nn.linear(layer(1, h), w["head.0.weight"], w.get("head.0.bias")))
        return nn.normalize(nn.linear(h, w["head.1.weight"], w.get("head.1.bias")), dim=1)

    with torch.no_grad():
        inner = layer(0, h)
        return {
            "inner": statistics.median(seconds(lambda: layer(0, h)) for _ in range(runs)),
            "last": statistics.median(seconds(lambda: last(inner)) for _ in range(runs)),
        }


class Committed:
    """Inner layers in the representations table; remembers when each was committed."""

    def __init__(self, store: Store, run_id: str) -> None:
        self.store, self.run_id = store, run_id
        self.marks = [time.perf_counter()]

    def finished(self) -> int:
        """None: every run is whole."""
        return 0

    def write(self, parts: Sequence[Rows], layer: int) -> None:
        """Commit."""
        self.store.write_rows(REPRESENTATIONS, parts, self.run_id, layer=layer)
        self.marks.append(time.perf_counter())

    def finish(self, layer: int) -> None:
        """Nothing to remember."""

    def read(self, layer: int, node_type: str) -> Rows:
        """As committed."""
        where = {"run_id": self.run_id, "layer": layer, "node_type": node_type}
        return self.store.scan(REPRESENTATIONS, ("node", "representation"), **where)


def neighborhoods(store: Store, run_id: str, relation: str) -> Rows:
    """Of the table."""
    return store.scan(NEIGHBORHOODS, ("node", "neighbors", "visits"), run_id=run_id, relation=relation)


def engine(
    store: Store, num_nodes: int, inputs: str, inference: Inference, run_id: str | None = None
) -> dict[str, float]:
    """One run: seconds of the inner layer and of the last one, vector bytes that it shuffled per layer, and
    the longest task beside the median one of its Spark stage, where that weighs most.

    Reads the features and neighborhoods of run `inputs`; commits under a run of its own, as every day does.
    """
    kept, run_id = run_id is not None, run_id or f"run{next(RUNS)}"
    folder, layers = Path(store.root) / "_layers", Committed(store, run_id)
    group = f"layers {run_id}"
    store.spark.sparkContext.setJobGroup(group, group)
    pinsage = model()
    counts: dict[NodeType, int] = {"item": num_nodes}
    inferred = infer(
        store.spark,
        pinsage,
        features_of_nodes(store, inputs, pinsage.card.network, counts),
        counts,
        lambda update: neighborhoods(store, inputs, update.relation),
        inference,
        folder,
        layers,
    )
    nodes = store.scan(NODES, ("node_id", "external_id"), run_id=inputs)
    score = pinsage.card.network.score
    named = as_embeddings(nodes, inferred.parts, counts, score, folder / "graph", folder / "names")
    store.write_rows(EMBEDDINGS, named, run_id)
    marks = [*layers.marks, time.perf_counter()]
    inferred.model_rows.check()
    sent = 0
    if (folder / "item_from_item.2.slots.npy").exists():
        slots = open_slots(folder / "item_from_item.2.slots.npy")
        references = References(folder / "item_from_item.references.npy", num_nodes)
        sent = len(references.blocks(np.flatnonzero(slots < 0).astype(np.int32))[1])
    size = 2 if inference.message_dtype == "fp16" else 4
    shutil.rmtree(folder)
    for table in () if kept else (REPRESENTATIONS, EMBEDDINGS):
        drop_files(store, table, run_id)
    spent = cost(spark_stages(store.spark, group, quantiles=True))
    return {
        "inner": marks[1] - marks[0],
        "last": marks[2] - marks[1],
        "shuffled": float(sent * size * WIDTH),
        "longest_over_median": spent["longest_task_seconds"][0] / spent["median_task_seconds"][0],
    }


def message_effect(store: Store, num_nodes: int, inputs: str) -> dict[str, float]:
    """What fp16 messages change when all are shuffled: recall of each node's 50 nearest, bits that flip."""
    seen = {}
    for dtype in ("fp32", "fp16"):
        engine(store, num_nodes, inputs, Inference(cache_bytes=ByteSize(0), message_dtype=dtype), dtype)
        table = (
            store.read(EMBEDDINGS, run_id=dtype).select("node_id", "embedding").toArrow().sort_by("node_id")
        )
        seen[dtype] = np.asarray(table["embedding"].combine_chunks().values).reshape(-1, WIDTH)
    asked = np.arange(0, num_nodes, max(1, num_nodes // 500))
    near = {
        dtype: np.argpartition(-(x[asked] @ x.T), T, axis=1)[:, :T] for dtype, x in seen.items()
    }  # [queries, T]
    kept = [len(np.intersect1d(*pair)) / T for pair in zip(near["fp32"], near["fp16"], strict=True)]
    flipped = ((seen["fp32"] > 0) != (seen["fp16"] > 0)).mean()
    return {"fp16_recall_50": float(np.mean(kept)), "fp16_bits_flipped": float(flipped)}


def _as_floats(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        vectors = float_lists(read_vectors(batch.column(1), WIDTH))
        yield pa.RecordBatch.from_arrays([batch.column(0), vectors], names=["source", "vector"])


def _as_ints(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        lists = [pa.ListArray.from_arrays(*read_lists(batch.column(i))) for i in (1, 2)]
        yield pa.RecordBatch.from_arrays([batch.column(0), *lists], names=["node", "neighbors", "visits"])


def join_plan(store: Store, num_nodes: int, run_id: str, fraction: float) -> float:
    """Seconds of explode + join + groupBy for the pooling of a share of the targets.

    Vectors and neighborhoods come from Parquet as arrays: what SQL would have stored.
    """
    folder = f"{store.root}/_join"
    if not Path(folder).exists():
        features = store.read(FEATURES, run_id=run_id).select("node_id", "features")
        features.mapInArrow(_as_floats, "source bigint, vector array<float>").write.parquet(
            f"{folder}/vectors"
        )
        rows = store.read(NEIGHBORHOODS, run_id=run_id).where(F.col("node") < num_nodes // 10)
        schema = "node int, neighbors array<int>, visits array<int>"
        rows.select("node", "neighbors", "visits").mapInArrow(_as_ints, schema).write.parquet(
            f"{folder}/rows"
        )
    vectors = store.spark.read.parquet(f"{folder}/vectors")
    rows = store.spark.read.parquet(f"{folder}/rows").where(F.col("node") < int(num_nodes * fraction))
    edges = rows.select("node", F.explode(F.arrays_zip("neighbors", "visits")).alias("edge")).select(
        "node", F.col("edge.neighbors").cast("bigint").alias("source"), F.col("edge.visits").alias("visits")
    )
    pooled = (
        edges.join(vectors, "source")
        .select("node", F.posexplode("vector").alias("k", "x"), "visits")
        .groupBy("node", "k")
        .agg(F.sum(F.col("x") * F.col("visits")) / F.sum("visits"))
    )
    return seconds(lambda: pooled.write.format("noop").mode("overwrite").save())


def main() -> None:
    """Measure step by step; what is measured so far is always in the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1_000_000)
    parser.add_argument("--growth", type=int, nargs="*", default=[250_000, 4_000_000])
    parser.add_argument("--runs", type=int, default=3, help="warm runs behind each median")
    parser.add_argument("--limit", action="store_true", help="only the limit, as JSON")
    args = parser.parse_args()
    if args.limit:
        sys.stdout.write(json.dumps(limit(args.nodes, args.runs)))
        return
    n, naive = args.nodes, float(args.nodes * T * WIDTH * 4)
    record = Figures("layers", nodes=n, width=WIDTH, neighbors=T, runs=args.runs).record
    command = [sys.executable, __file__, "--limit", "--nodes", str(n), "--runs", str(args.runs)]
    floor = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    record(limit_inner_s=floor["inner"], limit_last_s=floor["last"])
    with tempfile.TemporaryDirectory(prefix="walkbits-layers-") as root:
        began = time.perf_counter()
        spark = get_session("bench_layers")
        session_s = time.perf_counter() - began
        store = Store(spark, root)
        write_tables(store, n, "bench")
        whole = Inference()

        def warm(run: Callable[[], dict[str, float]], runs: int) -> dict[str, float]:
            seen = [run() for _ in range(runs)]
            return {name: statistics.median(one[name] for one in seen) for name in seen[0]}

        with PeakMemory() as peak:
            first = engine(store, n, "bench", whole)
            base = warm(lambda: engine(store, n, "bench", whole), args.runs)
        record(
            engine_inner_s=base["inner"], engine_last_s=base["last"],
            vs_limit=base["inner"] / floor["inner"], vs_limit_last=base["last"] / floor["last"],
            cold_start_s=session_s + sum(first[k] - base[k] for k in ("inner", "last")),
            peak_worker_mb=peak.private_mb,
            peak_worker_mb_with_mapped_matrices=peak.resident_mb,
            longest_over_median=base["longest_over_median"],
        )  # fmt: skip
        per_node = {}  # all sizes in the same minutes, before the budgets' shuffles burden the disk
        for size in sorted({*args.growth, n}):
            inputs = "bench" if size == n else f"bench{size}"
            if size != n:
                write_tables(store, size, inputs)
            engine(store, size, inputs, whole)
            grown = warm(partial(engine, store, size, inputs, whole), args.runs)
            per_node[size] = (grown["inner"] + grown["last"]) / size
            record(**{f"us_per_node_{size}": per_node[size] * 1e6})
        record(growth_max=max(per_node.values()) / min(per_node.values()))
        small, large = (join_plan(store, n, "bench", share) for share in (0.002, 0.01))
        full = large + (large - small) / 0.008 * 0.99
        record(join_sample_s=large, join_full_s=full, vs_join_plan=full / base["inner"])
        for name, budget in (("half", n * WIDTH * 2), ("zero", 0)):
            with PeakMemory() as peak:
                part = engine(store, n, "bench", Inference(cache_bytes=ByteSize(budget)))
            record(**{
                f"{name}_budget_s": part["inner"] + part["last"],
                f"{name}_budget_ratio": part["shuffled"] / naive,
                f"{name}_budget_peak_worker_mb": peak.private_mb,
                f"{name}_budget_longest_over_median": part["longest_over_median"],
            })  # fmt: skip
        write_tables(store, 100_000, "messages")
        record(**message_effect(store, 100_000, "messages"))
        spark.stop()


if __name__ == "__main__":
    main()
