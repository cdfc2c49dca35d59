"""Three architectures that are not PinSage, each one torch module with its declaration and plain loops.

They prove that the engine runs cards, not models: nothing outside this file knows them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from walkbits.network.declaration import Dense, Input, Linear, Network, Output, Update
from walkbits.types import NodeType

from reference.plain import affine, random_rows, relu, unit

Rows = list[tuple[list[int], list[int]]]
RELATIONS = ("item_from_context", "context_from_item")


@dataclass(frozen=True)
class Bipartite:
    """Items and contexts with features, and the neighborhoods of both."""

    features: dict[NodeType, np.ndarray]
    rows: dict[str, Rows]


def random_bipartite(seed: int, items: int, contexts: int, width: int) -> Bipartite:
    rng = np.random.default_rng(seed)
    return Bipartite(
        {
            "item": rng.standard_normal((items, width)).astype(np.float32),
            "context": rng.standard_normal((contexts, width)).astype(np.float32),
        },
        {
            "item_from_context": random_rows(rng, items, contexts, min(6, contexts), loops=True),
            "context_from_item": random_rows(rng, contexts, items, min(9, items), loops=True),
        },
    )


def incidence(rows: Rows, sources: int) -> Tensor:
    """1 where a target's neighborhood holds a source: fp32 [targets, sources]."""
    matrix = torch.zeros(len(rows), sources)
    for u, (neighbors, _) in enumerate(rows):
        matrix[u, neighbors] = 1
    return matrix


class HashGnn(nn.Module):
    """HashGNN's encoder: mean over a node and its neighbors, two layers, and a hash layer of tanh."""

    width, code_bits = 6, 8

    def __init__(self, graph: Bipartite) -> None:
        super().__init__()
        counts = {node_type: len(rows) for node_type, rows in graph.features.items()}
        self.inputs = nn.ParameterDict(
            {node_type: nn.Parameter(torch.randn(count, self.width)) for node_type, count in counts.items()}
        )
        self.layers = nn.ModuleList(
            nn.ModuleDict({node_type: nn.Linear(self.width, self.width, bias=False) for node_type in counts})
            for _ in range(2)
        )
        self.hash = nn.Linear(self.width, self.code_bits)
        self.network = Network(
            architecture="hashgnn",
            inputs={t: Input(source="ids", width=self.width, count=count) for t, count in counts.items()},
            layers=tuple(
                tuple(
                    Update(
                        relation=relation,
                        pool="sum",
                        combine="average",
                        linear=Linear(
                            name=f"layers.{number}.{relation.split('_')[0]}", size=self.width, bias=False
                        ),
                        activation="relu",
                    )
                    for relation in RELATIONS
                )
                for number in range(2)
            ),
            outputs={
                t: Output(head=(Dense(linear=Linear(name="hash", size=self.code_bits), activation="tanh"),))
                for t in counts
            },
        )

    def forward(self, graph: Bipartite) -> dict[NodeType, Tensor]:
        h = dict(self.inputs.items())
        for layer in self.layers:
            after = {}
            for relation in RELATIONS:
                target, source = relation.split("_from_")
                a = incidence(graph.rows[relation], len(h[source]))
                mean = (h[target] + a @ h[source]) / (1 + a.sum(dim=1, keepdim=True))
                after[target] = F.relu(layer[target](mean))
            h = after
        return {t: torch.tanh(self.hash(one)) for t, one in h.items()}

    @staticmethod
    def plain(graph: Bipartite, weights: dict[str, np.ndarray]) -> dict[NodeType, np.ndarray]:
        h = {t: weights[f"inputs.{t}"].astype(np.float64) for t in ("item", "context")}
        for number in range(2):
            after = {}
            for relation in RELATIONS:
                target, source = relation.split("_from_")
                after[target] = np.array(
                    [
                        relu(
                            affine(
                                weights,
                                f"layers.{number}.{target}",
                                np.mean([h[target][u], *(h[source][v] for v in neighbors)], axis=0),
                            )
                        )
                        for u, (neighbors, _) in enumerate(graph.rows[relation])
                    ]
                )
            h = after
        return {t: np.array([np.tanh(affine(weights, "hash", one)) for one in rows]) for t, rows in h.items()}


class LightGcn(nn.Module):
    """LightGCN: no weights in the layers, degree-normalised sums, the mean of all layers as output."""

    width = 5

    def __init__(self, graph: Bipartite) -> None:
        super().__init__()
        counts = {node_type: len(rows) for node_type, rows in graph.features.items()}
        self.inputs = nn.ParameterDict(
            {node_type: nn.Parameter(torch.randn(count, self.width)) for node_type, count in counts.items()}
        )
        self.network = Network(
            architecture="lightgcn",
            inputs={t: Input(source="ids", width=self.width, count=count) for t, count in counts.items()},
            layers=tuple(
                tuple(
                    Update(relation=relation, pool="sum", degree_normalised=True, combine="pooled")
                    for relation in RELATIONS
                )
                for _ in range(3)
            ),
            outputs={t: Output(layers="mean") for t in counts},
        )

    def forward(self, graph: Bipartite) -> dict[NodeType, Tensor]:
        layers = [dict(self.inputs.items())]
        for _ in range(3):
            after = {}
            for relation in RELATIONS:
                target, source = relation.split("_from_")
                a = incidence(graph.rows[relation], len(layers[-1][source]))
                out, into = a.sum(dim=1, keepdim=True).clamp(min=1), a.sum(dim=0).clamp(min=1)
                after[target] = a / torch.sqrt(out * into) @ layers[-1][source]
            layers.append(after)
        return {t: torch.stack([layer[t] for layer in layers]).mean(dim=0) for t in layers[0]}

    @staticmethod
    def plain(graph: Bipartite, weights: dict[str, np.ndarray]) -> dict[NodeType, np.ndarray]:
        layers = [{t: weights[f"inputs.{t}"].astype(np.float64) for t in ("item", "context")}]
        for _ in range(3):
            after = {}
            for relation in RELATIONS:
                target, source = relation.split("_from_")
                rows = graph.rows[relation]
                referenced = np.bincount([v for neighbors, _ in rows for v in neighbors], minlength=1)
                after[target] = np.array(
                    [
                        sum(
                            (layers[-1][source][v] / np.sqrt(len(n) * referenced[v]) for v in n),
                            np.zeros(LightGcn.width),
                        )
                        for n, _ in rows
                    ]
                )
            layers.append(after)
        return {t: np.mean([layer[t] for layer in layers], axis=0) for t in layers[0]}


class TwoTower(nn.Module):
    """Two towers over features and no graph layer."""

    def __init__(self, graph: Bipartite) -> None:
        super().__init__()
        widths = {node_type: rows.shape[1] for node_type, rows in graph.features.items()}
        self.towers = nn.ModuleDict(
            {t: nn.ModuleList([nn.Linear(width, 7), nn.Linear(7, 4)]) for t, width in widths.items()}
        )
        self.network = Network(
            architecture="two_tower",
            inputs={t: Input(source="features", width=width) for t, width in widths.items()},
            outputs={
                t: Output(
                    head=(
                        Dense(linear=Linear(name=f"towers.{t}.0", size=7), activation="relu"),
                        Dense(linear=Linear(name=f"towers.{t}.1", size=4)),
                    ),
                    normalise=True,
                )
                for t in widths
            },
        )

    def forward(self, graph: Bipartite) -> dict[NodeType, Tensor]:
        out = {}
        for t, rows in graph.features.items():
            first, second = self.towers[t]
            out[t] = F.normalize(second(F.relu(first(torch.from_numpy(rows)))), dim=1)
        return out

    @staticmethod
    def plain(graph: Bipartite, weights: dict[str, np.ndarray]) -> dict[NodeType, np.ndarray]:
        return {
            t: np.array(
                [
                    unit(affine(weights, f"towers.{t}.1", relu(affine(weights, f"towers.{t}.0", x))))
                    for x in rows
                ]
            )
            for t, rows in graph.features.items()
        }


ARCHITECTURES = (HashGnn, LightGcn, TwoTower)
