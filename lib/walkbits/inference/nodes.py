"""A run's nodes on their way into the engine and out of it: features and keys by index, then embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql.types import StructType

from walkbits.arrays.places import Place
from walkbits.graph.csr import BipartiteCsr
from walkbits.network.declaration import Network, Score
from walkbits.schemas import CONTEXT, EMBEDDINGS, FEATURES, ITEM, NODES
from walkbits.tables.external_ids import ExternalIds
from walkbits.tables.rows import Batches, Rows
from walkbits.tables.store import Store
from walkbits.types import F64, I32, NodeType


def features_of_nodes(
    store: Store, run_id: str, network: Network, counts: Mapping[NodeType, int]
) -> dict[NodeType, Rows]:
    """(node, features) of a run, of each node type whose features the network reads.

    Args:
        counts: Nodes per type.
    """
    wanted = [one for one, declared in network.inputs.items() if declared.feature_width is not None]
    return {
        one: store.scan(FEATURES, ("node_id", "features"), run_id=run_id, node_type=one).then(
            _Index(counts["item"] if one == CONTEXT else 0).run, "node bigint, features binary"
        )
        for one in wanted
    }


@dataclass(frozen=True)
class _Index:
    """Node ids to indices within the type: items come first."""

    first: int

    def run(self, batches: Batches) -> Batches:
        """(node_id, features) -> (node, features)."""
        for batch in batches:
            node_id, features = batch.columns
            node = pc.subtract(node_id, self.first) if self.first else node_id
            yield pa.RecordBatch.from_arrays([node, features], names=["node", "features"])


def node_keys(store: Store, run_id: str, node_type: NodeType, counts: Mapping[NodeType, int]) -> Rows:
    """(node, node_key) of all nodes of a type of a run; a node is its index."""
    first = 0 if node_type == ITEM else counts["item"]
    nodes = store.scan(NODES, ("node_id", "node_key"), run_id=run_id)
    select = _Between(first, first + counts[node_type])
    return nodes.then(select.run, select.schema)


@dataclass(frozen=True)
class _Between:
    """Nodes first to end - 1, numbered from 0."""

    first: int
    end: int

    schema: ClassVar[str] = "node int, node_key bigint"

    def run(self, batches: Batches) -> Batches:
        """(node_id, node_key) -> (node, node_key)."""
        for batch in batches:
            ids = batch.column(0).to_numpy()
            kept = (ids >= self.first) & (ids < self.end)
            nodes = pa.array((ids[kept] - self.first).astype(np.int32))
            keys = pa.array(batch.column(1).to_numpy()[kept])
            yield pa.RecordBatch.from_arrays([nodes, keys], names=["node", "node_key"])


def as_embeddings(
    nodes: Rows,
    parts: Sequence[Rows],
    counts: Mapping[NodeType, int],
    score: Score,
    graph: Place,
    folder: Place,
) -> list[Rows]:
    """The engine's rows as those of the embeddings table.

    Args:
        nodes: node_id and external_id of every node.
        counts: Nodes per type.
        score: How the model's embeddings are compared.
        graph: Where the items' degrees are, for the prior.
        folder: Scratch space for the external ids, to be removed after the rows are written.
    """
    names = ExternalIds.write(nodes, sum(counts.values()), folder)
    weight = score.temperature * score.prior
    row = _EmbeddingRow(names, counts["item"], graph if weight else None, weight)
    return [part.then(row.run, row.schema) for part in parts]


@dataclass(frozen=True)
class _EmbeddingRow:
    """Gives each node its id, what its data calls it, and its prior.

    Attributes:
        graph: Where the items' degrees are; None without a prior.
        weight: Factor of log p: an inner product plus the prior orders as the model's score does.
    """

    names: ExternalIds
    num_items: int
    graph: Place | None
    weight: float

    schema: ClassVar[StructType] = StructType(EMBEDDINGS.schema.fields[1:])  # without run_id

    def run(self, batches: Batches) -> Batches:
        """(node_type, node, embedding) -> (node_type, node_id, external_id, embedding, prior)."""
        csr = BipartiteCsr.open(self.graph) if self.graph is not None else None
        for batch in batches:
            node_type, node, embedding = batch.columns
            is_context, index = pc.equal(node_type, CONTEXT), node.to_numpy()
            ids = index + np.where(is_context, self.num_items, 0)  # [rows]
            prior = np.zeros(len(index), np.float32)
            if csr is not None:
                items = np.flatnonzero(~is_context.to_numpy(zero_copy_only=False))
                prior[items] = self.weight * log_share(csr, index[items])
            columns = [node_type, pa.array(ids), self.names.of(ids), embedding, pa.array(prior)]
            yield pa.RecordBatch.from_arrays(columns, names=self.schema.names)


def log_share(csr: BipartiteCsr, items: I32) -> F64:
    """Log of the share of all edges that items have; an item without any counts half an edge. fp64 [n]."""
    degrees = csr.item.indptr[items + 1] - csr.item.indptr[items]
    return np.asarray(np.log(np.maximum(degrees, 0.5) / max(csr.num_edges, 1)))
