"""Stage `train_model`: a sampled subgraph as mapped arrays, a trained model as a folder.

With `retrain.every_days` above 1 a day takes over the published model, until it is that old or
the embeddings have drifted; runs then depend on what was published before them.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
from pyspark.sql import functions as F

from walkbits.arrays.places import Place
from walkbits.errors import InputError, ModelError
from walkbits.graph.csr import read_meta
from walkbits.ingest.features import feature_schema_hash, feature_width
from walkbits.models import relations_of
from walkbits.models.card import Card, copy_model, load_model, save_model
from walkbits.runs.log import metric
from walkbits.runs.stage import Stage, StageRun
from walkbits.schemas import EDGES, FEATURES, ITEM, LIVE, NEIGHBORHOODS, PUBLICATIONS
from walkbits.settings import config_hash
from walkbits.stages.build_neighborhoods import GRAPH, num_nodes
from walkbits.tables.store import Written
from walkbits.training.arrays import read_training_arrays, write_hard_negatives, write_training_arrays
from walkbits.training.subgraphs import training_pairs
from walkbits.walks.plan import plan_walks

LOG = logging.getLogger("walkbits")

MODEL = "model"


def run(context: StageRun) -> list[Written]:
    """The published model where it may serve another day, else a new one."""
    donor = reusable(context)
    return train_anew(context) if donor is None else take_over(context, donor)


def reusable(context: StageRun) -> str | None:
    """The run whose model `live` shows, if `config.retrain` lets this run use it.

    It must be younger than `every_days`, made by the same settings for the same features, and the
    last publication must not have drifted below `below_cosine`.
    """
    config, store, run = context.config, context.store, context.run
    if config.retrain.every_days == 1:
        return None
    live = store.read(PUBLICATIONS).where((F.col("channel") == LIVE) & (F.col("ds") <= F.lit(run.ds)))
    published = live.orderBy(F.desc("seq")).first()
    if published is None or published["run_id"] == run.run_id:
        return None
    try:
        card = load_model(context.artifacts(MODEL, published["run_id"])).card
    except ModelError as error:
        LOG.info("stage=%s run=%s training: %s", STAGE.name, run.run_id, error)
        return None
    age = (run.ds - datetime.strptime(card.data_run[:8], "%Y%m%d").replace(tzinfo=UTC).date()).days
    same = (card.feature_schema, card.config_hash) == (
        feature_schema_hash(config.features, config.items),
        config_hash(config.model, config.training, config.seed),
    )
    cosine = metric(store, published["run_id"], "audit_run", "cosine[item]")
    drifted = cosine is not None and cosine < config.retrain.below_cosine
    LOG.info(
        "stage=%s run=%s published=%s model_age_days=%d same_settings=%s cosine=%s",
        STAGE.name, run.run_id, published["run_id"], age, same, cosine,
    )  # fmt: skip
    return published["run_id"] if same and not drifted and age < config.retrain.every_days else None


def take_over(context: StageRun, donor: str) -> list[Written]:
    """Copy a run's model to this run."""
    folder = context.artifacts(MODEL)
    copy_model(context.artifacts(MODEL, donor), folder)
    card = load_model(folder).card
    context.measure({"reused": (1.0, "bool")})
    return [context.artifact_written(MODEL, num_parameters(card))]


def num_parameters(card: Card) -> int:
    """Numbers that the network's weights hold."""
    return sum(int(np.prod(shape)) for shape in card.network.tensors().values())


def train_anew(context: StageRun) -> list[Written]:
    """Train on the run's own graph and save weights and card."""
    # torch takes seconds to load: the one stage that needs it pays, and only on a day that trains
    from walkbits.training.loop import train

    config, store, run_id = context.config, context.store, context.run_id
    (relation,) = relations_of(config.model)
    with context.scratch("training") as scratch:
        write_training_arrays(
            features=store.read(FEATURES, run_id=run_id),
            neighborhoods=store.read(NEIGHBORHOODS, run_id=run_id, relation=relation),
            pairs=training_pairs(store.read(EDGES, run_id=run_id), config.training, config.seed),
            num_items=num_nodes(context)[ITEM],
            feature_width=feature_width(config.features, config.items),
            num_neighbors=config.training.train_neighbors,
            folder=scratch,
        )
        hard = config.training.hard_negatives
        if hard is not None:
            write_hard_negatives(
                context.spark, mapped_graph(context), config.walks, hard, config.seed, scratch
            )
        arrays = read_training_arrays(scratch)
        trained = train(
            arrays.features, arrays.neighborhoods, arrays.pairs, config.model, config.training, config.seed,
            lambda line: LOG.info("stage=%s run=%s %s", STAGE.name, run_id, line), arrays.hard_negatives,
        )  # fmt: skip
    card = save_model(
        context.artifacts(MODEL), trained.network, trained.weights,
        feature_schema=feature_schema_hash(config.features, config.items),
        config_hash=config_hash(config.model, config.training, config.seed),
        data_run=run_id,
        metrics=trained.metrics,
    )  # fmt: skip
    context.measure({name: (value, "") for name, value in trained.metrics.items()})
    return [context.artifact_written(MODEL, num_parameters(card))]


def mapped_graph(context: StageRun) -> Place:
    """The run's graph folder, for walks on hosts that map it whole.

    Raises:
        InputError: it does not fit a host.
    """
    folder, walks = context.artifacts(GRAPH), context.config.walks
    (relation,) = relations_of(context.config.model)
    plan = plan_walks(**read_meta(folder), relation=relation, walks=walks)
    if plan.name != "replicated":
        raise InputError(
            f"training.hard_negatives needs plan replicated, got a graph of {plan.graph_bytes:,} bytes with "
            f"walks.plan {walks.plan} and walks.host_bytes {walks.host_bytes:,}; leave it out, "
            "or use larger hosts"
        )
    return folder


STAGE = Stage(
    name="train_model",
    after=("ingest_graph", "build_neighborhoods"),
    settings=lambda config: (config.model, config.training),
    run=run,
)

ANEW = replace(STAGE, run=train_anew)
"""The same stage for those who want a new model whatever the config says."""
