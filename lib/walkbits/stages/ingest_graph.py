"""Stage `ingest_graph`: the caller's tables to nodes and edges (and quarantine)."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from walkbits.config import Config
from walkbits.graph.profile import k_core_edges, require_graphframes
from walkbits.ingest import features
from walkbits.ingest import interactions as ingest
from walkbits.ingest.sources import read_source
from walkbits.runs.log import inputs_fingerprint
from walkbits.runs.stage import Stage, StageRun
from walkbits.schemas import EDGES, HOLDOUT, NODES, QUARANTINE
from walkbits.tables.store import Written


@dataclass(frozen=True)
class Inputs:
    """The selected rows of both sources.

    Attributes:
        interactions: (item_id, context_id, weight, row).
        items: (item_id, name, tokens, numbers, row).
    """

    interactions: DataFrame
    items: DataFrame

    def fingerprint(self, config: Config) -> str:
        """See `inputs_fingerprint`.

        Raises:
            EmptyInputError: a source has no rows in the run's window.
        """
        return inputs_fingerprint(self.interactions, self.items, config)


def read_inputs(spark: SparkSession, config: Config, ds: date) -> Inputs:
    """Read and select; columns and types are checked, values not yet.

    Raises:
        InputError: a source cannot be read or lacks a column.
    """
    interactions = ingest.select_interactions(
        read_source(spark, config.interactions, "interactions"), config.interactions, ds
    )
    items = features.select_items(read_source(spark, config.items, "items"), config.items)
    return Inputs(interactions, items)


def check_inputs(inputs: Inputs, config: Config) -> None:
    """Check every value rule, before the run exists and anything is written.

    Raises:
        InputError: ids, weights or numbers break a rule.
        MissingDependencyError: the k-core filter is on and its jar is absent.
    """
    if config.ingest.k_core:
        require_graphframes(inputs.items.sparkSession, f"ingest.k_core={config.ingest.k_core}")
    features.check_items(inputs.items, config.items.numeric)
    judged = ingest.with_reason(inputs.interactions, inputs.items)
    ingest.check_interactions(judged, config.interactions.weight, config.ingest.max_quarantined)


def run(context: StageRun) -> list[Written]:
    """Write the graph of inputs that passed `check_inputs`; rules in `ingest.interactions`."""
    config, store, run_id = context.config, context.store, context.run_id
    inputs = read_inputs(context.spark, config, context.run.ds)
    judged = ingest.with_reason(inputs.interactions, inputs.items)
    written = []
    with ExitStack() as stack:
        edges = _kept(
            stack,
            ingest.aggregate_edges(judged.where(F.col("reason").isNull()), config.ingest.max_edge_weight),
        )
        ingest.check_edge_weights(edges, config.ingest.max_edge_weight)
        core = k_core_edges(edges, config.ingest.k_core) if config.ingest.k_core else edges
        items = _kept(stack, ingest.with_index(inputs.items.select("item_id", "name"), "item_id"))
        contexts = _kept(stack, ingest.with_index(core.select("context_id").distinct(), "context_id"))
        train = core
        if config.ingest.holdout is not None:
            held_out = _kept(stack, ingest.hold_out(core, config.ingest.holdout, config.seed))
            train = core.join(held_out, ["item_id", "context_id"], "left_anti")
            written.append(store.write(HOLDOUT, ingest.with_indices(held_out, items, contexts), run_id))
        indexed = _kept(stack, ingest.with_indices(train, items, contexts))
        written.append(store.write(EDGES, indexed, run_id))
        nodes = ingest.nodes_of(items, contexts, indexed, items.count())
        written.append(store.write(NODES, nodes, run_id))
    set_aside = judged.where(F.col("reason").isNotNull())
    set_aside = set_aside.select(F.lit("interactions").alias("source"), "reason", "row")
    return [*written, store.write(QUARANTINE, set_aside, run_id, allow_empty=True)]


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
