"""Stage `build_features`: columns of the caller's tables to vectors, in a space learned or reused.

A day that trains learns the space of its features; a day that reuses a model takes that model's space.
"""

from __future__ import annotations

from dataclasses import replace

from pyspark.sql import functions as F

from walkbits.arrays.places import write_bytes
from walkbits.errors import ModelError
from walkbits.ingest import features
from walkbits.ingest.space import SPACE_FILE, FeatureSpace, load_space
from walkbits.models.card import load_model
from walkbits.runs.stage import Stage, StageRun
from walkbits.schemas import FEATURES, ITEM, NODES
from walkbits.stages import reuse
from walkbits.stages.ingest_graph import read_inputs
from walkbits.tables.store import Written


def run(context: StageRun) -> list[Written]:
    """Decide whether to reuse the published model, then compute features in its space or in a new one."""
    return _build(context, reuse.decide(context))


def learn_anew(context: StageRun) -> list[Written]:
    """Compute features in a new space, whatever was decided."""
    return _build(context, None)


def _build(context: StageRun, donor: str | None) -> list[Written]:
    config, store = context.config, context.store
    reuse.record(context, donor)
    numbers = len(config.items.numeric)
    items = read_inputs(context.spark, config, context.run.ds).items
    nodes = store.read(NODES, run_id=context.run_id).where(F.col("node_type") == ITEM)
    degrees = nodes.select(F.col("external_id").alias("item_id"), "node_id", "degree")
    tokens = features.hashed(items, config.features)
    if donor is None:
        space = features.learn(tokens, degrees, config.features, numbers, config.seed)
    else:
        space = space_of(context, donor)
    write_bytes(context.artifacts(reuse.SPACE) / SPACE_FILE, space.to_bytes())
    embedded = features.vectors(tokens, degrees, space, config.features, numbers)
    rows = embedded.join(degrees.drop("degree"), "item_id", "inner")
    return [
        store.write(FEATURES, rows, context.run_id),
        context.artifact_written(reuse.SPACE, sum(one.size for one in space.learned.values())),
    ]


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
        features.feature_schema_hash(config.features, config.items),
    ),
    run=run,
)

ANEW = replace(STAGE, run=learn_anew)
"""The same stage for those who want a new model whatever the config says."""
