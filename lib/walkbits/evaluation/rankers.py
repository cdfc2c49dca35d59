"""Rankers: what orders the catalogue for each query of a split.

A ranking is int64 [queries, k], best first, over the full catalogue without the query's history, ties by
item, -1 where no item is left. A ranker that learns from edges learns from the split's training edges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
from scipy import sparse

from walkbits import settings
from walkbits.errors import InputError
from walkbits.evaluation import tables
from walkbits.evaluation.splits import Split
from walkbits.graph.csr import BipartiteCsr
from walkbits.index.codes import Coder, signs
from walkbits.index.exact import top_k, top_k_dense
from walkbits.types import F32, F64, I64, Relation
from walkbits.walks.kernel import neighborhoods_of

_BLOCK: Final = 256
"""Queries whose scores of all items are dense at once."""


class Ranker(Protocol):
    """Anything with a name that ranks."""

    @property
    def name(self) -> str:
        """What the figures call it."""

    def rank(self, split: Split, k: int) -> I64:
        """The best k items of each query: int64 [queries, k]."""


@dataclass(frozen=True)
class Popularity:
    """Items by the number of their contexts: the floor of every figure."""

    name: str = "popularity"

    def rank(self, split: Split, k: int) -> I64:
        """See `Ranker`."""
        indptr, items = split.masked
        longest = int(np.diff(indptr).max(initial=0))
        best = np.lexsort((np.arange(split.num_items), -split.popularity))[: k + longest]
        place = np.full(split.num_items, len(best))
        place[best] = np.arange(len(best))
        found = np.full((len(split.queries), k), -1, np.int64)
        for start in range(0, len(found), _BLOCK):
            rows = indptr[start : start + _BLOCK + 1]
            size = len(rows) - 1
            free = np.ones((size, len(best) + 1), np.bool_)
            free[np.repeat(np.arange(size), np.diff(rows)), place[items[rows[0] : rows[-1]]]] = False
            free = free[:, :-1]
            free &= np.cumsum(free, axis=1) <= k
            row, at = np.nonzero(free)
            column = np.arange(len(row)) - np.searchsorted(row, row)
            found[start + row, column] = best[at]
        return found


@dataclass(frozen=True)
class Table:
    """Items by a table of item-to-item weights: W fp64 sparse [items, items], see `tables`."""

    name: str
    weights: sparse.csr_array

    def rank(self, split: Split, k: int) -> I64:
        """See `Ranker`; items without a score are left out."""
        return tables.rank(split.history, self.weights, k)


@dataclass(frozen=True)
class DenseTable:
    """The same with a dense table, fp32 [items, items], in blocks of queries."""

    name: str
    weights: F32

    def rank(self, split: Split, k: int) -> I64:
        """See `Ranker`."""

        def score(rows: slice) -> F64:
            return np.asarray(split.history[rows].astype(np.float64) @ self.weights)

        return _rank_dense(split, k, score)


@dataclass(frozen=True)
class ItemKnn:
    """Cosine of items over their contexts; see `tables.item_knn`."""

    num_neighbors: int = 100
    name: str = "item_knn"

    def rank(self, split: Split, k: int) -> I64:
        """See `Ranker`."""
        return Table(self.name, tables.item_knn(split.train, self.num_neighbors)).rank(split, k)


@dataclass(frozen=True)
class Rp3Beta:
    """Three-step random walks, exact; see `tables.rp3beta`."""

    alpha: float = 0.8
    beta: float = 0.3
    num_neighbors: int = 400
    name: str = "rp3beta"

    def rank(self, split: Split, k: int) -> I64:
        """See `Ranker`."""
        table = tables.rp3beta(split.train, self.alpha, self.beta, self.num_neighbors)
        return Table(self.name, table).rank(split, k)


@dataclass(frozen=True)
class WalkedRp3Beta:
    """RP3beta from the visit counts of the walk engine; see `tables.walk_table`."""

    alpha: float = 0.8
    beta: float = 0.3
    num_neighbors: int = 400
    num_walks: int = 4000
    seed: int = 0
    name: str = "rp3beta_walks"

    def rank(self, split: Split, k: int) -> I64:
        """See `Ranker`."""
        walks = settings.Walks(
            num_walks=self.num_walks, walk_length=1, num_neighbors=self.num_neighbors,
            popularity_penalty=self.beta, context_weight_exponent=round(1.0 - self.alpha, 9),
        )  # fmt: skip
        every = np.arange(split.num_items, dtype=np.int32)
        indptr, neighbors, visits = neighborhoods_of(
            graph_of(split, walks.context_weight_exponent), "item_from_item", every, walks, self.seed
        )
        found = indptr, neighbors.astype(np.int64), visits.astype(np.int64)
        table = tables.walk_table(split.train, found, self.num_walks, self.alpha, self.beta)
        return Table(self.name, table).rank(split, k)


@dataclass(frozen=True)
class Pixie:
    """Items that walks from the query visit most, boosted where several of its items lead to them."""

    walks: settings.Walks = field(
        default_factory=lambda: settings.Walks(
            num_walks=2000, walk_length=4, restart_probability=0.5, multi_source_boost=True
        )
    )
    seed: int = 0
    name: str = "pixie"

    def rank(self, split: Split, k: int) -> I64:
        """See `Ranker`. Lists hold what the walks met and end in -1 behind it."""
        indptr, items = split.masked
        longest = int(np.diff(indptr).max(initial=0))
        walks = self.walks.model_copy(update={"num_neighbors": k + longest})
        relation: Relation = "context_from_item" if split.task == "context_to_item" else "item_from_item"
        starts, back = np.unique(split.queries, return_inverse=True)
        graph = graph_of(split, walks.context_weight_exponent)
        ends, met, _ = neighborhoods_of(graph, relation, starts.astype(np.int32), walks, self.seed)
        found = np.full((len(split.queries), k), -1, np.int64)
        for query, start in enumerate(back):
            visited = met[ends[start] : ends[start + 1]]
            new = visited[~np.isin(visited, items[indptr[query] : indptr[query + 1]])][:k]
            found[query, : len(new)] = new
        return found


@dataclass(frozen=True)
class Ease:
    """The closed-form linear model; catalogues up to 20,000 items. See `tables.ease`."""

    regularisation: float = 200.0
    name: str = "ease"

    def rank(self, split: Split, k: int) -> I64:
        """See `Ranker`."""
        return DenseTable(self.name, tables.ease(split.train, self.regularisation)).rank(split, k)


@dataclass(frozen=True)
class Embedding:
    """Items by their vectors.

        score(query, i) = <q, x_i> / temperature + prior_i      both of unit length where `cosine`

    q is the context's vector, or the (weighted) sum of its history's vectors where contexts have none.
    Item to item, q is the item's own vector, scores are cosines times `support`, and no prior counts.

    Attributes:
        name: What the figures call it.
        items: fp32 [items, d].
        contexts: fp32 [contexts, d], or None.
        weights: fp32 [items] of a history's items; None sums them equally.
        prior: fp32 [items], e.g. log popularity; None is 0.
        support: fp32 [items], what the cosine to an item counts; None is 1.
        cosine: Score context to item by the cosine.
        temperature: Divides the inner product.
    """

    name: str
    items: F32
    contexts: F32 | None = None
    weights: F32 | None = None
    prior: F32 | None = None
    support: F32 | None = None
    cosine: bool = False
    temperature: float = 1.0

    def queries(self, split: Split) -> F32:
        """Each query's vector as it is scored: fp32 [queries, d]."""
        if split.task == "item_to_item":
            return unit(self.items[split.queries])
        if self.contexts is not None:
            rows = self.contexts[split.queries]
        else:
            rows = split.summed(self.items, self.weights)
        return (unit(rows) if self.cosine else rows) / np.float32(self.temperature)

    def rank(self, split: Split, k: int) -> I64:
        """See `Ranker`."""
        return top_k(*self.scored(split), k, split.masked)[0]

    def scored(self, split: Split) -> tuple[F32, F32]:
        """Whose inner products are the scores: queries fp32 [queries, d'] and items fp32 [items, d']."""
        queries = self.queries(split)
        items = unit(self.items) if self.cosine or split.task == "item_to_item" else self.items
        if self.support is not None and split.task == "item_to_item":
            items = items * self.support[:, None]
        return _with_prior(queries, items, self.prior if split.task == "context_to_item" else None)


def _with_prior(queries: F32, items: F32, prior: F32 | None) -> tuple[F32, F32]:
    """With one more coordinate, 1 and the prior."""
    if prior is not None:
        queries = np.hstack([queries, np.ones((len(queries), 1), np.float32)])
        items = np.hstack([items, prior.astype(np.float32)[:, None]])
    return queries, np.ascontiguousarray(items)


@dataclass(frozen=True)
class Codes:
    """Items by their published codes; the query's side is computed as a reader of the table does.

        hamming:     code_bits - 2 * (bits in which query and item differ), with `prior_code` those of it too
        asymmetric:  scale * <what each bit counts for q, 2 bits - 1> + prior, as in the float score

    Attributes:
        name: What the figures call it.
        queried: The embeddings behind the codes: makes the queries' vectors.
        code: int64 words [items, code_bits / 64], as published.
        scale: fp32 [items], as published.
        coder: Of the run.
        asymmetric: Which of the two scores.
        prior_code: int64 [items], as published; None where Hamming distances go without. Between items they
            always do.
    """

    name: str
    queried: Embedding
    code: I64
    scale: F32
    coder: Coder
    asymmetric: bool
    prior_code: I64 | None = None

    def rank(self, split: Split, k: int) -> I64:
        """See `Ranker`.

        Raises:
            InputError: the codes do not belong to the embeddings.
        """
        if len(self.code) != len(self.queried.items):
            raise InputError(
                f"codes must be one per item, got {len(self.code)} of {len(self.queried.items)} items; "
                "rebuild the index"
            )
        queries, items = self.queried.queries(split), signs(self.code)
        bits, to_context = items.shape[1], split.task == "context_to_item"
        if not self.asymmetric:
            own, ones = signs(self.coder.encode(queries, bits)[0]), None
            if self.prior_code is not None and to_context:
                ones = signs(self.prior_code[:, None]).sum(axis=1)  # of a context all are
            return top_k(*_with_prior(own, items, ones), k, split.masked)[0]
        items *= self.scale[:, None]
        if self.queried.support is not None and not to_context:
            items *= self.queried.support[:, None]
        counted = self.coder.queries(queries, bits).astype(np.float32)
        prior = self.queried.prior if to_context else None
        return top_k(*_with_prior(counted, items, prior), k, split.masked)[0]


@dataclass(frozen=True)
class Reranked:
    """The best items of one ranker, ordered by the embeddings' score: HashGNN's hierarchical search.

    Attributes:
        name: What the figures call it.
        first: Finds the candidates.
        embedding: Orders them.
        depth: M, how many.
    """

    name: str
    first: Ranker
    embedding: Embedding
    depth: int = 500

    def rank(self, split: Split, k: int) -> I64:
        """See `Ranker`."""
        found = np.sort(self.first.rank(split, max(k, self.depth)), axis=1)  # ties by item
        queries, items = self.embedding.scored(split)
        best = np.empty((len(found), k), np.int64)
        for start in range(0, len(found), _BLOCK):
            rows = slice(start, start + _BLOCK)
            near = items[found[rows]]  # [queries, depth, d]
            scores = np.einsum("qd,qnd->qn", queries[rows].astype(np.float64), near)
            scores[found[rows] < 0] = -np.inf
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            best[rows] = np.take_along_axis(found[rows], order, axis=1)
        return best


def graph_of(split: Split, context_weight_exponent: float = 0.0) -> BipartiteCsr:
    """The training edges as the walk engine's graph, edges weighted by degree(context)^exponent."""
    edges = split.edges
    weight = None
    if context_weight_exponent:
        degree = np.diff(edges.indptr)[edges.context].astype(np.float64)
        weight = np.rint(degree**context_weight_exponent * (1 << 20)).astype(np.int64)
    # A key per node: contexts are numbered behind the items.
    item_key = np.arange(edges.num_items) if edges.item_key is None else edges.item_key
    context_key = edges.context_key
    if context_key is None:
        context_key = np.arange(edges.num_items, edges.num_items + edges.num_contexts)
    return BipartiteCsr.from_edges(
        edges.item.astype(np.int32), edges.context.astype(np.int32), weight,
        edges.num_items, edges.num_contexts, item_key, context_key,
    )  # fmt: skip


def unit(rows: F32) -> F32:
    """Rows of length 1; zero rows stay zero."""
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return (rows / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)


def _rank_dense(split: Split, k: int, score: Callable[[slice], F64]) -> I64:
    """Rank all items by dense scores fp64 [queries, items], a block of queries at a time."""
    indptr, items = split.masked
    blocks = [
        top_k_dense(score(slice(start, start + _BLOCK)), k, (indptr[start:], items))
        for start in range(0, len(split.queries), _BLOCK)
    ]
    return np.concatenate(blocks)
