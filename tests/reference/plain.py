"""Plain per-node networks in float64 loops: what every fast path is held to, and graphs to try it on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from walkbits.models.pinsage import PinSage
from walkbits.network.subgraphs import Neighborhoods


@dataclass(frozen=True)
class Graph:
    """A small relation with features: `rows[u]` is (neighbors, visits) of target u."""

    features: np.ndarray
    rows: list[tuple[list[int], list[int]]]

    @property
    def arrays(self) -> Neighborhoods:
        sizes = [len(neighbors) for neighbors, _ in self.rows]
        return Neighborhoods(
            np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            np.array([v for neighbors, _ in self.rows for v in neighbors], np.int32),
            np.array([c for _, visits in self.rows for c in visits], np.int32),
        )


def packed(values: list[int]) -> bytes:
    """A list as the neighborhoods table holds it."""
    return np.array(values, "<i4").tobytes()


def unpacked(row: bytes) -> list[int]:
    """The inverse of `packed`."""
    return np.frombuffer(row, "<i4").tolist()


def random_rows(
    rng: np.random.Generator, targets: int, sources: int, largest: int, loops: bool = False
) -> list[tuple[list[int], list[int]]]:
    """Neighborhoods of 0 to `largest` sources, visits descending then index ascending."""
    rows = []
    for u in range(targets):
        others = np.array([v for v in range(sources) if loops or v != u])
        chosen = rng.permutation(others)[: rng.integers(0, largest + 1)]
        visits = rng.integers(1, 20, len(chosen))
        order = np.lexsort((chosen, -visits))
        rows.append((chosen[order].tolist(), visits[order].tolist()))
    return rows


def random_graph(seed: int, nodes: int, width: int, largest: int) -> Graph:
    """item_from_item neighborhoods with features; some nodes are isolated, one has zero features."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((nodes, width)).astype(np.float32)
    features[nodes // 2] = 0
    return Graph(features, random_rows(rng, nodes, nodes, largest))


def hub_graph(seed: int, nodes: int, width: int, largest: int) -> Graph:
    """`random_graph` where almost every neighborhood also holds nodes 0 and 1."""
    graph = random_graph(seed, nodes, width, largest)
    rows = []
    for u, (neighbors, visits) in enumerate(graph.rows):
        hubs = [] if u % 10 == 9 else [v for v in (0, 1) if v != u and v not in neighbors]
        rows.append((hubs + neighbors, [20] * len(hubs) + visits))
    return Graph(graph.features, rows)


def relu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.0)


def unit(x: np.ndarray) -> np.ndarray:
    length = np.sqrt((x * x).sum())
    return x / length if length > 0 else x


def affine(weights: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    y = weights[f"{name}.weight"].astype(np.float64) @ x
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def pool_one(vectors: list[np.ndarray], visits: list[int], pooling: str, width: int) -> np.ndarray:
    """gamma of algorithm 1 for one node."""
    if not vectors:
        return np.zeros(width)
    if pooling == "importance":
        return sum(a * x for a, x in zip(visits, vectors, strict=True)) / sum(visits)
    return np.max(vectors, axis=0) if pooling == "max" else sum(vectors) / len(vectors)


def algorithm_2(
    graph: Graph, weights: dict[str, np.ndarray], model: PinSage, minibatch: list[int]
) -> np.ndarray:
    """PinSage's algorithm 2 for some items, sets and loops as printed. fp64 [items, embedding_size]."""
    needed = [set(minibatch)]
    for _ in range(model.num_layers):
        needed.append(needed[-1] | {v for u in needed[-1] for v in graph.rows[u][0]})
    h = {u: graph.features[u].astype(np.float64) for u in needed[-1]}
    for number, targets in enumerate(reversed(needed[:-1])):
        name = f"layers.{number}"
        after = {}
        for u in targets:
            neighbors, visits = graph.rows[u]
            inside = [relu(affine(weights, f"{name}.project", h[v])) for v in neighbors]
            pooled = pool_one(inside, visits, model.pooling, model.hidden_size)
            after[u] = unit(relu(affine(weights, f"{name}.combine", np.concatenate([h[u], pooled]))))
        h = after
    return np.array(
        [unit(affine(weights, "head.1", relu(affine(weights, "head.0", h[u])))) for u in minibatch]
    )
