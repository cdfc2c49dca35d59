"""Minibatches: which examples, which candidates, and the subgraph below them, built ahead of their use."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from walkbits import rng
from walkbits.models.base import Sgd
from walkbits.network.declaration import Network
from walkbits.network.module import Hops, hops_of
from walkbits.network.subgraphs import (
    Histories,
    Neighborhoods,
    Subgraph,
    SubgraphBuilder,
    gather_rows,
    histories_without,
    mark_known,
    whole_graph,
)
from walkbits.settings import NegativeSampling, Training
from walkbits.training.arrays import TrainingData
from walkbits.training.examples import Examples, below
from walkbits.types import F32, I32, I64, Bools, NodeType

_ORDER_TAG: Final = int.from_bytes(b"order", "big")
_NEGATIVES_TAG: Final = int.from_bytes(b"negative", "big") >> 1
_HISTORY_TAG: Final = int.from_bytes(b"history", "big")


@dataclass(frozen=True)
class Batch:
    """A minibatch; rows point into the module's embeddings.

    Attributes:
        nodes: int32 per type with an input: whose h^0 is read.
        features: fp32 [nodes, width] per type whose input reads them.
        hops: Of each layer.
        sizes: As in `Subgraph`.
        query: int64 [examples], rows of `query_type`.
        positive: int64 [examples], rows of items.
        shared: int64 [candidates], rows of items.
        own: int64 [examples, own candidates], rows of items.
        allowed: bool [examples, candidates + own candidates].
        log_q: fp32 [candidates + own candidates], where the loss corrects for it.
        positive_log_q: fp32 [examples], likewise.
    """

    nodes: Mapping[NodeType, I32]
    features: Mapping[NodeType, Tensor]
    hops: Hops
    sizes: tuple[Mapping[NodeType, int], ...]
    query: Tensor
    positive: Tensor
    shared: Tensor
    own: Tensor
    allowed: Tensor
    log_q: Tensor | None
    positive_log_q: Tensor | None

    @property
    def size(self) -> int:
        """Examples."""
        return len(self.query)


class Feeder:
    """Minibatches in keyed order, one ahead of the consumer.

    Attributes:
        waited: Seconds for which the consumer had no minibatch ready.
    """

    def __init__(
        self,
        network: Network,
        data: TrainingData,
        fit: Sgd,
        training: Training,
        seed: int,
        device: torch.device,
    ) -> None:
        self._network, self._data, self._fit, self._training = network, data, fit, training
        self._seed, self._device = seed, device
        self.waited = 0.0
        self._sampling: NegativeSampling = training.negative_sampling or fit.negative_sampling
        self.query_type: NodeType = "item" if fit.examples == "pairs" else "context"
        self._frequency = self._log_frequency() if training.logq_correction != "none" else None
        self._whole: tuple[Subgraph, Hops, dict[NodeType, Tensor]] | None = None
        if fit.whole_graph:
            graph = whole_graph(network, data.relations, data.num_nodes)
            self._whole = graph, hops_of(network, graph, device), self._features(graph)
        else:
            self._builder = SubgraphBuilder(network, data.relations, data.num_nodes)

    def steps(self) -> int:
        """Minibatches of an epoch."""
        return -(-len(self._data.examples.query) // self._training.batch_size)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """An epoch's minibatches from step `first` on; they do not depend on those before."""
        keys = rng.draw(self._seed ^ _ORDER_TAG, np.arange(len(self._data.examples.query)), epoch)
        order, size = np.argsort(keys, kind="stable"), self._training.batch_size
        with ThreadPoolExecutor(max_workers=1) as ahead:
            pending: Future[Batch] | None = None
            for step in range(first, self.steps() + 1):
                ready, pending = pending, None
                if step < self.steps():
                    chosen = order[step * size : (step + 1) * size]
                    pending = ahead.submit(self._batch, epoch, step, chosen)
                if ready is not None:
                    began = time.monotonic()
                    batch = ready.result()
                    self.waited += time.monotonic() - began
                    yield batch

    def over(self, examples: Examples, seed: int) -> Feeder:
        """The same graph with other examples and draws. One at a time of the two may be read."""
        other = copy(self)
        other._data, other._seed = replace(self._data, examples=examples), seed
        return other

    def _batch(self, epoch: int, step: int, chosen: I64) -> Batch:
        query, positive = self._data.examples.query[chosen], self._data.examples.positive[chosen]
        negative = self._negatives(epoch, step)  # [negatives]
        hard = self._hard(query, chosen, epoch)  # [examples, hard negatives]
        own_queries = query if self.query_type == "item" else query[:0]
        items = np.concatenate([own_queries, positive, negative, hard.reshape(-1)]).astype(np.int32)
        subgraph, hops, features, rows, query_rows = self._below(items, query, positive, epoch, step)
        at = torch.from_numpy(rows).to(self._device)
        first, n = len(own_queries), len(positive)
        rest = first + n + len(negative)
        positive_at, negative_at, hard_at = (
            at[first : first + n],
            at[first + n : rest],
            at[rest:].view(hard.shape),
        )
        query_at = at[:n] if self.query_type == "item" else torch.from_numpy(query_rows).to(self._device)
        shared = {"uniform": [negative_at], "in_batch": [positive_at], "mixed": [positive_at, negative_at]}
        shared_at = torch.cat(shared[self._sampling])
        by_sampling = {"uniform": [negative], "in_batch": [positive], "mixed": [positive, negative]}
        shared_items = np.concatenate(by_sampling[self._sampling])
        allowed = self._allowed(query_at, positive_at, shared_at, hard_at)
        if self._fit.leave_out and self._training.remove_accidental_hits:
            known = torch.from_numpy(self._known(query, shared_items)).to(self._device)
            allowed[:, : len(shared_items)] &= ~known
        log_q = self._log_q(shared_items, n, hard.shape[1])
        positive_log_q = None if log_q is None else self._log_q(positive, n, 0)
        return Batch(
            subgraph.nodes, features, hops, subgraph.sizes, query_at, positive_at, shared_at, hard_at,
            allowed, log_q, positive_log_q,
        )  # fmt: skip

    def _below(
        self, items: I32, query: I32, positive: I32, epoch: int, step: int
    ) -> tuple[Subgraph, Hops, dict[NodeType, Tensor], I64, I64]:
        """Subgraph, hops, features, the items' rows and the queries' rows."""
        if self._whole is not None:
            return *self._whole, items.astype(np.int64), query.astype(np.int64)
        wanted: dict[NodeType, I32] = {"item": items}
        histories = None
        if self._fit.leave_out:
            histories = self._histories(query, positive, epoch, step)
        elif self.query_type == "context":
            wanted["context"] = query
        subgraph, rows = self._builder.build(wanted, histories)
        made = np.arange(len(query)) if histories is not None else rows.get("context", rows["item"][:0])
        return (
            subgraph,
            hops_of(self._network, subgraph, self._device),
            self._features(subgraph),
            rows["item"],
            made,
        )

    def _histories(self, query: I32, positive: I32, epoch: int, step: int) -> Histories:
        graph, most = self._contents(), self._training.max_history
        offsets = rng.uniform(rng.draw(self._seed ^ _HISTORY_TAG, np.arange(len(query)), epoch, step))
        indptr, items = np.empty(len(query) + 1, np.int64), np.empty(len(query) * most, np.int32)
        count = histories_without(
            graph.indptr, graph.neighbors, query, positive, most, offsets, indptr, items
        )
        return Histories(indptr, items[:count])

    def _known(self, query: I32, items: I32) -> Bools:
        """Which candidates the examples' contexts hold: bool [examples, candidates]."""
        graph, order = self._contents(), np.argsort(items, kind="stable")
        known = np.zeros((len(query), len(items)), np.bool_)
        mark_known(graph.indptr, graph.neighbors, query, items[order], order, known)
        return known

    def _contents(self) -> Neighborhoods:
        """The items of each context, where contexts are made of them."""
        (update,) = (one for one in self._network.layers[-1] if one.target == "context")
        return self._data.relations[update.reads]

    def _features(self, subgraph: Subgraph) -> dict[NodeType, Tensor]:
        found: dict[NodeType, Tensor] = {}
        for one, declared in self._network.inputs.items():
            if declared.feature_width is not None:
                gathered = np.empty((len(subgraph.nodes[one]), declared.feature_width), np.float32)
                gather_rows(self._data.features[one], subgraph.nodes[one], gathered)
                found[one] = torch.from_numpy(gathered).to(self._device)
        return found

    def _negatives(self, epoch: int, step: int) -> I32:
        if self._sampling == "in_batch":
            return np.empty(0, np.int32)
        draws = rng.draw(self._seed ^ _NEGATIVES_TAG, np.arange(self._training.num_negatives), epoch, step)
        return below(draws, self._data.num_nodes["item"]).astype(np.int32)

    def _hard(self, query: I32, chosen: I64, epoch: int) -> I32:
        """Hard negatives of the pairs, one more in each epoch: int32 [examples, hard negatives]."""
        hard, found = self._training.hard_negatives, self._data.hard_negatives
        if hard is None or found is None:
            return np.empty((len(query), 0), np.int32)
        return found.choose(query, chosen, epoch, min(epoch, hard.per_pair), self._seed)

    def _allowed(self, query: Tensor, positive: Tensor, shared: Tensor, hard: Tensor) -> Tensor:
        def differs(rows: Tensor) -> Tensor:  # [examples, candidates]
            return torch.cat([rows[:, None] != shared, rows[:, None] != hard], dim=1)

        if self._training.remove_accidental_hits:
            allowed = differs(positive)
        else:
            allowed = torch.ones_like(differs(positive))
            if self._sampling != "uniform":
                allowed[:, : len(positive)].fill_diagonal_(False)
        return allowed & differs(query) if self.query_type == "item" else allowed

    def _log_frequency(self) -> F32:
        """Log of each item's share of the positives, one added to each: fp32 [items]."""
        count = np.bincount(self._data.examples.positive, minlength=self._data.num_nodes["item"]) + 1.0
        return np.asarray(np.log(count / count.sum()), np.float32)

    def _log_q(self, items: I32, examples: int, own: int) -> Tensor | None:
        """Log of the chance of each candidate among the candidates that are drawn."""
        if self._frequency is None:
            return None
        drawn = 0 if self._sampling == "in_batch" else self._training.num_negatives
        in_batch = 0 if self._sampling == "uniform" else examples
        share = np.exp(self._frequency[items]) * in_batch + drawn / self._data.num_nodes["item"]
        log_q = np.log(share / max(in_batch + drawn, 1))
        return torch.from_numpy(np.concatenate([log_q, np.zeros(own)]).astype(np.float32)).to(self._device)
