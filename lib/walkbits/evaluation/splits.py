"""Splits of edges into what a model may see and what it is asked for.

A split is arrays of indices: no Spark, no names. Every task is "rank all items for each query,
given the query's history": of `context_to_item` a query is a context and its history are the items
that remain to it, of `item_to_item` a query is an item and its own history. Rankings leave the
history out.

Draws are keyed by node, so a split depends on neither the order of the edges nor on other nodes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal

import numpy as np
from scipy import sparse

from walkbits import rng
from walkbits.errors import ConfigError, EmptyInputError, InputError
from walkbits.types import F32, I64

Task = Literal["context_to_item", "item_to_item"]

_HOLDOUT: Final = int.from_bytes(b"holdout", "big")
_PAIRS: Final = int.from_bytes(b"pairs", "big")


@dataclass(frozen=True)
class Edges:
    """Unique (context, item) pairs in ascending order, whatever the order they are given in.

    Attributes:
        context: int64 [edges].
        item: int64 [edges].
        num_contexts: Contexts in all, with or without an edge.
        num_items: Items in all: the catalogue that is ranked.
        time: int64 [edges] in any unit, of the pair's last event; None where unknown.
        context_key: int64 [num_contexts], what a context's draws are keyed by; its index when left out.
        item_key: int64 [num_items], likewise.
    """

    context: I64
    item: I64
    num_contexts: int
    num_items: int
    time: I64 | None = None
    context_key: I64 | None = None
    item_key: I64 | None = None

    def __post_init__(self) -> None:
        context, item = np.asarray(self.context, np.int64), np.asarray(self.item, np.int64)
        bounds = (("context", context, self.num_contexts), ("item", item, self.num_items))
        for name, values, size in bounds:
            if len(values) and (values.min() < 0 or values.max() >= size):
                seen = f"{values.min()}..{values.max()}"
                raise InputError(f"{name} must be an index in 0..{size - 1}, got {seen}; rerun ingest")
        pair = context * self.num_items + item
        # The last of equal pairs is the latest one.
        order = np.argsort(pair, kind="stable") if self.time is None else np.lexsort((self.time, pair))
        last = np.append(np.diff(pair[order]) > 0, True)[: len(order)]
        kept = order[last]
        object.__setattr__(self, "context", context[kept])
        object.__setattr__(self, "item", item[kept])
        if self.time is not None:
            object.__setattr__(self, "time", np.asarray(self.time, np.int64)[kept])

    def __len__(self) -> int:
        return len(self.context)

    def where(self, chosen: I64 | np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Edges:
        """Some of the edges, by position or mask, among the same contexts and items."""
        time = None if self.time is None else self.time[chosen]
        return replace(self, context=self.context[chosen], item=self.item[chosen], time=time)

    @cached_property
    def matrix(self) -> sparse.csr_array:
        """fp32 0/1 [num_contexts, num_items], indices ascending within a row."""
        return sparse.csr_array(
            (np.ones(len(self), np.float32), self.item, self.indptr),
            shape=(self.num_contexts, self.num_items),
        )

    @property
    def indptr(self) -> I64:
        """Where each context's edges begin: int64 [num_contexts + 1]."""
        return np.searchsorted(self.context, np.arange(self.num_contexts + 1)).astype(np.int64)

    def draws(self, seed: int, tag: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        """A keyed draw of each edge: uint64 [edges]."""
        context = self.context if self.context_key is None else self.context_key[self.context]
        item = self.item if self.item_key is None else self.item_key[self.item]
        return rng.draw(seed ^ tag, context, item)


@dataclass(frozen=True)
class Split:
    """What a model may train on, the queries, and the items that answer them.

    Attributes:
        name: How it was made: leave_one_out, random, temporal or given.
        edges: The training edges.
        queries: int64 [queries], contexts or, of item_to_item, items.
        relevant: indptr int64 [queries + 1] and items int64, ascending within a query. No query is without
            one, and none is among the query's history.
        task: What a query is.
    """

    name: str
    edges: Edges
    queries: I64
    relevant: tuple[I64, I64]
    task: Task = "context_to_item"

    @property
    def train(self) -> sparse.csr_array:
        """fp32 0/1 [contexts, items] of the training edges, indices ascending within a row."""
        return self.edges.matrix

    @property
    def num_items(self) -> int:
        """The catalogue that every ranking is over."""
        return self.edges.num_items

    @cached_property
    def popularity(self) -> I64:
        """Contexts of each item among the training edges: int64 [items]."""
        return np.bincount(self.edges.item, minlength=self.num_items)

    @cached_property
    def history(self) -> sparse.csr_array:
        """What is known of each query: fp32 0/1 [queries, items], indices ascending within a row."""
        if self.task == "context_to_item":
            rows = self.train[self.queries]
            rows.sort_indices()
            return rows
        ones = np.ones(len(self.queries), np.float32)
        indptr = np.arange(len(self.queries) + 1)
        return sparse.csr_array((ones, self.queries, indptr), shape=(len(self.queries), self.num_items))

    @cached_property
    def masked(self) -> tuple[I64, I64]:
        """Items that must not appear in a query's ranking: indptr [queries + 1] and items ascending."""
        return self.history.indptr.astype(np.int64), self.history.indices.astype(np.int64)

    # -- makers ------------------------------------------------------------------------------------

    @classmethod
    def given(cls, train: Edges, test: Edges, name: str = "given") -> Split:
        """Two sets of edges over the same nodes; test edges that train holds as well do not count.

        Contexts without a training edge stay queries: their history is empty.

        Raises:
            EmptyInputError: no edge remains on one of the sides.
            InputError: the two differ in the number of contexts or items.
        """
        if (train.num_contexts, train.num_items) != (test.num_contexts, test.num_items):
            raise InputError(
                f"train and test must share contexts and items, got {train.num_contexts} x {train.num_items} "
                f"and {test.num_contexts} x {test.num_items}; index both by the union of their ids"
            )
        seen = np.isin(_pairs(test), _pairs(train), assume_unique=True)
        test = test.where(~seen)
        if not len(train) or not len(test):
            raise EmptyInputError(
                f"evaluation must have training and held-out edges, got {len(train)} and {len(test)}; "
                "hold out less, or give a test table with other edges"
            )
        queries = np.unique(test.context)
        indptr = np.append(np.searchsorted(test.context, queries), len(test)).astype(np.int64)
        return cls(name, train, queries, (indptr, test.item))

    @classmethod
    def leave_one_out(cls, edges: Edges, seed: int, contexts: int = 20_000, min_items: int = 5) -> Split:
        """One drawn item of each of `contexts` drawn contexts that have at least `min_items`."""
        order = np.lexsort((edges.item, edges.draws(seed, _HOLDOUT), edges.context))
        sizes = np.diff(edges.indptr)
        chosen = np.flatnonzero(sizes >= min_items)
        key = chosen if edges.context_key is None else edges.context_key[chosen]
        chosen = chosen[np.lexsort((chosen, rng.draw(seed ^ _HOLDOUT, key)))[:contexts]]
        held = order[edges.indptr[chosen]]
        return cls._without(edges, held, "leave_one_out")

    @classmethod
    def random(cls, edges: Edges, fraction: float, seed: int) -> Split:
        """floor(`fraction` * items) drawn items of every context."""
        order = np.lexsort((edges.item, edges.draws(seed, _HOLDOUT), edges.context))
        return cls._without(edges, order[_last_of_each(edges, _checked(fraction))], "random")

    @classmethod
    def temporal(cls, edges: Edges, fraction: float, within: Literal["all", "context"] = "all") -> Split:
        """The last edges by time.

        Args:
            edges: with times.
            fraction: Share that is held out.
            within: all: the last floor(fraction * edges) of all edges, so that nothing of the future is
                trained on, and only contexts that go on after the cut are asked for. context: the last
                floor(fraction * items) of each context, where contexts hardly overlap in time.

        Raises:
            ConfigError: the edges have no times.
        """
        if edges.time is None:
            raise ConfigError(
                "a temporal split must have edges with times, got none; set interactions.timestamp"
            )
        if within == "context":
            order = np.lexsort((edges.item, edges.time, edges.context))
            return cls._without(edges, order[_last_of_each(edges, _checked(fraction))], "temporal")
        order = np.lexsort((edges.item, edges.context, edges.time))
        held = order[len(order) - int(_checked(fraction) * len(order)) :]
        split = cls._without(edges, held, "temporal")
        known = np.flatnonzero(np.diff(split.masked[0]))
        if not len(known):
            raise EmptyInputError(
                "a temporal split must leave contexts on both sides of the cut, got none; "
                "split within contexts"
            )
        return split.some(known)

    @classmethod
    def _without(cls, edges: Edges, held: I64, name: str) -> Split:
        out = np.zeros(len(edges), np.bool_)
        out[held] = True
        return cls.given(edges.where(~out), edges.where(out), name)

    # -- other views of a split --------------------------------------------------------------------

    def validation(self, fraction: float, seed: int) -> Split:
        """A split of the training edges alone, for choosing settings: `random` per context."""
        return Split.random(self.edges, fraction, seed)

    def some(self, rows: I64) -> Split:
        """The same split with some of its queries, by position, ascending."""
        indptr, items = self.relevant
        sizes = np.diff(indptr)[rows]
        starts = np.repeat(indptr[rows] - (np.cumsum(sizes) - sizes), sizes)
        relevant = items[starts + np.arange(sizes.sum())]
        ends = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return replace(self, queries=self.queries[rows], relevant=(ends, relevant))

    def sample(self, queries: int, seed: int) -> Split:
        """At most so many of the queries, by keyed draw."""
        drawn = np.argsort(rng.draw(seed ^ _PAIRS, self.queries), kind="stable")[:queries]
        return self.some(np.sort(drawn))

    def item_to_item(self, seed: int) -> Split:
        """One item of each query's history is asked for the query's relevant items.

        The item is the last one by time where times are known (what comes next is asked), else a drawn
        one. Queries without history are left out; an item may be a query several times.

        Raises:
            EmptyInputError: no query has a history.
        """
        known = np.flatnonzero(np.diff(self.masked[0]))
        if not len(known):
            raise EmptyInputError(
                "item to item must have contexts with an item besides those held out, got none; hold out less"
            )
        kept = self.edges.where(np.isin(self.edges.context, self.queries))
        by = kept.draws(seed, _PAIRS) if kept.time is None else kept.time
        order = np.lexsort((kept.item, by, kept.context))
        last = np.append(np.diff(kept.context[order]) > 0, True)
        query: I64 = kept.item[order[last]]
        return replace(self.some(known), queries=query, task="item_to_item")

    def summed(self, items: F32, weights: F32 | None = None) -> F32:
        """Sum of the (weighted) rows of each query's history: fp32 [queries, d] from fp32 [items, d].

        Sums run in fp64 by ascending item, so they do not depend on blocks. Zero where there is no history.
        """
        rows = items.astype(np.float64)
        weighted = rows if weights is None else rows * weights[:, None]
        return np.asarray(self.history.astype(np.float64) @ weighted).astype(np.float32)


def _pairs(edges: Edges) -> I64:
    return edges.context * edges.num_items + edges.item


def _last_of_each(edges: Edges, fraction: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which places of edges ordered by context are among the last floor(fraction * size) of theirs."""
    sizes = np.diff(edges.indptr)
    left = np.repeat(edges.indptr[1:], sizes) - np.arange(len(edges))  # 1 for a context's last edge
    return np.asarray(left <= np.repeat(np.floor(fraction * sizes + 1e-9), sizes))


def _checked(fraction: float) -> float:
    if not 0.0 < fraction < 1.0:
        raise ConfigError(f"evaluation.fraction must be between 0 and 1, got {fraction}; 0.1 to 0.3 is usual")
    return fraction
