"""Stage `infer_layers`: the trained model over the whole graph, layer by layer."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from walkbits.arrays.places import Place
from walkbits.errors import ModelError
from walkbits.graph.csr import BipartiteCsr, read_meta
from walkbits.graph.relations import edge_neighborhoods
from walkbits.inference.layers import infer
from walkbits.inference.plan import explained, plan_updates
from walkbits.ingest.space import feature_schema_hash, read_space, space_id
from walkbits.models.card import LoadedModel, load_model
from walkbits.network.declaration import Network, Score, Update
from walkbits.runs.reuse import MODEL, SPACE
from walkbits.runs.stage import Parts, Stage, StageRun
from walkbits.schemas import CONTEXT, EMBEDDINGS, FEATURES, ITEM, NEIGHBORHOODS, NODES, REPRESENTATIONS
from walkbits.stages.build_neighborhoods import GRAPH, num_nodes
from walkbits.tables.external_ids import ExternalIds
from walkbits.tables.rows import Batches, Rows
from walkbits.tables.store import Store, Written
from walkbits.types import F64, I32, NodeType


def run(context: StageRun) -> list[Written]:
    """Commit every layer, then the embeddings; prove that each node was computed once per layer."""
    store, run_id = context.store, context.run_id
    model = load_run_model(context)
    layers = CommittedLayers(context)
    counts = num_nodes(context)
    with context.scratch("layers") as scratch:
        inferred = infer(
            context.spark,
            model,
            features=features_of_nodes(store, run_id, model.card.network, counts),
            num_nodes=counts,
            neighborhoods=lambda update: neighborhoods(context, update),
            inference=context.config.inference,
            folder=scratch,
            layers=layers,
            node_keys=lambda node_type: node_keys(context, node_type, counts),
        )
        nodes = store.scan(NODES, ("node_id", "external_id"), run_id=run_id)
        score, graph = model.card.network.score, context.artifacts(GRAPH)
        named = as_embeddings(nodes, inferred.parts, counts, score, graph, scratch / "names")
        embeddings = store.write_rows(EMBEDDINGS, named, run_id)
        inferred.model_rows.check()
    seen = inferred.model_rows.seen()
    context.measure({f"model_rows[{label}]": (float(count), "rows") for label, count in seen.items()})
    return [*layers.written, embeddings]


class CommittedLayers:
    """The run's inner layers in the representations table; those of a killed attempt are kept."""

    def __init__(self, context: StageRun) -> None:
        self._context, self._parts = context, Parts(context, STAGE)
        self.written: list[Written] = []
        self._began = time.monotonic()

    def finished(self) -> int:
        """Layers that still stand, from the first on."""
        for layer in itertools.count(1):
            kept = self._parts.kept(f"layer={layer}")
            if kept is None:
                return layer - 1
            self.written += kept
        raise AssertionError

    def write(self, parts: Sequence[Rows], layer: int) -> None:
        """Commit a layer."""
        store, run_id = self._context.store, self._context.run_id
        self.written.append(store.write_rows(REPRESENTATIONS, parts, run_id, layer=layer))

    def finish(self, layer: int) -> None:
        """Log the layer, so that the next attempt keeps it."""
        now = time.monotonic()
        self._parts.finish(f"layer={layer}", self.written[-1:], now - self._began)
        self._began = now

    def read(self, layer: int, node_type: NodeType) -> Rows:
        """The layer as committed."""
        where = {"run_id": self._context.run_id, "layer": layer, "node_type": node_type}
        return self._context.store.scan(REPRESENTATIONS, ("node", "representation"), **where)


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


def neighborhoods(context: StageRun, update: Update) -> Rows:
    """(node, neighbors, visits) of what an update reads: walks from the table, edges from the graph."""
    if update.neighbors == "edges":
        return edge_neighborhoods(context.spark, context.artifacts(GRAPH), update.relation)
    where = {"run_id": context.run_id, "relation": update.relation}
    return context.store.scan(NEIGHBORHOODS, ("node", "neighbors", "visits"), **where)


def node_keys(context: StageRun, node_type: NodeType, counts: Mapping[NodeType, int]) -> Rows:
    """(node, node_key) of all nodes of a type; a node is its index."""
    first = 0 if node_type == ITEM else counts["item"]
    nodes = context.store.scan(NODES, ("node_id", "node_key"), run_id=context.run_id)
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


def explain(context: StageRun) -> str:
    """What `run` would map and shuffle, as text; only the run's neighborhoods are read, to count them."""
    network = load_run_model(context).card.network
    updates = [update for updates in network.layers for update in updates]
    references = {one.reads: 0 for one in updates}
    walked = {one.relation for one in updates if one.neighbors == "walks"}
    if walked:
        rows = context.store.read(NEIGHBORHOODS, run_id=context.run_id)
        rows = rows.where(F.col("relation").isin(*walked))
        counted = rows.groupBy("relation").agg(F.sum(F.length("neighbors")) / 4).collect()
        references |= {row[0]: int(row[1]) for row in counted}
    if any(one.neighbors == "edges" for one in updates):
        edges = read_meta(context.artifacts(GRAPH))["num_edges"]
        references |= {one.reads: edges for one in updates if one.neighbors == "edges"}
    parallelism = context.spark.sparkContext.defaultParallelism
    plans = plan_updates(network, num_nodes(context), context.config.inference, parallelism)
    return explained(plans, references, parallelism)


def load_run_model(context: StageRun) -> LoadedModel:
    """The run's own model.

    Raises:
        ModelError: it is missing, damaged, or reads features of another layout or space.
    """
    folder = context.artifacts(MODEL)
    model = load_model(folder)
    expected = feature_schema_hash(context.config.features, context.config.node_tables)
    if model.card.feature_schema != expected:
        raise ModelError(
            f"model '{folder}': feature schema must be {expected[:12]}, got "
            f"{model.card.feature_schema[:12]}; train it again on this configuration's features"
        )
    if model.card.feature_space is not None:
        space = space_id(read_space(context.artifacts(SPACE)))
        if model.card.feature_space != space:
            raise ModelError(
                f"model '{folder}': feature space must be {space[:12]}, got {model.card.feature_space[:12]}; "
                "the run's features were computed in another space: train again with --retrain"
            )
    return model


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


STAGE = Stage(
    name="infer_layers",
    after=("ingest_graph", "build_features", "build_neighborhoods", "train_model"),
    settings=lambda config: (config.inference,),
    run=run,
    explain=explain,
    artifacts=lambda config: (MODEL, SPACE),
)
