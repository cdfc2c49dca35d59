"""Stage `ingest_graph`: the caller's tables to nodes, edges and impressions (and quarantine)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from functools import reduce

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from walkbits.config import Config
from walkbits.errors import ConfigError
from walkbits.graph.profile import k_core_edges, require_graphframes
from walkbits.ingest import interactions as ingest
from walkbits.ingest.nodes import check_nodes, select_nodes, usable
from walkbits.ingest.quarantine import check_set_aside, set_aside
from walkbits.ingest.sources import read_source
from walkbits.ingest.space import layout_of
from walkbits.models import features_of
from walkbits.runs.log import inputs_fingerprint
from walkbits.runs.stage import Stage, StageRun
from walkbits.schemas import CONTEXT, EDGES, HOLDOUT, IMPRESSIONS, ITEM, NODES, QUARANTINE
from walkbits.tables.store import Written
from walkbits.types import NodeType

SECTIONS: dict[NodeType, str] = {"item": "items", "context": "contexts"}
"""Config section of the table that describes a node type."""


@dataclass(frozen=True)
class Inputs:
    """The selected rows of every source.

    Attributes:
        interactions: (item_id, context_id, weight, row).
        nodes: Rows of `select_nodes` of each type that has a table.
        impressions: (item_id, context_id, row), if there are any.
    """

    interactions: DataFrame
    nodes: Mapping[NodeType, DataFrame]
    impressions: DataFrame | None

    def fingerprint(self, config: Config) -> str:
        """See `inputs_fingerprint`.

        Raises:
            EmptyInputError: a source has no rows in the run's window.
        """
        sources = {"interactions": self.interactions}
        sources |= {SECTIONS[node_type]: rows for node_type, rows in self.nodes.items()}
        if self.impressions is not None:
            sources["impressions"] = self.impressions
        return inputs_fingerprint(sources, config)

    def judged_interactions(self) -> DataFrame:
        """With the reason why a row must be set aside."""
        known = {one: (usable(rows).select("id"), f"{one} table") for one, rows in self.nodes.items()}
        return ingest.with_reason(self.interactions, known)

    def judged_impressions(self) -> DataFrame | None:
        """Likewise; items and contexts without a table are those of the good interactions."""
        if self.impressions is None:
            return None
        good = self.judged_interactions().where(F.col("reason").isNull())
        known = {
            one: (usable(self.nodes[one]).select("id"), f"{one} table")
            if one in self.nodes
            else (good.select(F.col(f"{one}_id").alias("id")).distinct(), "interactions")
            for one in SECTIONS
        }
        return ingest.with_reason(self.impressions, known)


def read_inputs(spark: SparkSession, config: Config, ds: date) -> Inputs:
    """Read and select; columns and types are checked, values not yet.

    Raises:
        ConfigError: the model reads features that nothing gives.
        InputError: a source cannot be read or lacks a column.
    """
    check_features(config)
    source = read_source(spark, config.interactions, "interactions")
    held = config.ingest.holdout
    timed = held is not None and held.split == "temporal"
    interactions = ingest.select_interactions(source, config.interactions, ds, timed)
    nodes = {
        one: select_nodes(read_source(spark, spec, SECTIONS[one]), spec, SECTIONS[one])
        for one, spec in config.node_tables.items()
        if spec is not None
    }
    impressions = None
    if config.impressions is not None:
        spec, lookback = config.impressions, config.interactions.lookback_days
        if spec.timestamp is not None and spec.lookback_days is None:
            spec = spec.model_copy(update={"lookback_days": lookback})
        source = read_source(spark, spec, "impressions")
        impressions = ingest.select_events(source, spec, ds, "impressions")
    return Inputs(interactions, nodes, impressions)


def check_features(config: Config) -> None:
    """Refuse a model whose features no table gives.

    Raises:
        ConfigError: names the model, the node type, and what to add.
    """
    for node_type in features_of(config.model):
        section = SECTIONS[node_type]
        if not layout_of(config.features, config.node_tables[node_type], node_type):
            raise ConfigError(
                f"model.architecture: {config.model.architecture} reads features of {section}, got none; "
                f"name columns under {section}.text, categorical, numeric or vectors, set features.degree to "
                f"[{node_type}], or choose a model that learns a vector per id"
            )


def check_inputs(inputs: Inputs, config: Config) -> None:
    """Check every value rule, before the run exists and anything is written.

    Raises:
        InputError: ids, weights, numbers or vectors break a rule.
        MissingDependencyError: the k-core filter is on and its jar is absent.
    """
    allowed = config.ingest.max_quarantined
    if config.ingest.k_core:
        require_graphframes(inputs.interactions.sparkSession, f"ingest.k_core={config.ingest.k_core}")
    for node_type, rows in inputs.nodes.items():
        spec = config.node_tables[node_type]
        assert spec is not None
        check_nodes(rows, spec, SECTIONS[node_type], allowed)
    ingest.check_interactions(inputs.judged_interactions(), config.interactions.weight, allowed)
    impressions = inputs.judged_impressions()
    if impressions is not None:
        counted = impressions.groupBy("reason").count().collect()
        check_set_aside("impressions", {row["reason"]: row["count"] for row in counted}, allowed)


def run(context: StageRun) -> list[Written]:
    """Write the graph of inputs that passed `check_inputs`; rules in `ingest.interactions`."""
    config, store, run_id = context.config, context.store, context.run_id
    inputs = read_inputs(context.spark, config, context.run.ds)
    judged, shown = inputs.judged_interactions(), inputs.judged_impressions()
    written = []
    with ExitStack() as stack:
        edges = _kept(
            stack,
            ingest.aggregate_edges(judged.where(F.col("reason").isNull()), config.ingest.max_edge_weight),
        )
        ingest.check_edge_weights(edges, config.ingest.max_edge_weight)
        core = k_core_edges(edges, config.ingest.k_core) if config.ingest.k_core else edges
        items = _kept(stack, _indexed(inputs, core, ITEM))
        contexts = _kept(stack, _indexed(inputs, core, CONTEXT))
        train = core
        if config.ingest.holdout is not None:
            held_out = _kept(stack, ingest.hold_out(core, config.ingest.holdout, config.seed))
            train = core.join(held_out, ["item_id", "context_id"], "left_anti")
            written.append(store.write(HOLDOUT, ingest.with_indices(held_out, items, contexts), run_id))
        indexed = _kept(stack, ingest.with_indices(train.drop("time"), items, contexts))
        written.append(store.write(EDGES, indexed, run_id))
        if shown is not None:
            # What was also taken is no negative, held out or not.
            pairs = ingest.count_pairs(shown.where(F.col("reason").isNull()))
            pairs = pairs.join(core, ["item_id", "context_id"], "left_anti")
            rows = ingest.with_indices(pairs, items, contexts)
            written.append(store.write(IMPRESSIONS, rows, run_id, allow_empty=True))
        nodes = ingest.nodes_of(items, contexts, indexed, items.count())
        written.append(store.write(NODES, nodes, run_id))
    aside = [set_aside(judged, "interactions")]
    aside += [set_aside(rows, SECTIONS[node_type]) for node_type, rows in inputs.nodes.items()]
    aside += [set_aside(shown, "impressions")] if shown is not None else []
    return [*written, store.write(QUARANTINE, reduce(DataFrame.union, aside), run_id, allow_empty=True)]


def _indexed(inputs: Inputs, core: DataFrame, node_type: str) -> DataFrame:
    """(<node type>_id, name, index): all nodes of the type's table, or those of the edges."""
    column = f"{node_type}_id"
    table = inputs.nodes.get("item" if node_type == ITEM else "context")
    if table is None:
        nodes = core.select(column).distinct().withColumn("name", F.lit(None).cast("string"))
    else:
        nodes = usable(table).select(F.col("id").alias(column), "name")
    return ingest.with_index(nodes, column)


def _kept(stack: ExitStack, frame: DataFrame) -> DataFrame:
    """Hold a frame that is read several times on disk until the stack closes."""
    kept = frame.persist(StorageLevel.DISK_ONLY)
    stack.callback(kept.unpersist)
    return kept


STAGE = Stage(
    name="ingest_graph",
    after=(),
    settings=lambda config: (config.ingest,),
    run=run,
)
