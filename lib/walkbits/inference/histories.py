"""Vectors of contexts that the graph does not hold, from the items that they have seen.

A context without a row of its own is what the network makes of its edges: its input is zeros, as that of any
node that training never saw, and every update pools the representations of its items as the layer engine does

    n_u = sum over v in history of weight_v h_v        weights by the pool and the degrees of the whole graph

Where the model embeds no contexts, the vector is the sum of the items' embeddings (`sum_of_items`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark import Broadcast
from pyspark.sql import SparkSession

from walkbits.arrays.mapped import ArrayWriter, create_matrix, open_array, open_matrix
from walkbits.arrays.places import Place
from walkbits.errors import ConfigError
from walkbits.inference.landing import Land, land
from walkbits.inference.proof import ModelRows
from walkbits.inference.tasks import TILE
from walkbits.network import arithmetic
from walkbits.network.arithmetic import Weights
from walkbits.network.declaration import Input, Network, Output, Update
from walkbits.schemas import CONTEXT, ITEM
from walkbits.tables.rows import Batches, Rows
from walkbits.types import F32, I64

_ROWS = 1024


def sum_of_items(width: int) -> Network:
    """The network of contexts that are the sums of their items' embeddings, read as the items' input."""
    total = Update(relation="context_from_item", neighbors="edges", pool="sum", combine="pooled")
    return Network(
        architecture="sum_of_items",
        inputs={"item": Input(source="features", width=width)},
        layers=((total,),),
        outputs={"context": Output()},
    )


def layers_read(network: Network) -> list[int]:
    """Layers whose item representations a new context is made of; 0 is the items' input.

    Raises:
        ConfigError: a context is not made of its items alone.
    """
    read = []
    for number, updates in enumerate(network.layers):
        for update in (one for one in updates if one.target == CONTEXT):
            if update.source != ITEM or update.neighbors != "edges":
                raise ConfigError(
                    f"queries by histories need a model whose contexts are made of their items, got "
                    f"{network.architecture}, whose contexts read {update.reads}; ask by contexts or vectors"
                )
            read.append(number)
    return read


@dataclass(frozen=True)
class Histories:
    """What new contexts have seen.

    Attributes:
        indptr: int64 [contexts + 1].
        items: int64 [indptr[-1]], indices of items, ascending within a context, each once.
        degrees: where each item's edges begin in the run's graph: int [items + 1], mapped.
    """

    indptr: I64
    items: I64
    degrees: Place


def write_vectors(
    spark: SparkSession,
    network: Network,
    weights: Weights,
    representations: Callable[[int, Mapping[str, Any]], Rows],
    num_items: int,
    histories: Histories,
    vectors: Place,
    folder: Place,
) -> None:
    """Write the contexts' embeddings as a matrix, fp32 [contexts, embedding_size].

    Args:
        network: of the model, or `sum_of_items`.
        weights: by tensor name.
        representations: Gives (node, vector BINARY or ARRAY<FLOAT>) of all items after a layer, 0 of their
            input; called with the arguments of `Task` for tasks that make them.
        folder: scratch space for the items' matrices.
    """
    shared, matrices = spark.sparkContext.broadcast(dict(weights)), {}
    common: dict[str, Any] = {"weights": shared, "block_size": TILE, "model_rows": ModelRows(spark, {})}
    for number in layers_read(network):
        rows, matrices[number] = representations(number, common), folder / f"{ITEM}.{number}.npy"
        width = network.widths()[number][ITEM]
        create_matrix(matrices[number], num_items, width)
        land(rows, Land(**common, width=width, own=matrices[number], projections=()), ITEM, num_items)
    count = len(histories.indptr) - 1
    create_matrix(vectors, count, network.embedding_size(CONTEXT))
    blocks = spark.range(0, -(-count // _ROWS))
    fold = _Fold(network, spark.sparkContext.broadcast(histories), shared, matrices, vectors)
    Rows.of(blocks).then(fold.run, "done boolean").to_frame().collect()


def fold_in(
    network: Network, weights: Weights, items: Mapping[int, F32], indptr: I64, rows: I64, degrees: I64
) -> F32:
    """Embeddings of contexts made of items: fp32 [contexts, embedding_size].

    Args:
        weights: by tensor name.
        items: fp32 [items, width] of the items' representations by layer, of each of `layers_read`.
        indptr: int64 [contexts + 1], from 0.
        rows: int64 [indptr[-1]], indices of items.
        degrees: int64 [indptr[-1]], edges of each of those items in the whole graph.
    """
    widths, count = network.widths(), len(indptr) - 1
    own = np.zeros((count, widths[0].get(CONTEXT, 0)), np.float32)
    steps = [own] if CONTEXT in network.inputs else []
    for number, updates in enumerate(network.layers):
        for update in (one for one in updates if one.target == CONTEXT):
            pooled = _pool(update, weights, items[number], indptr, rows, degrees)
            columns = arithmetic.combine(own, pooled, np.diff(indptr), update)
            h = arithmetic.linear(np.hstack(columns), update.linear, weights)  # [contexts, width]
            h = arithmetic.activate(h, update.activation)
            own = arithmetic.normalise(h) if update.normalise else h
            steps.append(own)
    output = network.outputs[CONTEXT]
    x = own
    if output.layers == "mean":
        x = np.add.reduce(steps) / np.float32(len(steps))
    elif output.layers == "concat":
        x = np.hstack(steps)
    for dense in output.head:
        x = arithmetic.dense(x, dense, weights)
    return arithmetic.normalise(x) if output.normalise else np.asarray(x, np.float32)


def _pool(update: Update, weights: Weights, items: F32, indptr: I64, rows: I64, degrees: I64) -> F32:
    shares = arithmetic.pool_weights(indptr, np.ones(len(rows), np.int32), update.pool)
    if update.degree_exponents:
        counts = np.maximum(degrees, 1).astype(np.float32)
        shares = arithmetic.degree_weights(shares, indptr, counts, update.degree_exponents)
    used, places = np.unique(rows, return_inverse=True)
    sources = arithmetic.dense(np.ascontiguousarray(items[used]), update.project, weights)
    return arithmetic.pool(sources, indptr, places.astype(np.int32), shares, update.pool)


@dataclass(frozen=True)
class _Fold:
    network: Network
    histories: Broadcast[Histories]
    weights: Broadcast[dict[str, F32]]
    items: Mapping[int, Place]
    vectors: Place

    def run(self, batches: Batches) -> Batches:
        """(number of a block) -> its rows of the matrix, written."""
        histories, weights = self.histories.value, self.weights.value
        items = {number: open_matrix(place) for number, place in self.items.items()}
        edges = open_array(histories.degrees)
        with ArrayWriter(self.vectors) as file:
            for number in (one for batch in batches for one in batch.column(0).to_pylist()):
                bounds = histories.indptr[number * _ROWS : (number + 1) * _ROWS + 1]
                rows, indptr = histories.items[bounds[0] : bounds[-1]], bounds - bounds[0]
                degrees = (edges[rows + 1] - edges[rows]).astype(np.int64)
                found = fold_in(self.network, weights, items, indptr, rows, degrees)
                file.write_run(number * _ROWS, found)
        yield pa.RecordBatch.from_pylist([{"done": True}])
