"""Offline quality by leave-one-out on contexts.

Some contexts lose one item at ingest. The query of such a context is the mean of its remaining
items' embeddings; the whole catalogue is ranked for it, its remaining items are masked, and the
metrics say where the lost item came out. Codes and baselines are ranked for the same queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from walkbits.errors import EmptyInputError
from walkbits.evaluation import baselines
from walkbits.evaluation.metrics import Hits
from walkbits.index.codes import encode, pack_bits, project, rotation, signs
from walkbits.index.exact import top_k, top_k_dense
from walkbits.types import F32, F64, I64

_DENSE_BLOCK = 256
"""Queries whose scores of all items are dense at once."""


@dataclass(frozen=True)
class Figure:
    """One measured value; the columns of table `evaluation` without the run's own."""

    model: str
    metric: str
    k: int
    value: float
    queries: int


@dataclass(frozen=True)
class LeaveOneOut:
    """The held-out edges and what remains; all rankings are over the full catalogue."""

    train: sparse.csr_array
    """0/1 [contexts, items]: the edges that remain, duplicates merged, indices ascending."""
    contexts: I64
    """Contexts that lost an item: [queries]"""
    items: I64
    """The item each of them lost: [queries]"""

    @classmethod
    def from_edges(
        cls, item: I64, context: I64, held_item: I64, held_context: I64, num_items: int, num_contexts: int
    ) -> LeaveOneOut:
        """Build from index columns of the tables `edges` and `holdout`, in any row order.

        Raises:
            EmptyInputError: nothing is held out, or no edge remains.
        """
        if not len(held_item) or not len(item):
            raise EmptyInputError(
                f"evaluation must have held-out and remaining edges, got {len(held_item)} and {len(item)}; "
                "set ingest.holdout"
            )
        # Sorted pairs: sums of floats over a row then run in one order whatever the rows' order was.
        pairs = np.unique(context.astype(np.int64) * num_items + item)
        train = sparse.csr_array(
            (np.ones(len(pairs), np.float32), (pairs // num_items, pairs % num_items)),
            shape=(num_contexts, num_items),
        )
        order = np.argsort(held_context, kind="stable")
        return cls(train, held_context[order].astype(np.int64), held_item[order].astype(np.int64))

    @property
    def remaining(self) -> sparse.csr_array:
        """Rows of `train` for the queries: [queries, items]"""
        return self.train[self.contexts]

    @property
    def masked(self) -> tuple[I64, I64]:
        """The queries' remaining items as exclusion lists."""
        rows = self.remaining
        rows.sort_indices()
        return rows.indptr.astype(np.int64), rows.indices.astype(np.int64)

    def figures(self, model: str, ranking: I64, k: int) -> Iterator[Figure]:
        """Recall and NDCG at k of a ranking [queries, >= k]."""
        hits = Hits.of(ranking, np.arange(len(self.items) + 1), self.items)
        for metric, value in (("recall", hits.recall(k)), ("ndcg", hits.ndcg(k))):
            yield Figure(model, metric, k, value, len(self.items))

    def queries(self, embeddings: F32) -> F32:
        """Mean embedding of each query's remaining items: fp32 [queries, d], zero where none remain."""
        rows = self.remaining
        sums = rows.astype(np.float64) @ embeddings.astype(np.float64)
        mean: F64 = sums / np.maximum(np.diff(rows.indptr), 1)[:, None]
        return mean.astype(np.float32)


def evaluate_embeddings(
    split: LeaveOneOut, embeddings: F32, code_bits: tuple[int, ...], seed: int, k: int, *, rotate: bool = True
) -> list[Figure]:
    """Figures of the float embeddings and, per code width, of Hamming and asymmetric scores.

    Args:
        split: what is held out.
        embeddings: fp32 [items, embedding_size], in item index order.
        code_bits: widths.
        seed: of the rotation, as in `codes_from_embeddings`.
        k: cut-off.
        rotate: False for learned hash layers, as in `codes_from_embeddings`.

    Returns:
        Figures of embeddings, hamming_<bits> and asymmetric_<bits>.
    """
    queries = split.queries(embeddings)

    def figures(model: str, left: F32, right: F32) -> Iterator[Figure]:
        return split.figures(model, top_k(left, right, k, split.masked)[0], k)

    measured = [*figures("embeddings", queries, embeddings)]
    for bits in sorted(code_bits):
        rotated_by = rotation(seed, embeddings.shape[1], bits) if rotate else None
        code, scale = encode(embeddings, rotated_by) if rotate else encode(embeddings[:, :bits], None)
        projected = project(queries, rotated_by)[:, :bits]  # [queries, bits]
        coded = signs(code)  # [items, bits]
        measured += figures(f"hamming_{bits}", signs(pack_bits(projected)), coded)
        measured += figures(f"asymmetric_{bits}", projected.astype(np.float32), coded * scale[:, None])
    return measured


def evaluate_baselines(split: LeaveOneOut, k: int, num_neighbors: int) -> list[Figure]:
    """Figures of popularity and item_knn (cosine, `num_neighbors` per item) on the same queries."""
    popular = baselines.popularity(split.train)
    neighbors = baselines.item_knn(split.train, num_neighbors).T.tocsr()
    remaining = split.remaining.astype(np.float64)
    scorers: dict[str, Callable[[slice], F64]] = {
        "popularity": lambda rows: np.broadcast_to(popular, (remaining[rows].shape[0], len(popular))),
        "item_knn": lambda rows: (remaining[rows] @ neighbors).toarray(),
    }
    return [
        figure
        for model, score in scorers.items()
        for figure in split.figures(model, _rank_dense(split, score, k), k)
    ]


def _rank_dense(split: LeaveOneOut, score: Callable[[slice], F64], k: int) -> I64:
    """Rank all items by dense scores, a block of queries at a time."""
    indptr, items = split.masked
    blocks = [
        top_k_dense(score(slice(start, start + _DENSE_BLOCK)), k, (indptr[start:], items))
        for start in range(0, len(split.items), _DENSE_BLOCK)
    ]
    return np.concatenate(blocks)
