"""Stage `infer_layers`: the trained model over the whole graph, layer by layer."""

from __future__ import annotations

import itertools
import time

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from walkbits.errors import ModelError
from walkbits.graph.features import feature_schema_hash
from walkbits.inference.layers import infer
from walkbits.inference.plan import explained, plan_updates
from walkbits.models.card import LoadedModel, load_model
from walkbits.pipeline import Context, Parts, Stage
from walkbits.schemas import CONTEXT, EMBEDDINGS, FEATURES, ITEM, NEIGHBORHOODS, NODES, REPRESENTATIONS
from walkbits.stages.build_neighborhoods import num_nodes
from walkbits.stages.train_model import MODEL
from walkbits.storage.tables import Written


def run(context: Context) -> list[Written]:
    """Commit every layer, then the embeddings; prove that each node was computed once per layer."""
    store, run_id = context.store, context.run_id
    model = load_run_model(context)
    layers = CommittedLayers(context)
    counts = num_nodes(context)
    with context.scratch("layers") as scratch:
        inferred = infer(
            context.spark,
            model,
            features={ITEM: _item_features(context)},
            num_nodes=counts,
            neighborhoods=lambda relation: store.read(NEIGHBORHOODS, run_id=run_id, relation=relation),
            inference=context.config.inference,
            folder=scratch,
            layers=layers,
        )
        embeddings = store.write(EMBEDDINGS, _named(context, inferred.embeddings, counts[ITEM]), run_id)
        inferred.model_rows.check()
    seen = inferred.model_rows.seen()
    context.measure({f"model_rows[{label}]": (float(count), "rows") for label, count in seen.items()})
    return [*layers.written, embeddings]


class CommittedLayers:
    """The run's inner layers in the representations table; those of a killed attempt are kept."""

    def __init__(self, context: Context) -> None:
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

    def write(self, rows: DataFrame, layer: int) -> None:
        """Commit a layer."""
        store, run_id = self._context.store, self._context.run_id
        self.written.append(store.write(REPRESENTATIONS, rows, run_id, layer=layer))

    def finish(self, layer: int) -> None:
        """Log the layer, so that the next attempt keeps it."""
        now = time.monotonic()
        self._parts.finish(f"layer={layer}", self.written[-1:], now - self._began)
        self._began = now

    def read(self, layer: int) -> DataFrame:
        """The layer as committed."""
        rows = self._context.store.read(REPRESENTATIONS, run_id=self._context.run_id, layer=layer)
        return rows.select("node_type", "node", "representation")


def explain(context: Context) -> str:
    """What `run` would map and shuffle, as text; only the run's neighborhoods are read, to count them."""
    network = load_run_model(context).card.network
    relations = {update.relation for updates in network.layers for update in updates}
    rows = context.store.read(NEIGHBORHOODS, run_id=context.run_id).where(F.col("relation").isin(*relations))
    counted = rows.groupBy("relation").agg(F.sum(F.length("neighbors")) / 4).collect() if relations else []
    references = dict.fromkeys(relations, 0) | {row[0]: int(row[1]) for row in counted}
    parallelism = context.spark.sparkContext.defaultParallelism
    plans = plan_updates(network, num_nodes(context), context.config.inference, parallelism)
    return explained(plans, references, parallelism)


def load_run_model(context: Context) -> LoadedModel:
    """The run's own model.

    Raises:
        ModelError: it is missing, damaged, or reads features of another layout.
    """
    folder = context.artifacts(MODEL)
    model = load_model(folder)
    expected = feature_schema_hash(context.config.features, context.config.items)
    if model.card.feature_schema != expected:
        raise ModelError(
            f"model '{folder}': feature schema must be {expected[:12]}, got "
            f"{model.card.feature_schema[:12]}; train it again on this configuration's features"
        )
    return model


def _item_features(context: Context) -> DataFrame:
    return context.store.read(FEATURES, run_id=context.run_id).select(
        F.col("node_id").cast("int").alias("node"), "features"
    )


def _named(context: Context, embeddings: DataFrame, num_items: int) -> DataFrame:
    """Add node_id and external_id to the engine's rows."""
    offset = F.when(F.col("node_type") == CONTEXT, num_items).otherwise(0)
    names = context.store.read(NODES, run_id=context.run_id).select("node_id", "external_id")
    with_id = embeddings.withColumn("node_id", F.col("node").cast("bigint") + offset)
    return with_id.join(names, "node_id", "inner")


STAGE = Stage(
    name="infer_layers",
    after=("ingest_graph", "build_neighborhoods", "train_model"),
    settings=lambda config: (config.inference,),
    run=run,
    explain=explain,
)
