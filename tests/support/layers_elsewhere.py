"""Runs the engine in a session of its own: `python -m support.layers_elsewhere <master> <folder> <artifacts>`.

Writes the embeddings of a fixed small graph and model to `<folder>/<budget>.npy`. The engine's matrices
lie in artifacts, a path or URI; no executor may map a file below a URI.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession
from reference.network import random_weights
from reference.plain import packed, random_graph
from walkbits.arrays.places import Place, Remote, place_of
from walkbits.inference import layers
from walkbits.inference.convolving import Convolve, ConvolveBlock
from walkbits.models.base import Shapes
from walkbits.models.card import Card, LoadedModel, new_nodes_of
from walkbits.models.pinsage import PinSage
from walkbits.settings import Inference
from walkbits.tables.rows import Rows, union_of

from support.parquet_layers import ParquetLayers

NODES = 70
BUDGETS = {"all": None, "half": NODES * 6 * 2}


def watched(task: type[Convolve]) -> type[Convolve]:
    """A task that fails where its process maps another matrix than one of its executor's disk."""

    class Watched(task):  # type: ignore[misc, valid-type]
        def run(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in super().run(batches):
                lines = Path("/proc/self/maps").read_text().splitlines()
                mapped = {line.split()[-1] for line in lines if line.endswith(".npy")}
                own = {path for path in mapped if path.startswith(os.environ["SPARK_LOCAL_DIRS"])}
                assert mapped, "a task maps its matrices"
                assert mapped == own, f"mapped {mapped}, on the executor's disk {own}"
                yield batch

    return Watched


def embeddings(spark: SparkSession, folder: Path, artifacts: Place, budget: str) -> np.ndarray:
    """fp32 [NODES, 5] of the fixed graph."""
    folder = folder / budget
    graph = random_graph(1, NODES, 7, 9)
    network = PinSage(hidden_size=6, embedding_size=5).network(Shapes({"item": 1}, {"item": 7}))
    weights = random_weights(network, 1)
    digest = "0" * 64
    card = Card(
        network=network,
        feature_schema=digest,
        config_hash=digest,
        data_run="",
        metrics={},
        weights_sha256=digest,
        new_nodes=new_nodes_of(network),
    )
    features = [(node, row.astype("<f4").tobytes()) for node, row in enumerate(graph.features)]
    rows = [(node, *map(packed, row)) for node, row in enumerate(graph.rows)]
    schema = "node int, neighbors binary, visits binary"

    inferred = layers.infer(
        spark,
        LoadedModel(card, weights),
        {"item": Rows.of(spark.createDataFrame(features, "node int, features binary").repartition(3))},
        {"item": NODES},
        lambda relation: Rows.of(spark.createDataFrame(rows, schema).repartition(3)),
        Inference(block_size=16, cache_bytes=BUDGETS[budget]),
        artifacts / budget,
        ParquetLayers(spark, folder),
    )
    table = union_of(inferred.parts).toArrow().sort_by("node")
    inferred.model_rows.check()
    return np.array(table["embedding"].to_pylist(), np.float32)


if __name__ == "__main__":
    master, place, artifacts = sys.argv[1], Path(sys.argv[2]), place_of(sys.argv[3])
    builder = SparkSession.builder.master(master).config("spark.ui.enabled", "false")
    builder = builder.config("spark.driver.host", "127.0.0.1").config("spark.sql.shuffle.partitions", "2")
    session = builder.config("spark.executorEnv.PYTHONPATH", os.environ["PYTHONPATH"]).getOrCreate()
    if isinstance(artifacts, Remote):
        layers.Convolve, layers.ConvolveBlock = watched(Convolve), watched(ConvolveBlock)  # type: ignore[misc, assignment]
    for name in BUDGETS:
        np.save(place / f"{name}.npy", embeddings(session, place, artifacts, name))
    session.stop()
