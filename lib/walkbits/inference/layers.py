"""The layer engine: every node's representation once per layer, from a card (PinSage, 3.4).

For each layer the source nodes are projected once and land in one matrix file, which every
host maps; the target nodes then stream past it with their neighborhoods, pool, combine and
leave as rows of the next layer. Nothing is shuffled, and nothing that grows with the graph
reaches the driver. The engine reads declarations only: it knows no architecture.

A task computes in blocks of one fixed height, the last one padded, so the bits of a row
depend neither on the rows beside it nor on partitions and batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Final

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from walkbits import config
from walkbits.config import Relation
from walkbits.errors import InputError
from walkbits.inference.arithmetic import F32
from walkbits.inference.proof import ModelRows
from walkbits.inference.rows import MatrixWriter, create_matrix
from walkbits.inference.tasks import (
    Convolve,
    Embed,
    Finish,
    Land,
    LandCounts,
    Landed,
    ReadMatrix,
)
from walkbits.models.card import Dense, LoadedModel, Network, NodeType, Update
from walkbits.schemas import EMBEDDINGS, REPRESENTATIONS

Commit = Callable[[DataFrame, int], DataFrame]
"""Writes (node_type, node, representation) as a layer and returns the rows as re-read."""

_KEY = [REPRESENTATIONS.schema["node_type"], REPRESENTATIONS.schema["node"]]
_LAYER_ROWS: Final = StructType([*_KEY, REPRESENTATIONS.schema["representation"]])
_EMBEDDING_ROWS: Final = StructType([*_KEY, EMBEDDINGS.schema["embedding"]])


@dataclass(frozen=True)
class Inferred:
    """What `infer` gives.

    Attributes:
        embeddings: (node_type STRING, node INT, embedding ARRAY<FLOAT>). Write it once,
            before the engine's folder is removed.
        model_rows: Proof of one model row per node and pass, once `embeddings` is written.
    """

    embeddings: DataFrame
    model_rows: ModelRows


def infer(
    spark: SparkSession,
    model: LoadedModel,
    features: Mapping[NodeType, DataFrame],
    num_nodes: Mapping[NodeType, int],
    neighborhoods: Callable[[Relation], DataFrame],
    inference: config.Inference,
    folder: Path,
    commit: Commit,
) -> Inferred:
    """Run a model over the whole graph.

    Args:
        spark: The session.
        model: Card and weights.
        features: Per node type whose input is `features`: (node INT, features BINARY), each
            index below `num_nodes` once, little-endian fp32 [width of the input].
        num_nodes: Nodes of each type.
        neighborhoods: Gives (node INT, neighbors ARRAY<INT>, visits ARRAY<INT>) of a relation,
            each target node once.
        inference: Block size.
        folder: Empty scratch space on storage that all hosts see: tasks write rows to its
            files and map them in place. To be removed after `embeddings` is written.
        commit: Writes one inner layer and gives it back as re-read.

    Raises:
        InputError: a node type without features, with nodes missing or doubled, or with vectors
            of another width than the card's.
    """
    network = model.card.network
    engine = _Engine(spark, model, num_nodes, neighborhoods, inference.block_size, folder)
    for node_type, one in network.inputs.items():
        if one.source == "ids":
            engine.start_from_ids(node_type, model.weights[f"inputs.{node_type}"])
        elif node_type in features:
            engine.start_from(node_type, features[node_type])
        else:
            raise InputError(f"features of {node_type} must be given for this model, got {sorted(features)}")
    finished: dict[NodeType, DataFrame] = {}
    for number, updates in enumerate(network.layers, start=1):
        engine.land(number)
        if number < len(network.layers):
            rows = reduce(DataFrame.unionAll, [engine.update(number, update) for update in updates])
            engine.advance(number, commit(rows, number))
        else:
            finished = {update.target: engine.update(number, update) for update in updates}
    for node_type in sorted(network.outputs.keys() - finished.keys()):
        finished[node_type] = engine.embed(node_type)
    frames = [finished[node_type] for node_type in sorted(network.outputs)]
    return Inferred(reduce(DataFrame.unionAll, frames), engine.model_rows)


def model_rows_of(network: Network, num_nodes: Mapping[NodeType, int]) -> dict[str, int]:
    """Rows that each pass must compute: the number of its nodes."""
    rows = {}
    for number, updates in enumerate(network.layers, start=1):
        for update in updates:
            if not update.project.identity:
                rows[_land_label(number, update.source)] = num_nodes[update.source]
            rows[_update_label(number, update.target)] = num_nodes[update.target]
    last = {update.target for update in network.layers[-1]} if network.layers else set()
    return rows | {_embed_label(one): num_nodes[one] for one in network.outputs if one not in last}


def _land_label(number: int, source: NodeType) -> str:
    return f"layer {number}: project {source}"


def _update_label(number: int, target: NodeType) -> str:
    return f"layer {number}: convolve {target}"


def _embed_label(node_type: NodeType) -> str:
    return f"embed {node_type}"


class _Engine:
    """The driver's side: each node type's newest rows, and the matrices that hosts have mapped.

    Matrices are named `<node type>.<layer>` (representations), `<relation>.<layer>` (what an
    update pools) and `<relation>.references`.
    """

    def __init__(
        self,
        spark: SparkSession,
        model: LoadedModel,
        num_nodes: Mapping[NodeType, int],
        neighborhoods: Callable[[Relation], DataFrame],
        block_size: int,
        folder: Path,
    ) -> None:
        self._spark, self._num_nodes, self._neighborhoods = spark, num_nodes, neighborhoods
        self._network, self._block_size, self._folder = model.card.network, block_size, folder
        self.model_rows = ModelRows(spark, model_rows_of(self._network, num_nodes))
        # Id tensors grow with the graph: they are mapped, never broadcast.
        small = {name: array for name, array in model.weights.items() if not name.startswith("inputs.")}
        self._weights = spark.sparkContext.broadcast(small)
        self._widths = self._network.widths()
        self._newest: dict[NodeType, DataFrame] = {}
        self._version = dict.fromkeys(num_nodes, 0)
        self._mapped: dict[str, Path] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def start_from(self, node_type: NodeType, features: DataFrame) -> None:
        """h^0 is a table."""
        self._newest[node_type] = features.select("node", F.col("features").alias("vector"))

    def start_from_ids(self, node_type: NodeType, table: F32) -> None:
        """h^0 is a tensor of the model; nodes it does not know start at zeros."""
        nodes = self._num_nodes[node_type]
        name = f"{node_type}.0"
        matrix = self._create(name, nodes, table.shape[1])
        known = min(nodes, len(table))
        with MatrixWriter(matrix) as file:
            file.write(np.arange(known, dtype=np.int32), table[:known])
        read = ReadMatrix(matrix, nodes, self._block_size)
        blocks = self._spark.range(-(-nodes // self._block_size))
        self._newest[node_type] = blocks.mapInArrow(read.run, "node int, vector binary")

    def land(self, number: int) -> None:
        """Write and map what the updates of a layer read."""
        updates = self._network.layers[number - 1]
        own = {update.target for update in updates if update.combine != "pooled"}
        own |= {update.source for update in updates if update.project.identity}
        own |= {one for one, output in self._network.outputs.items() if output.layers == "mean"}
        for node_type in sorted(own | {update.source for update in updates}):
            projected = {
                f"{update.relation}.{number}": update.project
                for update in updates
                if update.source == node_type and not update.project.identity
            }
            name = f"{node_type}.{self._version[node_type]}"
            self._land(number, node_type, name if node_type in own else None, projected)
        for update in updates:
            if update.degree_normalised:
                self._land_references(update)

    def update(self, number: int, update: Update) -> DataFrame:
        """Rows of one node type after a layer; its embeddings after the last layer."""
        last = number == len(self._network.layers)
        source = f"{update.source}.{self._version[update.source]}"
        own = f"{update.target}.{self._version[update.target]}"
        task = Convolve(
            **self._common(_update_label(number, update.target)),
            update=update,
            pooled=self._mapped[source if update.project.identity else f"{update.relation}.{number}"],
            own=None if update.combine == "pooled" else self._mapped[own],
            references=self._mapped[f"{update.relation}.references"] if update.degree_normalised else None,
            finish=self._finish(update.target) if last else None,
        )
        rows = self._neighborhoods(update.relation).select("node", "neighbors", "visits")
        return rows.mapInArrow(task.run, _EMBEDDING_ROWS if last else _LAYER_ROWS)

    def advance(self, number: int, committed: DataFrame) -> None:
        """The committed rows are the newest ones; drop the matrices that no later layer reads."""
        for update in self._network.layers[number - 1]:
            target = update.target
            rows = committed.where(F.col("node_type") == target)
            self._newest[target] = rows.select("node", F.col("representation").alias("vector"))
            self._drop(f"{update.relation}.{number}")
            output = self._network.outputs.get(target)
            if output is None or output.layers != "mean":
                self._drop(f"{target}.{self._version[target]}")
            self._version[target] = number

    def embed(self, node_type: NodeType) -> DataFrame:
        """Embeddings of a node type that the last layer does not update."""
        task = Embed(
            **self._common(_embed_label(node_type)),
            node_type=node_type,
            width=self._widths[-1][node_type],
            finish=self._finish(node_type),
        )
        return self._newest[node_type].mapInArrow(task.run, _EMBEDDING_ROWS)

    def _finish(self, node_type: NodeType) -> Finish:
        output = self._network.outputs[node_type]
        versions = [0, *self._network.updated(node_type)][:-1] if output.layers == "mean" else []
        return Finish(output, tuple(self._mapped[f"{node_type}.{version}"] for version in versions))

    def _land(
        self, number: int, node_type: NodeType, own: str | None, projected: Mapping[str, Dense]
    ) -> None:
        if own in self._mapped:
            own = None
        if own is None and not projected:
            return
        nodes, width = self._num_nodes[node_type], self._widths[number - 1][node_type]
        task = Land(
            **self._common(_land_label(number, node_type)),
            width=width,
            own=self._create(own, nodes, width) if own else None,
            projected=tuple(
                (self._create(name, nodes, dense.linear.size if dense.linear else width), dense)
                for name, dense in projected.items()
            ),
        )
        landed = self._newest[node_type].mapInArrow(task.run, Landed.schema)
        Landed.check([Landed(**row.asDict()) for row in landed.collect()], node_type, nodes)

    def _land_references(self, update: Update) -> None:
        name = f"{update.relation}.references"
        if name in self._mapped:
            return
        task = LandCounts(self._create(name, self._num_nodes[update.source], 1))
        counts = (
            self._neighborhoods(update.relation)
            .select(F.explode("neighbors").alias("node"))
            .groupBy("node")
            .agg(F.count(F.lit(1)).alias("count"))
        )
        counts.mapInArrow(task.run, "rows bigint").collect()

    def _common(self, label: str) -> dict[str, Any]:
        return {
            "weights": self._weights,
            "block_size": self._block_size,
            "model_rows": self.model_rows,
            "label": label,
        }

    def _create(self, name: str, rows: int, width: int) -> Path:
        path = self._folder / f"{name}.npy"
        create_matrix(path, rows, width)
        self._mapped[name] = path
        return path

    def _drop(self, name: str) -> None:
        if path := self._mapped.pop(name, None):
            path.unlink()
