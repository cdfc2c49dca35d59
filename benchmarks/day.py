"""A whole day on a generated world, stage by stage, beside what its parts must cost.

    make bench-day                                # 100 k, 300 k and 1 M items
    make bench-day ARGS="--items 100000"

The world (generated_world.py) has 11 interactions per item. The day is `run_daily` with item_pool as in its
file, trained for one epoch on a fifth of the contexts; features are computed, as on any day with an item
table. The smallest size runs twice, in a new session and in a warm one, the others warm. The limit of a stage
is the same work in one process with everything in memory: reading, grouping and hashing with pyarrow and
numpy; the walk kernel on all cores; the trainer; the layers in torch; the faster of faiss flat and IVF at the
index's target recall; and writing the tables' rows with pyarrow.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from generated_world import write_world
from index import first_enough
from measure import ROOT, Figures, PeakMemory, seconds
from pyspark.sql import SparkSession
from trained import examples_of, relations_of
from walkbits.config import Config
from walkbits.config_file import load_config
from walkbits.forecast import forecast_day
from walkbits.graph.csr import BipartiteCsr
from walkbits.ingest.features import project
from walkbits.models.base import Shapes
from walkbits.network.subgraphs import Neighborhoods
from walkbits.runs.stage import StageRun, execute
from walkbits.schemas import RUN_METRICS, STAGE_LOG
from walkbits.session import get_session
from walkbits.stages.build_neighborhoods import GRAPH
from walkbits.stages.daily import DAILY, open_day, run_daily
from walkbits.stages.ingest_graph import read_inputs
from walkbits.stages.publish_run import publish
from walkbits.training.arrays import TrainingData
from walkbits.training.embed import embed
from walkbits.training.loop import train
from walkbits.types import F32, I32, Relation
from walkbits.walks.kernel import neighborhoods_of

DAY = date(2026, 1, 1)
SAMPLE = 2000
MODEL = ROOT / "conf" / "models" / "item_pool.yaml"
CONFIG = """
root: {folder}/tables
seed: 1
interactions: {{path: {folder}/interactions.parquet, item: item, context: context, timestamp: time}}
items:
  path: {folder}/items.parquet
  item: item
  text: [title]
  categorical: [brand]
  numeric: [price]
"""
TRAINING = {"training.context_fraction": 0.2, "training.epochs": 1}
"""Laid over the model's file."""
SMALLEST = {"items": 40, "interactions": 300}


def main() -> None:
    """Measure all and write benchmarks/results/day.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 300_000, 1_000_000])
    args = parser.parse_args()
    figures = Figures("day", **fixed_costs())
    began = time.perf_counter()
    spark = get_session("bench-day")
    figures.record(session_s=time.perf_counter() - began)
    sizes = sorted(args.items)
    for count in sizes:
        one_size(spark, count, count == sizes[0], figures)
    largest = sizes[-1]
    for name in ("day_vs_limits", "ingest_vs_limit", "audit_publish_share", "driver_gb"):
        figures.record(**{name: figures[f"{name}[{largest}]"]})
    if largest // sizes[0] == 10:
        figures.record(growth_10x=figures[f"day_s[{largest}]"] / figures[f"day_s[{sizes[0]}]"])
    spark.stop()


def one_size(spark: SparkSession, count: int, cold: bool, figures: Figures) -> None:
    """A warm day beside its forecast and its limits; with `cold` a day before it, the session's first."""

    def record(**found: float) -> None:
        figures.record(**{f"{name}[{count}]": value for name, value in found.items()})

    with tempfile.TemporaryDirectory(prefix="walkbits-day-") as scratch:
        folder = Path(scratch) / "world"
        write_world(folder, count)
        config = config_of(folder)
        counts = read_inputs(spark, config, DAY).counts()
        stages = forecast_day(counts, config, spark.sparkContext.defaultParallelism)
        if cold:
            record(cold_s=seconds(lambda: run_daily(spark, config, ds=DAY)))
        began = time.perf_counter()
        context, peaks = watched_day(spark, config, new_attempt=cold)
        whole = time.perf_counter() - began
        found = stages_of(context)
        expected = {one.stage: one.seconds for one in stages}
        record(
            day_s=whole,
            driver_gb=max(peak.driver_mb for peak in peaks.values()) / 1024,
            written_gb=disk_usage(Path(config.root)) / 1e9,
            explained_vs_day=sum(expected.values()) / whole,
            explained_written_gb=sum(one.written for one in stages) / 1e9,
            **found,
            **{f"explained.{stage}": value for stage, value in expected.items()},
            **{f"driver_mb.{stage}": peak.driver_mb for stage, peak in peaks.items()},
            **{f"worker_mb.{stage}": peak.private_mb for stage, peak in peaks.items()},
        )
        limits = limits_of(context, folder)
    record(
        **{f"limit.{name}": value for name, value in limits.items()},
        day_vs_limits=whole / sum(limits.values()),
        ingest_vs_limit=(found["ingest_graph"] + found["build_features"]) / limits["ingest"],
        audit_publish_share=found["publish_run"] / whole,
    )


def watched_day(
    spark: SparkSession, config: Config, new_attempt: bool
) -> tuple[StageRun, dict[str, PeakMemory]]:
    """What `run_daily` does, and each stage's memory."""
    context, peaks = open_day(spark, config, ds=DAY, new_attempt=new_attempt), {}
    steps = {stage.name: partial(execute, context, stage) for stage in DAILY}
    steps["publish_run"] = partial(publish, context, False)
    with context.leased():
        for name, step in steps.items():
            with PeakMemory() as peaks[name]:
                step()
    return context, peaks


def disk_usage(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def config_of(folder: Path) -> Config:
    """The day's settings: TRAINING over conf/models/item_pool.yaml over CONFIG."""
    return load_config(write_config(folder), TRAINING, MODEL)


def write_config(folder: Path) -> Path:
    """CONFIG as a file beside the world."""
    path = folder / "day.yaml"
    path.write_text(CONFIG.format(folder=folder), encoding="utf-8")
    return path


def fixed_costs() -> dict[str, float]:
    """Whole jobs in processes of their own: a bare session with one count, the smallest day, and a no-op."""
    with tempfile.TemporaryDirectory(prefix="walkbits-day-") as scratch:
        folder = Path(scratch) / "world"
        write_world(folder, SMALLEST["items"])
        rows = pq.read_table(folder / "interactions.parquet").slice(0, SMALLEST["interactions"])
        pq.write_table(rows, folder / "interactions.parquet")
        bare = folder / "bare.py"
        bare.write_text(
            "from pyspark.sql import SparkSession as S\nS.builder.getOrCreate().range(9).count()\n"
        )
        path = write_config(folder)
        day = [
            str(ROOT / "jobs" / "run_daily.py"),
            "--config",
            str(path),
            "--model",
            str(MODEL),
            "--ds",
            str(DAY),
            *(f"--set={key}={value}" for key, value in TRAINING.items()),
        ]

        def submit(job: list[str]) -> Callable[[], object]:
            return lambda: subprocess.run(["spark-submit", *job], check=True, capture_output=True)

        return {
            "bare_session_s": seconds(submit([str(bare)])),
            "smallest_day_s": seconds(submit(day)),
            "noop_s": seconds(submit(day)),
        }


def stages_of(context: StageRun) -> dict[str, float]:
    """Seconds per stage, and bytes that Spark read and shuffled for it."""
    found: dict[str, float] = {}
    for row in context.store.read(STAGE_LOG, run_id=context.run_id).collect():
        found[row["stage"]] = float(row["seconds"])
    for row in context.store.read(RUN_METRICS, run_id=context.run_id).collect():
        if row["stage"].endswith(".cost") and row["metric"] in ("read_bytes", "shuffled_bytes"):
            found[f"{row['stage'].removesuffix('.cost')}.{row['metric']}"] = float(row["value"])
    return found


def limits_of(context: StageRun, folder: Path) -> dict[str, float]:
    """Seconds of each part in this process, from arrays in memory."""
    config, seed = context.config, context.config.seed
    csr = BipartiteCsr.open(context.artifacts(GRAPH))
    features: list[F32] = []
    limits = {"ingest": seconds(lambda: features.append(ingest(folder, config)))}
    model, shapes = config.model, {"item": csr.item.num_nodes, "context": csr.context.num_nodes}
    network = model.network(Shapes(shapes, {"item": features[0].shape[1]}))  # type: ignore[arg-type]
    walking = 0.0

    def walked(relation: Relation, nodes: I32) -> Neighborhoods:
        nonlocal walking
        began = time.perf_counter()
        found = walks(csr, relation, nodes, config)
        walking += time.perf_counter() - began
        return found

    relations = relations_of(network, csr, walked)
    limits["walks"] = walking
    data = TrainingData(
        shapes, {"item": features[0]}, {"item": csr.item.keys, "context": csr.context.keys},  # type: ignore[arg-type]
        {reads: one.heaviest(config.training.train_neighbors) if "." not in reads else one
         for reads, one in relations.items()},
        *examples_of(model, csr, config.walks, config.training, seed),
    )  # fmt: skip
    trained: list[Any] = []
    limits["training"] = seconds(
        lambda: trained.append(train(model, config.training, data, seed, lambda _: None))
    )
    z: dict[Any, F32] = {}
    cpu = torch.device("cpu")
    limits["layers"] = seconds(lambda: z.update(embed(network, trained[0].weights, data, cpu)))
    limits["index"] = index(z["item"], z["context"], config)
    limits["write"] = write(context)
    return limits


def ingest(folder: Path, config: Config) -> F32:
    """Read, number the ids, group the pairs, hash and project the text: fp32 features [items, width]."""
    log = pq.read_table(folder / "interactions.parquet", columns=["item", "context"])
    nodes = pq.read_table(folder / "items.parquet").sort_by("item")
    item = pc.index_in(log["item"], nodes["item"]).to_numpy().astype(np.int64)
    context = pc.fill_null(log["context"], "").combine_chunks().dictionary_encode()
    pairs = item * len(context.dictionary) + context.indices.to_numpy()
    np.unique(pairs, return_counts=True)
    parts = [hashed(pc.split_pattern(nodes["title"], " "), config), hashed(lists_of(nodes["brand"]), config)]
    price = np.asarray(nodes["price"].to_numpy(), np.float32)[:, None]
    return np.hstack([*parts, (price - price.mean()) / price.std()])


def lists_of(column: pa.ChunkedArray) -> pa.Array:
    """Each value as a list of one."""
    flat = column.combine_chunks()
    return pa.ListArray.from_arrays(np.arange(len(flat) + 1, dtype=np.int32), flat)


def hashed(tokens: Any, config: Config) -> F32:
    """TF-IDF vectors projected as the features are: fp32 [rows, width]."""
    tokens = tokens.combine_chunks() if isinstance(tokens, pa.ChunkedArray) else tokens
    encoded = tokens.flatten().dictionary_encode()
    words = np.array([hash(word) for word in encoded.dictionary.to_pylist()]) % config.features.text_buckets
    buckets = words[encoded.indices.to_numpy()].astype(np.int32)
    sizes = tokens.value_lengths().to_numpy().astype(np.int64)
    frequency = np.bincount(buckets, minlength=config.features.text_buckets)
    idf = np.log((1 + len(sizes)) / (1 + frequency)) + 1
    ends = np.concatenate([[0], np.cumsum(sizes)])
    blocks = range(0, len(sizes), 8192)
    rows = [
        project(
            buckets[ends[low] : ends[min(low + 8192, len(sizes))]], sizes[low : low + 8192], idf,
            config.features.width, config.seed,
        ).astype(np.float32)
        for low in blocks
    ]  # fmt: skip
    return np.vstack(rows)


def walks(csr: BipartiteCsr, relation: Relation, nodes: I32, config: Config) -> Neighborhoods:
    """The kernel on all cores."""

    def one(block: I32) -> Any:
        return neighborhoods_of(csr, relation, block, config.walks, config.seed)

    with ThreadPoolExecutor(faiss.omp_get_max_threads()) as pool:
        found = [*pool.map(one, np.array_split(nodes, max(1, len(nodes) // 4096)))]
    sizes = np.concatenate([np.diff(indptr) for indptr, _, _ in found])
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    return Neighborhoods(indptr, *(np.concatenate([one[place] for one in found]) for place in (1, 2)))


def index(items: F32, contexts: F32, config: Config) -> float:
    """Seconds of faiss for both batches at the target recall: flat or IVF, whichever is faster."""
    count, k = len(items), config.index.num_related + 1
    flat = faiss.IndexFlatIP(items.shape[1])
    flat.add(items)
    sample = np.arange(0, count, max(1, count // SAMPLE))
    exact: list[Any] = []
    per_query = seconds(lambda: exact.append(flat.search(items[sample], k)[1])) / len(sample)
    scan = per_query * (count + len(contexts))
    lists = max(1, round(4 * count**0.5))
    ivf = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(items.shape[1]), items.shape[1], lists, faiss.METRIC_INNER_PRODUCT
    )

    def build() -> None:
        ivf.train(items[:: max(1, count // (64 * lists))])
        ivf.add(items)

    built = seconds(build)
    effort = lambda probes: setattr(ivf, "nprobe", probes)  # noqa: E731
    _, searched = first_enough(ivf, effort, [1, 2, 4, 8, 16, 32, 64], items, sample, exact[0], k)
    if searched is None:
        return scan
    return min(scan, built + searched * (1 + len(contexts) / count))


def write(context: StageRun) -> float:
    """Write again, with pyarrow, every row that the run committed."""
    spent = 0.0
    with tempfile.TemporaryDirectory(prefix="walkbits-day-") as scratch:
        for path in sorted(Path(context.config.root).glob(f"*/run_id={context.run_id}/**/*.parquet")):
            rows = pq.read_table(path, partitioning=None)
            spent += seconds(lambda rows=rows: pq.write_table(rows, Path(scratch) / "rows.parquet"))  # type: ignore[misc]
    return spent


if __name__ == "__main__":
    main()
