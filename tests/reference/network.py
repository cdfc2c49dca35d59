"""Any declared network in float64 loops over nodes, and small worlds to run it on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from walkbits.models import architectures, parse_model
from walkbits.models.base import ModelSettings, Shapes
from walkbits.network.declaration import Dense, Linear, Network, Update
from walkbits.network.subgraphs import Neighborhoods
from walkbits.training.arrays import TrainingData
from walkbits.training.examples import Examples
from walkbits.types import NodeType

Rows = list[tuple[list[int], list[int]]]
SMALL: dict[str, dict[str, Any]] = {
    "pinsage": {"hidden_size": 6, "embedding_size": 5},
    "item_pool": {"embedding_size": 6, "content": True},
    "lightgcn": {"embedding_size": 5, "num_layers": 2},
    "hashgnn": {"embedding_size": 6, "code_bits": 64},
    "two_tower": {"embedding_size": 5, "hidden_size": 7, "content": True},
}
"""Sizes for a test; a model that is not listed is tried with its defaults."""
MODELS = [parse_model({"architecture": name} | SMALL.get(name, {})) for name in architectures()]


@dataclass(frozen=True)
class World:
    """A small bipartite graph: edges, walked neighborhoods, features and keys of both types."""

    features: dict[NodeType, np.ndarray]
    rows: dict[str, Rows]
    keys: dict[NodeType, np.ndarray]
    edges: np.ndarray
    num_nodes: dict[NodeType, int] = field(default_factory=dict)

    @property
    def shapes(self) -> Shapes:
        return Shapes(self.num_nodes, {one: x.shape[1] for one, x in self.features.items()})

    def data(self, model: ModelSettings) -> TrainingData:
        network = model.network(self.shapes)
        pairs = self.edges[:, [1, 1]] if model.fit().examples == "pairs" else self.edges
        if model.fit().examples == "pairs":
            pairs = np.stack([self.edges[:, 1], np.roll(self.edges[:, 1], 1)], axis=1)
            pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        reads = {update.reads for updates in network.layers for update in updates}
        wanted = {one for one, declared in network.inputs.items() if declared.feature_width is not None}
        return TrainingData(
            self.num_nodes,
            {one: x for one, x in self.features.items() if one in wanted},
            self.keys,
            {name: neighborhoods(self.rows[name]) for name in reads},
            Examples(pairs[:, 0].astype(np.int32), pairs[:, 1].astype(np.int32)),
        )


def random_world(seed: int, items: int, contexts: int, width: int = 5, largest: int = 6) -> World:
    """Edges at random, some nodes without any; an item has zero features."""
    rng = np.random.default_rng(seed)
    edges = np.array(
        [
            (c, i)
            for c in range(contexts)
            for i in np.sort(rng.permutation(items)[: rng.integers(0, min(largest, items) + 1)])
        ],
        np.int64,
    ).reshape(-1, 2)
    features: dict[NodeType, np.ndarray] = {
        "item": rng.standard_normal((items, width)).astype(np.float32),
        "context": rng.standard_normal((contexts, width + 1)).astype(np.float32),
    }
    features["item"][items // 2] = 0
    rows = {
        "context_from_item.edges": _edge_rows(edges[:, 0], edges[:, 1], contexts),
        "item_from_context.edges": _edge_rows(edges[:, 1], edges[:, 0], items),
        "item_from_item": _walked(rng, items, items, largest, same=True),
        "item_from_context": _walked(rng, items, contexts, largest),
        "context_from_item": _walked(rng, contexts, items, largest),
    }
    keys: dict[NodeType, np.ndarray] = {
        "item": rng.permutation(10 * items)[:items].astype(np.int64) - 7,
        "context": rng.permutation(10 * contexts)[:contexts].astype(np.int64) - 7,
    }
    return World(features, rows, keys, edges, {"item": items, "context": contexts})


def _edge_rows(targets: np.ndarray, sources: np.ndarray, count: int) -> Rows:
    listed = [np.sort(sources[targets == u]).tolist() for u in range(count)]
    return [(neighbors, [1] * len(neighbors)) for neighbors in listed]


def _walked(rng: np.random.Generator, targets: int, sources: int, largest: int, same: bool = False) -> Rows:
    rows = []
    for u in range(targets):
        others = np.array([v for v in range(sources) if not same or v != u])
        chosen = rng.permutation(others)[: rng.integers(0, largest + 1)]
        visits = rng.integers(1, 20, len(chosen))
        order = np.lexsort((chosen, -visits))
        rows.append((chosen[order].tolist(), visits[order].tolist()))
    return rows


def neighborhoods(rows: Rows) -> Neighborhoods:
    sizes = [len(neighbors) for neighbors, _ in rows]
    return Neighborhoods(
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        np.array([v for neighbors, _ in rows for v in neighbors], np.int32),
        np.array([c for _, visits in rows for c in visits], np.int32),
    )


def random_weights(network: Network, seed: int) -> dict[str, np.ndarray]:
    """Values for every tensor, biases too, so that a forgotten one shows."""
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.4, shape).astype(np.float32) for name, shape in network.tensors().items()}


def embeddings(network: Network, weights: dict[str, np.ndarray], world: World) -> dict[NodeType, np.ndarray]:
    """All nodes' embeddings, as the declaration's documentation says, one node at a time."""
    history: list[dict[NodeType, list[np.ndarray]]] = [{}]
    for one, declared in network.inputs.items():
        vectors = []
        for u in range(world.num_nodes[one]):
            x = world.features[one][u].astype(np.float64)
            for dense in declared.tower:
                x = _dense(x, dense, weights)
            if declared.source != "features":
                row = weights[f"inputs.{one}"][u].astype(np.float64)
                x = row if declared.source == "ids" else row + x
            vectors.append(x)
        history[0][one] = vectors
    for updates in network.layers:
        h = history[-1]
        after = dict(h)
        for update in updates:
            after[update.target] = [
                _updated(update, u, h, weights, world) for u in range(world.num_nodes[update.target])
            ]
        history.append(after)
    out: dict[NodeType, np.ndarray] = {}
    for one, output in network.outputs.items():
        rows = []
        for u in range(world.num_nodes[one]):
            steps = [history[step][one][u] for step in network.steps(one)]
            x = {"last": lambda s: s[-1], "mean": lambda s: sum(s) / len(s), "concat": np.concatenate}[
                output.layers
            ](steps)
            for dense in output.head:
                x = _dense(x, dense, weights)
            x = _unit(x) if output.normalise else x
            alone = network.steps(one) == [0] and network.inputs[one].source == "ids"
            rows.append(np.zeros_like(x) if alone and not history[0][one][u].any() else x)
        out[one] = np.array(rows)
    return out


def _updated(
    update: Update, u: int, h: dict[NodeType, list[np.ndarray]], weights: dict[str, np.ndarray], world: World
) -> np.ndarray:
    rows = world.rows[update.reads]
    neighbors, visits = rows[u]
    inside = [_dense(h[update.source][v], update.project, weights) for v in neighbors]
    width = len(_dense(h[update.source][0], update.project, weights))
    shares = np.ones(len(neighbors))
    if update.pool == "importance":
        shares = np.array(visits) / max(sum(visits), 1)
    elif update.pool == "mean":
        shares = shares / max(len(neighbors), 1)
    if update.degree_exponents is not None:
        a, b = update.degree_exponents
        referenced = [sum(v in listed for listed, _ in rows) for v in neighbors]
        shares = shares / (len(neighbors) ** a * np.array(referenced, float) ** b) if neighbors else shares
    if not inside:
        pooled = np.zeros(width)
    elif update.pool == "max":
        pooled = np.max(inside, axis=0)
    else:
        pooled = sum(w * x for w, x in zip(shares, inside, strict=True))
    if update.combine == "concat":
        x = np.concatenate([h[update.target][u], pooled])
    elif update.combine == "add":
        x = h[update.target][u] + update.pooled_weight * pooled
    elif update.combine == "average":
        x = (h[update.target][u] + pooled) / (1 + len(neighbors))
    else:
        x = pooled
    x = _activated(_linear(x, update.linear, weights), update.activation)
    return _unit(x) if update.normalise else x


def _dense(x: np.ndarray, dense: Dense, weights: dict[str, np.ndarray]) -> np.ndarray:
    return _activated(_linear(x, dense.linear, weights), dense.activation)


def _linear(x: np.ndarray, linear: Linear | None, weights: dict[str, np.ndarray]) -> np.ndarray:
    if linear is None:
        return x
    y = weights[f"{linear.name}.weight"].astype(np.float64) @ x
    return y + weights[f"{linear.name}.bias"] if linear.bias else y


def _activated(x: np.ndarray, activation: str) -> np.ndarray:
    return {"none": lambda v: v, "relu": lambda v: np.where(v > 0, v, 0.0), "tanh": np.tanh}[activation](x)


def _unit(x: np.ndarray) -> np.ndarray:
    length = np.sqrt((x * x).sum())
    return x / length if length > 0 else x
