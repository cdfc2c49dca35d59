"""Stage `train_model`: a sampled subgraph as mapped arrays, a trained model as a folder."""

from __future__ import annotations

import logging
import shutil

import numpy as np

from walkbits.config import config_hash
from walkbits.graph.features import feature_schema_hash, feature_width
from walkbits.models import relations_of
from walkbits.models.arrays import read_training_arrays, write_training_arrays
from walkbits.models.card import save_model
from walkbits.models.sampling import training_pairs
from walkbits.models.training import train
from walkbits.pipeline import Context, Stage
from walkbits.schemas import EDGES, FEATURES, ITEM, NEIGHBORHOODS
from walkbits.stages.build_neighborhoods import num_nodes
from walkbits.storage.tables import Written

LOG = logging.getLogger("walkbits")

MODEL = "model"


def run(context: Context) -> list[Written]:
    """Train on the run's own graph and save weights and card."""
    config, store, run_id = context.config, context.store, context.run_id
    (relation,) = relations_of(config.model)
    scratch = context.artifacts("training")
    try:
        write_training_arrays(
            features=store.read(FEATURES, run_id=run_id),
            neighborhoods=store.read(NEIGHBORHOODS, run_id=run_id, relation=relation),
            pairs=training_pairs(store.read(EDGES, run_id=run_id), config.training, config.seed),
            num_items=num_nodes(context)[ITEM],
            feature_width=feature_width(config.features, config.items),
            num_neighbors=config.training.train_neighbors,
            folder=scratch,
        )
        arrays = read_training_arrays(scratch)
        trained = train(
            arrays.features, arrays.neighborhoods, arrays.pairs, config.model, config.training, config.seed,
            lambda line: LOG.info("stage=%s run=%s %s", STAGE.name, run_id, line),
        )  # fmt: skip
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    card = save_model(
        context.artifacts(MODEL), trained.network, trained.weights,
        feature_schema=feature_schema_hash(config.features, config.items),
        config_hash=config_hash(config.model, config.training, config.seed),
        data_run=run_id,
        metrics=trained.metrics,
    )  # fmt: skip
    parameters = sum(int(np.prod(shape)) for shape in card.network.tensors().values())
    figures = {name: (value, "") for name, value in trained.metrics.items()}
    return [context.artifact_written(MODEL, parameters), context.metrics(STAGE.name, figures)]


STAGE = Stage(
    name="train_model",
    after=("ingest_graph", "build_neighborhoods"),
    settings=lambda config: (config.model, config.training),
    run=run,
)
