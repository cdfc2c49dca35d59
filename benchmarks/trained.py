"""Trained models as contenders: what the stages of a day do on tables, here on arrays in memory.

Settings are those of a file in conf/models with the data set's own, from benchmarks/quality.yaml, laid over
them. A model is trained on the split's training edges; its vectors are scored as its card says.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from measure import ROOT
from quality_data import DataSet
from walkbits.config_file import parse_yaml
from walkbits.evaluation.rankers import Embedding, graph_of
from walkbits.evaluation.splits import Split
from walkbits.graph.csr import BipartiteCsr
from walkbits.inference.nodes import log_share
from walkbits.models import parse_model
from walkbits.models.base import NO_SHAPES, ModelSettings, Shapes
from walkbits.network.declaration import TABLE, Network
from walkbits.network.subgraphs import Neighborhoods
from walkbits.settings import Training, Walks
from walkbits.training.arrays import TrainingData
from walkbits.training.embed import embed
from walkbits.training.examples import Examples, pairs_in
from walkbits.training.loop import train
from walkbits.training.negatives import HardNegatives, Partners, hard_negatives_of
from walkbits.types import F32, I32, NodeType, Relation
from walkbits.walks.kernel import neighborhoods_of


def settings_of(file: str, changes: Mapping[str, Any]) -> tuple[ModelSettings, Walks, Training]:
    """A file of conf/models with dotted keys, as `training.epochs`, laid over it."""
    document = parse_yaml((ROOT / "conf" / "models" / f"{file}.yaml").read_text(encoding="utf-8"))
    for dotted, value in changes.items():
        section, key = dotted.split(".", 1)
        document.setdefault(section, {})[key] = value
    return (
        parse_model(document["model"]),
        Walks.model_validate(document.get("walks", {})),
        Training.model_validate(document.get("training", {})),
    )


def learned_codes(file: str) -> bool:
    """Whether a model's codes are the signs of its vectors."""
    return settings_of(file, {})[0].network(NO_SHAPES).learned_codes


def fit(name: str, file: str, data: DataSet, changes: Mapping[str, Any], seed: int) -> Embedding:
    """Walk, train, embed all nodes."""
    model, walks, training = settings_of(file, changes)
    split = data.split
    csr = graph_of(split, walks.context_weight_exponent)
    shapes = Shapes({"item": csr.item.num_nodes, "context": csr.context.num_nodes}, {})
    features: dict[NodeType, F32] = {}
    if data.features is not None:
        columns = [data.features] if data.new_items else [data.features, _log_degree(split)]
        features["item"] = np.hstack(columns)
        shapes = Shapes(shapes.num_nodes, {"item": features["item"].shape[1]})
    network = model.network(shapes)
    read = {one for one, declared in network.inputs.items() if declared.feature_width is not None}

    def walked(relation: Relation, nodes: I32) -> Neighborhoods:
        return Neighborhoods(*neighborhoods_of(csr, relation, nodes, walks, seed))

    relations = relations_of(network, csr, walked)
    given = TrainingData(
        shapes.num_nodes,
        {one: x for one, x in features.items() if one in read},
        {"item": csr.item.keys, "context": csr.context.keys},
        {reads: one.heaviest(training.train_neighbors) if "." not in reads else one
         for reads, one in relations.items()},
        *examples_of(model, csr, walks, training, seed),
    )  # fmt: skip
    trained = train(model, training, given, seed, lambda line: _show(f"{name} {line}"))
    whole = TrainingData(given.num_nodes, given.features, given.keys, relations, given.examples)
    if data.new_items and (rows := trained.weights.get(f"{TABLE}item")) is not None:
        rows[split.popularity == 0] = 0.0
    z = embed(trained.network, trained.weights, whole, torch.device("cpu"))
    score = trained.network.score
    prior = score.temperature * score.prior * log_share(csr, np.arange(csr.item.num_nodes, dtype=np.int32))
    return Embedding(name, z["item"], z.get("context"), prior=np.asarray(prior, np.float32))


def relations_of(
    network: Network, csr: BipartiteCsr, walk: Callable[[Relation, I32], Neighborhoods]
) -> dict[str, Neighborhoods]:
    """What the network reads; `walk` makes neighborhoods of nodes."""
    found: dict[str, Neighborhoods] = {}
    for update in (one for updates in network.layers for one in updates):
        side, _ = csr.sides(update.relation)
        if update.neighbors == "edges":
            ones = np.ones(len(side.indices), np.int32)
            found[update.reads] = Neighborhoods(side.indptr.astype(np.int64), side.indices, ones)
        elif update.reads not in found:
            every = np.arange(side.num_nodes, dtype=np.int32)
            found[update.reads] = walk(update.relation, every)
    return found


def examples_of(
    model: ModelSettings, csr: BipartiteCsr, walks: Walks, training: Training, seed: int
) -> tuple[Examples, HardNegatives | None]:
    """Pairs or edges to train on, and hard negatives where the settings ask for them."""
    if model.fit().examples == "edges":
        return Examples.of_edges(csr, training.context_fraction, seed), None
    pairs, hard = pairs_in(csr, training, seed), training.hard_negatives
    if hard is None:
        return Examples.of_pairs(pairs), None
    queries = np.unique(pairs[:, 0])
    rows = hard_negatives_of(csr, queries, Partners.of(pairs), walks, hard, seed)
    return Examples.of_pairs(pairs), HardNegatives(queries, rows)


def _log_degree(split: Split) -> F32:
    """Standardised, as the feature group `degree` is: fp32 [items, 1]."""
    degree = np.log1p(split.popularity.astype(np.float64))
    return np.asarray((degree - degree.mean()) / (degree.std() or 1.0), np.float32)[:, None]


def _show(line: str) -> None:
    sys.stdout.write(f"    {line}\n")
    sys.stdout.flush()
