"""Stage `train_model`: a sampled subgraph as mapped arrays, a trained model as a folder.

`stages.reuse` decides whether a day trains or takes over the published model.
"""

from __future__ import annotations

import logging

import numpy as np

from walkbits.arrays.places import Place
from walkbits.errors import InputError
from walkbits.graph.csr import read_meta
from walkbits.ingest.features import feature_schema_hash, feature_width
from walkbits.ingest.space import read_space
from walkbits.models import relations_of
from walkbits.models.card import Card, copy_model, load_model, save_model
from walkbits.runs.stage import Stage, StageRun
from walkbits.schemas import EDGES, FEATURES, ITEM, NEIGHBORHOODS
from walkbits.stages import reuse
from walkbits.stages.build_neighborhoods import GRAPH, num_nodes
from walkbits.tables.store import Written
from walkbits.training.arrays import read_training_arrays, write_hard_negatives, write_training_arrays
from walkbits.training.subgraphs import training_pairs
from walkbits.walks.plan import plan_walks

LOG = logging.getLogger("walkbits")


def run(context: StageRun) -> list[Written]:
    """The published model where the run was decided to reuse it, else a new one."""
    donor = reuse.decided(context)
    return _train(context) if donor is None else take_over(context, donor)


def take_over(context: StageRun, donor: str) -> list[Written]:
    """Copy a run's model to this run."""
    folder = context.artifacts(reuse.MODEL)
    copy_model(context.artifacts(reuse.MODEL, donor), folder)
    card = load_model(folder).card
    context.measure({"reused": (1.0, "bool")})
    return [context.artifact_written(reuse.MODEL, num_parameters(card))]


def num_parameters(card: Card) -> int:
    """Numbers that the network's weights hold."""
    return sum(int(np.prod(shape)) for shape in card.network.tensors().values())


def _train(context: StageRun) -> list[Written]:
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
        context.artifacts(reuse.MODEL), trained.network, trained.weights,
        feature_schema=feature_schema_hash(config.features, config.items),
        feature_space=read_space(context.artifacts(reuse.SPACE)),
        config_hash=reuse.training_hash(config),
        data_run=run_id,
        metrics=trained.metrics,
    )  # fmt: skip
    context.measure({name: (value, "") for name, value in trained.metrics.items()})
    return [context.artifact_written(reuse.MODEL, num_parameters(card))]


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
    after=("ingest_graph", "build_features", "build_neighborhoods"),
    settings=lambda config: (config.model, config.training),
    run=run,
)
