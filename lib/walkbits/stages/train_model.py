"""Stage `train_model`: a sampled subgraph as mapped arrays, a trained model as a folder.

`runs.reuse` decides whether a day trains or takes over the published model.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Final

import numpy as np
from pyspark.sql import functions as F

from walkbits.arrays.places import Place, remove
from walkbits.errors import InputError
from walkbits.graph.csr import BipartiteCsr, read_meta
from walkbits.ingest.space import feature_schema_hash, layout_of, read_space, width_of
from walkbits.models import walked_relations
from walkbits.models.base import Shapes
from walkbits.models.card import Card, copy_model, read_card, save_model
from walkbits.network.declaration import Network
from walkbits.runs import reuse
from walkbits.runs.log import read_log
from walkbits.runs.stage import Stage, StageRun, stage_key
from walkbits.schemas import EDGES, FEATURES, NEIGHBORHOODS
from walkbits.stages.build_neighborhoods import GRAPH, forecast_of
from walkbits.tables.store import Written
from walkbits.training import arrays
from walkbits.training.arrays import read_training_data
from walkbits.training.examples import training_pairs
from walkbits.types import NodeType
from walkbits.walks.plan import plan_walks

LOG = logging.getLogger("walkbits")

_CHECKPOINTS: Final = "checkpoints"
"""Artifact folder of a training under way. It is no scratch: a killed driver's is for the next one."""


def run(context: StageRun) -> list[Written]:
    """The published model where the run was decided to reuse it, else a new one."""
    donor = reuse.decided(context)
    written = _train(context) if donor is None else take_over(context, donor)
    remove(context.artifacts(_CHECKPOINTS))
    return written


def take_over(context: StageRun, donor: str) -> list[Written]:
    """Copy a run's model to this run."""
    folder = context.artifacts(reuse.MODEL)
    copy_model(context.artifacts(reuse.MODEL, donor), folder)
    card = read_card(folder)
    context.measure({"reused": (1.0, "bool")})
    return [context.artifact_written(reuse.MODEL, num_parameters(card))]


def num_parameters(card: Card) -> int:
    """Numbers that the network's weights hold."""
    return sum(int(np.prod(shape)) for shape in card.network.tensors().values())


def _train(context: StageRun) -> list[Written]:
    """Train on the run's own graph and save weights and card."""
    config, run_id = context.config, context.run_id

    def report(line: str) -> None:
        LOG.info("stage=%s run=%s %s", STAGE.name, run_id, line)

    csr = BipartiteCsr.open(context.artifacts(GRAPH))
    network = config.model.network(shapes_of(context, csr))
    with context.scratch("training") as scratch:
        # torch takes seconds to load: only a day that trains pays, and while executors write the arrays
        with ThreadPoolExecutor(1) as beside:
            torch = beside.submit(import_module, "torch.optim")
            write_arrays(context, network, csr, scratch)
        torch.result()
        from walkbits.training.checkpoints import Checkpoints
        from walkbits.training.loop import train

        decided_by = {"settings": reuse.training_hash(config), "data": _inputs(context)}
        checkpoints = Checkpoints(
            context.artifacts(_CHECKPOINTS), decided_by, config.training.checkpoint_seconds, report
        )
        data = read_training_data(scratch, csr, network, config.model.fit(), config.training, config.seed)
        trained = train(config.model, config.training, data, config.seed, report, checkpoints)
    card = save_model(
        context.artifacts(reuse.MODEL), trained.network, trained.weights,
        feature_schema=feature_schema_hash(config.features, config.node_tables),
        feature_space=read_space(context.artifacts(reuse.SPACE)),
        config_hash=reuse.training_hash(config),
        data_run=run_id,
        metrics=trained.metrics,
        keys=trained.keys,
    )  # fmt: skip
    context.measure({name: (value, "") for name, value in (trained.metrics | trained.timings).items()})
    return [context.artifact_written(reuse.MODEL, num_parameters(card))]


def _inputs(context: StageRun) -> str:
    """Identifies what the stage reads."""
    return stage_key(STAGE, context.config, context.run, read_log(context.store, context.run_id))


def shapes_of(context: StageRun, csr: BipartiteCsr) -> Shapes:
    """Node counts of the run's graph, and widths of its features."""
    config = context.config
    num_nodes: dict[NodeType, int] = {"item": csr.item.num_nodes, "context": csr.context.num_nodes}
    widths = {
        one: width_of(layout_of(config.features, table, one)) for one, table in config.node_tables.items()
    }
    return Shapes(num_nodes, {one: width for one, width in widths.items() if width})


def write_arrays(context: StageRun, network: Network, csr: BipartiteCsr, folder: Place) -> None:
    """Write what training reads beside the graph: features, walked neighborhoods, pairs, hard negatives."""
    config, store, run_id, training = context.config, context.store, context.run_id, context.config.training
    for one, declared in network.inputs.items():
        if declared.feature_width is not None:
            # items come first among a run's node ids
            side, first = (csr.item, 0) if one == "item" else (csr.context, csr.item.num_nodes)
            features = store.read(FEATURES, run_id=run_id, node_type=one)
            indexed = features.select((F.col("node_id") - first).alias("node_id"), "features")
            arrays.write_features(indexed, one, side.num_nodes, declared.feature_width, folder)
    for relation in walked_relations(config.model):
        side, _ = csr.sides(relation)
        neighborhoods = store.read(NEIGHBORHOODS, run_id=run_id, relation=relation)
        arrays.write_neighborhoods(neighborhoods, relation, side.num_nodes, training.train_neighbors, folder)
    if config.model.fit().examples == "pairs":
        pairs = training_pairs(store.read(EDGES, run_id=run_id), training, config.seed)
        arrays.write_pairs(pairs, folder)
        if training.hard_negatives is not None:
            graph = mapped_graph(context)
            arrays.write_hard_negatives(
                context.spark, graph, config.walks, training.hard_negatives, config.seed, folder
            )


def mapped_graph(context: StageRun) -> Place:
    """The run's graph folder, for walks on hosts that map it whole.

    Raises:
        InputError: it does not fit a host.
    """
    folder, walks = context.artifacts(GRAPH), context.config.walks
    plan = plan_walks(**read_meta(folder), relation="item_from_item", walks=walks)
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
    artifacts=lambda config: (reuse.SPACE, GRAPH),
    needs=lambda context: None if reuse.decided(context) else forecast_of(context, "train_model"),
)
