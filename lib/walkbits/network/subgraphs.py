"""Minibatch subgraphs: the nodes below some targets, numbered anew, each computed once per hop.

One process builds them from mapped arrays, for any declared network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import njit

from walkbits.network.arithmetic import degree_weights, pool_weights
from walkbits.network.declaration import Network, Update
from walkbits.types import F32, I32, I64, NodeType


@dataclass(frozen=True)
class Neighborhoods:
    """Neighborhoods of all targets as one CSR: row u is `neighbors[indptr[u]:indptr[u + 1]]`.

    Attributes:
        indptr: int64 [targets + 1].
        neighbors: int32 [indptr[-1]], visits descending then index ascending in each row.
        visits: int32 [indptr[-1]]; of edges, ones.
    """

    indptr: I64
    neighbors: I32
    visits: I32

    def heaviest(self, count: int) -> Neighborhoods:
        """The first `count` neighbors of each row: the most visited ones."""
        sizes = np.minimum(np.diff(self.indptr), count)  # [targets]
        indptr = np.concatenate([[0], np.cumsum(sizes)])
        within = np.arange(indptr[-1]) - np.repeat(indptr[:-1], sizes)
        kept = np.repeat(self.indptr[:-1], sizes) + within
        return Neighborhoods(indptr, self.neighbors[kept], self.visits[kept])

    def weights(self, update: Update, sources: int) -> F32:
        """What each neighbor counts in an update: fp32 [indptr[-1]]."""
        weights = pool_weights(self.indptr, self.visits, update.pool)
        if update.degree_exponents is None:
            return weights
        return degree_weights(
            weights, self.indptr, self.references(sources)[self.neighbors], update.degree_exponents
        )

    def references(self, sources: int) -> F32:
        """Neighborhoods that hold each source: fp32 [sources]."""
        return np.bincount(self.neighbors, minlength=sources).astype(np.float32)


@dataclass(frozen=True)
class Hop:
    """One update's neighborhoods in a minibatch, numbered anew.

    Attributes:
        indptr: int64 [targets + 1], from 0.
        neighbors: int64 [indptr[-1]], rows of the sources.
        weights: fp32 [indptr[-1]].
    """

    indptr: I64
    neighbors: I64
    weights: F32


@dataclass(frozen=True)
class Subgraph:
    """What a minibatch needs to embed its targets.

    The nodes of a type after a layer are the first ones of those before it.

    Attributes:
        nodes: int32 per node type with an input, whose h^0 is read.
        layers: In the order in which they are applied: the hop of each updated node type.
        sizes: Nodes of each type before the first layer, after the first, ..., after the last.
    """

    nodes: Mapping[NodeType, I32]
    layers: tuple[Mapping[NodeType, Hop], ...]
    sizes: tuple[Mapping[NodeType, int], ...]


@dataclass(frozen=True)
class Histories:
    """Contexts made of some of their items, one for each example.

    Attributes:
        indptr: int64 [examples + 1], from 0.
        items: int32 [indptr[-1]].
    """

    indptr: I64
    items: I32


class _Nodes:
    """The nodes of one type in a minibatch, in order of first appearance."""

    def __init__(self, count: int) -> None:
        self.position = np.full(count, -1, np.int32)
        self.nodes = np.empty(count, np.int32)
        self.size = 0

    def enter(self, nodes: I32) -> I64:
        """Number the nodes that are new; the number of each."""
        rows = np.empty(len(nodes), np.int64)
        self.size = int(_enter(nodes, self.position, self.nodes, self.size, rows))
        return rows

    def clear(self) -> None:
        self.position[self.nodes[: self.size]] = -1
        self.size = 0


@dataclass
class SubgraphBuilder:
    """Builds the subgraphs of one network.

    Attributes:
        relations: Neighborhoods by `Update.reads`.
        num_nodes: Nodes per type.
    """

    network: Network
    relations: Mapping[str, Neighborhoods]
    num_nodes: Mapping[NodeType, int]
    _weights: dict[tuple[int, NodeType], F32] = field(init=False)
    _types: dict[NodeType, _Nodes] = field(init=False)

    def __post_init__(self) -> None:
        self._types = {one: _Nodes(count) for one, count in self.num_nodes.items()}
        by_update: dict[str, F32] = {}
        self._weights = {}
        for number, updates in enumerate(self.network.layers):
            for one in updates:
                what = f"{one.reads} {one.pool} {one.degree_exponents}"
                if what not in by_update:
                    by_update[what] = self.relations[one.reads].weights(one, self.num_nodes[one.source])
                self._weights[number, one.target] = by_update[what]
        self._item_references: F32 | None = None

    def build(
        self, wanted: Mapping[NodeType, I32], histories: Histories | None = None
    ) -> tuple[Subgraph, dict[NodeType, I64]]:
        """The subgraph below some nodes, which may repeat.

        Args:
            wanted: int32 [n] per node type.
            histories: The contexts that the last layer makes, instead of those of the graph; the network
                then has no other layer or input of contexts.

        Returns:
            The subgraph and, int64 [n] per type, each node's row among its targets.
        """
        types = self._types
        rows = {one: types[one].enter(nodes) for one, nodes in wanted.items()}
        made = None if histories is None else len(histories.indptr) - 1
        sizes, layers = [], []
        for number in reversed(range(len(self.network.layers))):
            size = {one: nodes.size for one, nodes in types.items()}
            if made is not None:
                size["context"] = made if number == len(self.network.layers) - 1 else 0
            sizes.append(size)
            hops: dict[NodeType, Hop] = {}
            for update in self.network.layers[number]:
                if made is not None and update.target == "context":
                    assert histories is not None
                    hops["context"] = self._made(update, histories)
                else:
                    hops[update.target] = self._hop(number, update, size[update.target])
            layers.append(hops)
        before: dict[NodeType, int] = {one: nodes.size for one, nodes in types.items()}
        nodes = {one: types[one].nodes[: types[one].size].copy() for one in self.network.inputs}
        for one in types.values():
            one.clear()
        return Subgraph(nodes, tuple(reversed(layers)), (before, *reversed(sizes))), rows

    def _hop(self, number: int, update: Update, size: int) -> Hop:
        graph, sources = self.relations[update.reads], self._types[update.source]
        targets = self._types[update.target].nodes[:size]
        edges = int((graph.indptr[targets + 1] - graph.indptr[targets]).sum())
        indptr = np.empty(size + 1, np.int64)
        neighbors, weights = np.empty(edges, np.int64), np.empty(edges, np.float32)
        sources.size = int(
            _expand(
                graph.indptr, graph.neighbors, self._weights[number, update.target], targets,
                sources.position, sources.nodes, sources.size, indptr, neighbors, weights,
            )
        )  # fmt: skip
        return Hop(indptr, neighbors, weights)

    def _made(self, update: Update, histories: Histories) -> Hop:
        neighbors = self._types[update.source].enter(histories.items)
        ones = np.ones(len(neighbors), np.int32)
        weights = pool_weights(histories.indptr, ones, update.pool)
        if update.degree_exponents is not None:
            if self._item_references is None:
                self._item_references = self.relations[update.reads].references(self.num_nodes[update.source])
            references = self._item_references[histories.items]
            weights = degree_weights(weights, histories.indptr, references, update.degree_exponents)
        return Hop(histories.indptr, neighbors, weights)


def whole_graph(
    network: Network, relations: Mapping[str, Neighborhoods], num_nodes: Mapping[NodeType, int]
) -> Subgraph:
    """All nodes at their own numbers: what the layers read when they run over the whole graph."""
    layers: list[dict[NodeType, Hop]] = []
    for updates in network.layers:
        hops: dict[NodeType, Hop] = {}
        for one in updates:
            graph = relations[one.reads]
            weights = graph.weights(one, num_nodes[one.source])
            hops[one.target] = Hop(graph.indptr.astype(np.int64), graph.neighbors.astype(np.int64), weights)
        layers.append(hops)
    nodes: dict[NodeType, I32] = {one: np.arange(num_nodes[one], dtype=np.int32) for one in network.inputs}
    return Subgraph(nodes, tuple(layers), (dict(num_nodes),) * (len(layers) + 1))


@njit(nogil=True, cache=True)
def _enter(nodes: Any, position: Any, sources: Any, size: Any, rows: Any) -> Any:
    """Number nodes in order of first appearance."""
    for i in range(len(nodes)):
        node = nodes[i]
        if position[node] < 0:
            position[node] = size
            sources[size] = node
            size += 1
        rows[i] = position[node]
    return size


@njit(nogil=True, cache=True)
def _expand(
    all_indptr: Any, all_neighbors: Any, all_weights: Any, targets: Any,
    position: Any, sources: Any, size: Any, indptr: Any, neighbors: Any, weights: Any,
) -> Any:  # fmt: skip
    """One hop: the rows of the targets, their neighbors numbered after the sources that are there."""
    e = 0
    indptr[0] = 0
    for u in range(len(targets)):
        for full in range(all_indptr[targets[u]], all_indptr[targets[u] + 1]):
            node = all_neighbors[full]
            if position[node] < 0:
                position[node] = size
                sources[size] = node
                size += 1
            neighbors[e] = position[node]
            weights[e] = all_weights[full]
            e += 1
        indptr[u + 1] = e
    return size


@njit(nogil=True, cache=True)
def gather_rows(matrix: Any, rows: Any, out: Any) -> None:
    """`out[i] = matrix[rows[i]]`, without holding the interpreter: a mapped file may have to be read."""
    for i in range(len(rows)):
        for k in range(matrix.shape[1]):
            out[i, k] = matrix[rows[i], k]


@njit(nogil=True, cache=True)
def histories_without(
    all_indptr: Any,
    all_items: Any,
    contexts: Any,
    positives: Any,
    most: Any,
    offsets: Any,
    indptr: Any,
    items: Any,
) -> Any:
    """Items of each example's context but its positive, `most` at the most, evenly spread from an offset.

    Args:
        contexts: int32 [examples].
        positives: int32 [examples].
        offsets: fp64 [examples], below 1: where the sample of a long history begins.
        indptr: int64 [examples + 1], written.
        items: int32, written; room for `most` per example.

    Returns:
        Items written.
    """
    e = 0
    indptr[0] = 0
    for i in range(len(contexts)):
        low, high = all_indptr[contexts[i]], all_indptr[contexts[i] + 1]
        place = high  # of the positive, where the row holds it
        for k in range(low, high):
            if all_items[k] == positives[i]:
                place = k
                break
        count = high - low - (place < high)
        taken = min(count, most)
        for k in range(taken):
            at = low + (k if taken == count else np.int64((k + offsets[i]) * count / taken))
            items[e] = all_items[at + (at >= place)]
            e += 1
        indptr[i + 1] = e
    return e


@njit(nogil=True, cache=True)
def mark_known(
    all_indptr: Any, all_items: Any, contexts: Any, candidates: Any, columns: Any, known: Any
) -> None:
    """Set `known` where a candidate is an item of the example's context.

    Args:
        contexts: int32 [examples].
        candidates: int32 [candidates], ascending; they may repeat.
        columns: int64 [candidates], where each stands in `known`.
        known: bool [examples, candidates], written.
    """
    for i in range(len(contexts)):
        for k in range(all_indptr[contexts[i]], all_indptr[contexts[i] + 1]):
            at = np.searchsorted(candidates, all_items[k])
            while at < len(candidates) and candidates[at] == all_items[k]:
                known[i, columns[at]] = True
                at += 1
