"""Stage `infer_layers`: the trained model over the whole graph, layer by layer."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from pyspark.sql import functions as F

from walkbits.errors import ModelError
from walkbits.graph.csr import read_meta
from walkbits.graph.relations import edge_neighborhoods
from walkbits.inference.layers import infer
from walkbits.inference.nodes import as_embeddings, features_of_nodes, node_keys
from walkbits.inference.plan import explained, plan_updates
from walkbits.ingest.space import feature_schema_hash, read_space, space_id
from walkbits.models.card import LoadedModel, load_model
from walkbits.network.declaration import Update
from walkbits.runs.reuse import MODEL, SPACE
from walkbits.runs.stage import Parts, Stage, StageRun
from walkbits.schemas import EMBEDDINGS, NEIGHBORHOODS, NODES, REPRESENTATIONS
from walkbits.stages.build_neighborhoods import GRAPH, forecast_of, num_nodes
from walkbits.tables.rows import Rows
from walkbits.tables.store import Written
from walkbits.types import NodeType


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
            node_keys=lambda node_type: node_keys(store, run_id, node_type, counts),
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


def neighborhoods(context: StageRun, update: Update) -> Rows:
    """(node, neighbors, visits) of what an update reads: walks from the table, edges from the graph."""
    if update.neighbors == "edges":
        return edge_neighborhoods(context.spark, context.artifacts(GRAPH), update.relation)
    where = {"run_id": context.run_id, "relation": update.relation}
    return context.store.scan(NEIGHBORHOODS, ("node", "neighbors", "visits"), **where)


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


STAGE = Stage(
    name="infer_layers",
    after=("ingest_graph", "build_features", "build_neighborhoods", "train_model"),
    settings=lambda config: (config.inference,),
    run=run,
    explain=explain,
    artifacts=lambda config: (MODEL, SPACE),
    needs=lambda context: forecast_of(context, "infer_layers"),
)
