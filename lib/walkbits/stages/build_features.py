"""Stage `build_features`: columns of the caller's tables to vectors, in a space learned or reused.

A day that trains learns the space of its features; a day that reuses a model takes that model's space.
"""

from __future__ import annotations

from dataclasses import replace

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from walkbits.arrays.places import write_bytes
from walkbits.errors import ModelError
from walkbits.ingest import features
from walkbits.ingest.nodes import no_columns, usable
from walkbits.ingest.space import SPACE_FILE, FeatureSpace, feature_schema_hash, layout_of, load_space
from walkbits.models.card import load_model
from walkbits.runs import reuse
from walkbits.runs.stage import Stage, StageRun
from walkbits.schemas import FEATURES, NODES
from walkbits.stages.ingest_graph import CONTENTS, Inputs, check_nodes_unchanged, read_inputs
from walkbits.tables.store import Written
from walkbits.types import NodeType


def run(context: StageRun) -> list[Written]:
    """Decide whether to reuse the published model, then compute features in its space or in a new one."""
    return _build(context, reuse.decide(context))


def learn_anew(context: StageRun) -> list[Written]:
    """Compute features in a new space, whatever was decided."""
    return _build(context, None)


def _build(context: StageRun, donor: str | None) -> list[Written]:
    """The features of all nodes; rows of their tables that came in since ingest went unjudged."""
    inputs = read_inputs(context.spark, context.config, context.run.ds)
    try:
        written = _of_inputs(context, donor, inputs)
    except PySparkException:  # what went unjudged may be what it fails over
        check_nodes_unchanged(inputs, context)
        raise
    check_nodes_unchanged(inputs, context)
    return written


def _of_inputs(context: StageRun, donor: str | None, inputs: Inputs) -> list[Written]:
    config, store = context.config, context.store
    reuse.record(context, donor)
    layouts = {one: layout_of(config.features, table, one) for one, table in config.node_tables.items()}
    described = [one for one, layout in layouts.items() if layout]
    keys = {one: _keys(context, one) for one in described}
    nodes = {
        one: features.hashed(
            usable(inputs.nodes[one]) if one in inputs.nodes else no_columns(keys[one]), config.features
        )
        for one in described
    }
    if donor is None:
        learned = {
            f"{one}.{name}": array
            for one in described
            for name, array in features.learn(nodes[one], keys[one], layouts[one], config.features).items()
        }
        space = FeatureSpace(config.seed, layouts, learned)
    else:
        space = space_of(context, donor)
    write_bytes(context.artifacts(reuse.SPACE) / SPACE_FILE, space.to_bytes())
    written = [
        store.write(
            FEATURES, features.vectors(nodes[one], keys[one], space, one), context.run_id, node_type=one
        )
        for one in described
    ]
    learned_numbers = sum(one.size for one in space.learned.values())
    return [*written, context.artifact_written(reuse.SPACE, learned_numbers)]


def _keys(context: StageRun, node_type: NodeType) -> DataFrame:
    """(id, node_id, degree) of the run's nodes of a type."""
    nodes = context.store.read(NODES, run_id=context.run_id).where(F.col("node_type") == node_type)
    return nodes.select(F.col("external_id").alias("id"), "node_id", "degree")


def space_of(context: StageRun, run_id: str) -> FeatureSpace:
    """The space of another run's model.

    Raises:
        ModelError: the model has none, or it is damaged.
    """
    folder = context.artifacts(reuse.MODEL, run_id)
    card = load_model(folder).card
    if card.feature_space is None:
        raise ModelError(f"model '{folder}' must name its feature space, got none; use --retrain")
    return load_space(folder, card.feature_space)


STAGE = Stage(
    name="build_features",
    after=("ingest_graph",),
    settings=lambda config: (
        config.features,
        config.retrain,
        reuse.training_hash(config),
        feature_schema_hash(config.features, config.node_tables),
    ),
    run=run,
    artifacts=lambda config: (CONTENTS,),
)

ANEW = replace(STAGE, run=learn_anew)
"""The same stage for those who want a new model whatever the config says."""
