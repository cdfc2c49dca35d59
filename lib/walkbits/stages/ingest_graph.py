"""Stage `ingest_graph`: the caller's tables to nodes, edges and impressions (and quarantine)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date
from functools import reduce
from typing import Any, Final

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from walkbits.arrays.places import read_bytes, write_bytes
from walkbits.config import Config
from walkbits.errors import ConfigError, EmptyInputError, InputError
from walkbits.forecast import Counts
from walkbits.graph.profile import k_core_edges, require_graphframes
from walkbits.ingest import interactions as ingest
from walkbits.ingest.nodes import check_nodes, select_nodes, usable
from walkbits.ingest.quarantine import set_aside
from walkbits.ingest.sources import pinned_version, read_source
from walkbits.ingest.space import layout_of
from walkbits.models import features_of
from walkbits.runs.log import contents_of, inputs_fingerprint
from walkbits.runs.stage import Stage, StageRun
from walkbits.schemas import CONTEXT, EDGES, HOLDOUT, IMPRESSIONS, ITEM, NODES, QUARANTINE
from walkbits.spark_errors import data_errors
from walkbits.tables.store import Written
from walkbits.types import NodeType

SECTIONS: dict[NodeType, str] = {"item": "items", "context": "contexts"}
"""Config section of the table that describes a node type."""
SOURCES: Final = ("interactions", "items", "contexts", "impressions")
"""Config sections of the caller's tables."""
CONTENTS: Final = "inputs"
"""Artifact folder that says what the run's sources held."""
_CONTENTS_FILE: Final = "contents.json"


@dataclass(frozen=True)
class Inputs:
    """The selected rows of every source.

    Attributes:
        interactions: Rows of `select_interactions`.
        nodes: Rows of `select_nodes` of each type that has a table.
        impressions: Rows of `select_events`, if there are any.
    """

    interactions: DataFrame
    nodes: Mapping[NodeType, DataFrame]
    impressions: DataFrame | None

    def contents(self) -> dict[str, str]:
        """What every source holds, by section.

        Raises:
            EmptyInputError: a source has no rows in the run's window.
        """
        sources = {"interactions": self.interactions}
        sources |= {SECTIONS[node_type]: rows for node_type, rows in self.nodes.items()}
        if self.impressions is not None:
            sources["impressions"] = self.impressions
        with data_errors("inputs"):
            return contents_of(sources)

    def fingerprint(self, config: Config) -> str:
        """See `inputs_fingerprint`."""
        return inputs_fingerprint(self.contents(), config)

    def counts(self) -> Counts:
        """How much there is, rows that will be set aside included; distinct ids to about 2%.

        Raises:
            EmptyInputError: a source has no rows in the run's window.
        """
        pair = F.struct("item_id", "context_id")
        columns = [F.approx_count_distinct(one, 0.02) for one in ("item_id", "context_id", pair)]
        with data_errors("inputs"):
            counted = self.interactions.select(F.count(F.lit(1)), *columns).collect()
            rows, items, contexts, edges = counted[0]
            listed = {one: rows.count() for one, rows in self.nodes.items()}
        sizes = {"interactions": rows} | {SECTIONS[one]: count for one, count in listed.items()}
        for section in (one for one, count in sizes.items() if not count):
            raise EmptyInputError(
                f"{section}: at least one row must be there for the day, got none; check the table and --ds"
            )
        return Counts(listed.get("item", items), listed.get("context", contexts), rows, min(edges, rows))

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


@data_errors("inputs")
def read_inputs(spark: SparkSession, config: Config, ds: date) -> Inputs:
    """Read and select; columns and types are checked, values not yet.

    Raises:
        InputError: a source cannot be read or lacks a column.
    """
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


def pin_inputs(spark: SparkSession, config: Config) -> Config:
    """The config with the Delta versions that are read from now on, so that rows added later are not."""
    sources = {name: getattr(config, name) for name in SOURCES}
    return config.model_copy(
        update={
            name: source.model_copy(update={"version": pinned_version(spark, source, name)})
            for name, source in sources.items()
            if source is not None
        }
    )


def pinned_as_opened(config: Config, opened: Mapping[str, Any]) -> Config:
    """The config with the Delta versions that a run was opened with.

    Args:
        opened: Its settings then, as JSON values.
    """
    sources = {name: (getattr(config, name), opened.get(name)) for name in SOURCES}
    return config.model_copy(
        update={
            name: source.model_copy(update={"version": then["version"]})
            for name, (source, then) in sources.items()
            if source is not None and source.version is None and then and then["path"] == source.path
        }
    )


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


@data_errors("inputs")
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
    ingest.check_events(inputs.judged_interactions(), config.interactions, "interactions", allowed)
    impressions = inputs.judged_impressions()
    if impressions is not None and config.impressions is not None:
        ingest.check_events(impressions, config.impressions, "impressions", allowed)


def run(context: StageRun) -> list[Written]:
    """Write the graph of inputs that passed `check_inputs`; rules in `ingest.interactions`."""
    config, store, run_id = context.config, context.store, context.run_id
    read = read_inputs(context.spark, config, context.run.ds)
    written = []
    with ExitStack() as stack:
        # Read once more since they were judged: what was added meanwhile must not come in unjudged.
        inputs = Inputs(
            kept(stack, read.interactions),
            {node_type: kept(stack, rows) for node_type, rows in read.nodes.items()},
            None if read.impressions is None else kept(stack, read.impressions),
        )
        contents = inputs.contents()
        _check_unchanged(contents, context)
        write_bytes(context.artifacts(CONTENTS) / _CONTENTS_FILE, json.dumps(contents).encode())
        written.append(context.artifact_written(CONTENTS, len(contents)))
        judged, shown = inputs.judged_interactions(), inputs.judged_impressions()
        good = judged.where(F.col("reason").isNull())
        unit, most = ingest.weight_unit(good), config.ingest.max_edge_weight
        context.measure({"weight_unit": (unit, "weight")})
        edges = kept(stack, ingest.aggregate_edges(good, most, unit))
        ingest.check_edge_weights(edges, most, unit)
        core = k_core_edges(edges, config.ingest.k_core) if config.ingest.k_core else edges
        items = kept(stack, _indexed(inputs, core, ITEM))
        contexts = kept(stack, _indexed(inputs, core, CONTEXT))
        train = core
        if config.ingest.holdout is not None:
            held_out = kept(stack, ingest.hold_out(core, config.ingest.holdout, config.seed))
            train = core.join(held_out, ["item_id", "context_id"], "left_anti")
            written.append(store.write(HOLDOUT, ingest.with_indices(held_out, items, contexts), run_id))
        indexed = kept(stack, ingest.with_indices(train.drop("time"), items, contexts))
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
        written.append(store.write(QUARANTINE, reduce(DataFrame.union, aside), run_id, allow_empty=True))
        # Also where a lost executor made Spark read the sources again.
        _check_unchanged(inputs.contents(), context)
    return written


def check_nodes_unchanged(inputs: Inputs, context: StageRun) -> None:
    """Refuse node tables that no longer hold what was ingested.

    Raises:
        InputError: names the tables.
    """
    if not inputs.nodes:
        return
    ingested = json.loads(read_bytes(context.artifacts(CONTENTS) / _CONTENTS_FILE))
    with data_errors("inputs"):
        found = contents_of({SECTIONS[node_type]: rows for node_type, rows in inputs.nodes.items()})
    _refuse_changed([name for name in found if found[name] != ingested.get(name)], context)


def _check_unchanged(contents: Mapping[str, str], context: StageRun) -> None:
    same = inputs_fingerprint(contents, context.config) == context.run.inputs_fingerprint
    _refuse_changed([] if same else [*contents], context)


def _refuse_changed(sections: list[str], context: StageRun) -> None:
    if sections:
        raise InputError(
            f"inputs must stay as they were when run {context.run_id} was opened, got other rows of "
            f"{', '.join(sections)}; run again: the changed inputs get a run of their own"
        )


def _indexed(inputs: Inputs, core: DataFrame, node_type: str) -> DataFrame:
    """(<node type>_id, name, index): all nodes of the type's table, or those of the edges."""
    column = f"{node_type}_id"
    table = inputs.nodes.get("item" if node_type == ITEM else "context")
    if table is None:
        nodes = core.select(column).distinct().withColumn("name", F.lit(None).cast("string"))
    else:
        nodes = usable(table).select(F.col("id").alias(column), "name")
    return ingest.with_index(nodes, column)


def kept(stack: ExitStack, frame: DataFrame) -> DataFrame:
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
