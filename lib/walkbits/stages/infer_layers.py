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
from walkbits.inference.external_ids import ExternalIds
from walkbits.inference.layers import infer
from walkbits.inference.plan import explained, plan_updates
from walkbits.ingest.features import feature_schema_hash
from walkbits.ingest.space import read_space, space_id
from walkbits.models.card import LoadedModel, load_model
from walkbits.runs.stage import Parts, Stage, StageRun
from walkbits.schemas import CONTEXT, EMBEDDINGS, FEATURES, ITEM, NEIGHBORHOODS, NODES, REPRESENTATIONS
from walkbits.stages.build_neighborhoods import num_nodes
from walkbits.stages.reuse import MODEL, SPACE
from walkbits.tables.rows import Batches, Rows
from walkbits.tables.store import Store, Written
from walkbits.types import NodeType, Relation


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
            features={ITEM: item_features(store, run_id)},
            num_nodes=counts,
            neighborhoods=lambda relation: neighborhoods(store, run_id, relation),
            inference=context.config.inference,
            folder=scratch,
            layers=layers,
        )
        named = with_external_ids(store, run_id, inferred.parts, counts, scratch / "names")
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


def item_features(store: Store, run_id: str) -> Rows:
    """(node_id, features) of a run: an item's id is its index."""
    return store.scan(FEATURES, ("node_id", "features"), run_id=run_id)


def neighborhoods(store: Store, run_id: str, relation: Relation) -> Rows:
    """(node, neighbors, visits) of a run."""
    return store.scan(NEIGHBORHOODS, ("node", "neighbors", "visits"), run_id=run_id, relation=relation)


def explain(context: StageRun) -> str:
    """What `run` would map and shuffle, as text; only the run's neighborhoods are read, to count them."""
    network = load_run_model(context).card.network
    relations = {update.relation for updates in network.layers for update in updates}
    rows = context.store.read(NEIGHBORHOODS, run_id=context.run_id).where(F.col("relation").isin(*relations))
    counted = rows.groupBy("relation").agg(F.sum(F.length("neighbors")) / 4).collect() if relations else []
    references = dict.fromkeys(relations, 0) | {row[0]: int(row[1]) for row in counted}
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
    expected = feature_schema_hash(context.config.features, context.config.items)
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


def with_external_ids(
    store: Store, run_id: str, parts: Sequence[Rows], counts: Mapping[NodeType, int], folder: Place
) -> list[Rows]:
    """The engine's rows as those of the embeddings table.

    Args:
        run_id: Whose nodes they are.
        counts: Nodes per type.
        folder: Scratch space for the names, to be removed after the rows are written.
    """
    nodes = store.scan(NODES, ("node_id", "external_id"), run_id=run_id)
    names = ExternalIds.write(nodes, sum(counts.values()), folder)
    name = _Name(names, counts["item"])
    return [part.then(name.run, name.schema) for part in parts]


@dataclass(frozen=True)
class _Name:
    """Gives each node its id, and what its data calls it."""

    names: ExternalIds
    num_items: int

    schema: ClassVar[StructType] = StructType(EMBEDDINGS.schema.fields[1:])  # without run_id

    def run(self, batches: Batches) -> Batches:
        """(node_type, node, embedding) -> (node_type, node_id, external_id, embedding)."""
        for batch in batches:
            node_type, node, embedding = batch.columns
            first = np.where(pc.equal(node_type, CONTEXT), self.num_items, 0)  # [rows]
            ids = node.to_numpy() + first
            yield pa.RecordBatch.from_arrays(
                [node_type, pa.array(ids), self.names.of(ids), embedding], names=self.schema.names
            )


STAGE = Stage(
    name="infer_layers",
    after=("ingest_graph", "build_features", "build_neighborhoods", "train_model"),
    settings=lambda config: (config.inference,),
    run=run,
    explain=explain,
)
