"""The peer: GraphFrames' random walks on the same graph, in a session of its own that has its jar.

    spark-submit --jars JARS benchmarks/graphframes_walks.py GRAPH_FOLDER NUM_WALKS STEPS

Walks from every item and context, without restarts; of a node's neighbors GraphFrames keeps 50, drawn anew
for the run. Its paths are neither counted nor cut. Edges are given in both directions, which spares it a
`distinct`. Prints one JSON line: seconds and node steps per second, after a warm-up on 4,000 contexts.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measure import seconds
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from walkbits.graph.csr import BipartiteCsr
from walkbits.session import get_session

MAX_NEIGHBORS = 50
WARM_UP = 4_000
"""Contexts whose edges are walked before the clock runs."""


def main() -> None:
    """Write the edges, walk, report."""
    num_walks, steps = map(int, sys.argv[2:])
    csr = BipartiteCsr.open(Path(sys.argv[1]))
    spark = get_session("graphframes-walks")
    with tempfile.TemporaryDirectory(prefix="walkbits-graphframes-") as folder:
        write_edges(csr, f"{folder}/edges.parquet")
        edges = spark.read.parquet(f"{folder}/edges.parquet")
        few = edges.where(F.greatest("src", "dst") < csr.item.num_nodes + WARM_UP)
        walk(spark, few, 1, steps, folder)
        walked: list[int] = []
        spent = seconds(lambda: walked.append(walk(spark, edges, num_walks, steps, folder)))
    spark.stop()
    figures = {"seconds": spent, "steps_per_s": walked[0] * steps / spent}
    sys.stdout.write(json.dumps(figures) + "\n")


def write_edges(csr: BipartiteCsr, path: str) -> None:
    """(src, dst) in both directions; contexts are numbered after the items."""
    item = np.repeat(np.arange(csr.item.num_nodes, dtype=np.int64), np.diff(csr.item.indptr))
    context = np.asarray(csr.item.indices) + np.int64(csr.item.num_nodes)
    ends = {"src": np.concatenate([item, context]), "dst": np.concatenate([context, item])}
    pq.write_table(pa.table(ends), path)


def walk(spark: SparkSession, edges: DataFrame, num_walks: int, steps: int, folder: str) -> int:
    """How many walks of so many steps GraphFrames made."""
    jvm: Any = spark._jvm
    nodes = edges.select(F.col("src").alias("id")).distinct()
    graph = jvm.org.graphframes.GraphFrame.apply(nodes._jdf, edges._jdf)
    walks = jvm.org.graphframes.rw.RandomWalkWithRestart()
    walks.onGraph(graph).setTemporaryPrefix(folder).setGlobalSeed(1).setUseEdgeDirection(True)
    walks.setMaxNbrsPerVertex(MAX_NEIGHBORS).setNumWalksPerNode(num_walks).setRestartProbability(0.0)
    walks.setBatchSize(steps).setNumBatches(1)
    found = walks.run()  # walks, writes, reads back and counts
    count = int(found.count())
    found.unpersist()
    return count


if __name__ == "__main__":
    main()
