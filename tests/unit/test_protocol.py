"""Leave-one-out end to end against a plain ranking of one query at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from walkbits.errors import EmptyInputError
from walkbits.evaluation.protocol import Figure, LeaveOneOut, evaluate_baselines, evaluate_embeddings
from walkbits.index.codes import encode, project, rotation, unpack_bits

NUM_ITEMS, NUM_CONTEXTS, K = 40, 80, 5


def interactions() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Edges (item, context) of a block structure, and for half of the contexts one held out."""
    random = np.random.default_rng(4)
    item, context, held_item, held_context = [], [], [], []
    for c in range(NUM_CONTEXTS):
        own = random.choice(np.arange(10) + 10 * (c % 4), 6, replace=False)
        if c % 2:
            held_item.append(own[0])
            held_context.append(c)
            own = own[1:]
        item += own.tolist()
        context += [c] * len(own)
    return tuple(np.array(a, np.int32) for a in (item, context, held_item, held_context))


@pytest.fixture
def split() -> LeaveOneOut:
    return LeaveOneOut.from_edges(*interactions(), NUM_ITEMS, NUM_CONTEXTS)


@pytest.fixture
def embeddings() -> np.ndarray:
    x = np.random.default_rng(8).standard_normal((NUM_ITEMS, 16)).astype(np.float32)
    x[::10] += 2  # let the block structure show a little
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def by_hand(score: object) -> dict[str, float]:
    """Recall and NDCG at K of score(items of a context) -> [items], one context at a time."""
    item, context, held_item, held_context = interactions()
    recall = ndcg = 0.0
    for wanted, c in zip(held_item, held_context, strict=True):
        own = item[context == c]
        values = np.array(score(own), np.float64)  # type: ignore[operator]
        values[own] = -math.inf
        top = np.lexsort((np.arange(NUM_ITEMS), -values))[:K].tolist()
        if wanted in top:
            recall += 1
            ndcg += 1 / math.log2(top.index(wanted) + 2)
    return {"recall": recall / len(held_item), "ndcg": ndcg / len(held_item)}


def values(figures: list[Figure], model: str) -> dict[str, float]:
    return {figure.metric: figure.value for figure in figures if figure.model == model}


def test_embeddings_and_codes_are_ranked_as_defined(split: LeaveOneOut, embeddings: np.ndarray) -> None:
    figures = evaluate_embeddings(split, embeddings, (64, 128), 7, K)
    assert values(figures, "embeddings") == pytest.approx(
        by_hand(lambda own: embeddings.astype(np.float64) @ embeddings[own].mean(axis=0, dtype=np.float64))
    )
    for bits in (64, 128):
        r = rotation(7, 16, bits)
        code, scale = encode(embeddings, r)
        sign = 2.0 * unpack_bits(code) - 1

        def query(own: np.ndarray, r: np.ndarray = r) -> np.ndarray:
            mean = embeddings[own].astype(np.float64).mean(axis=0).astype(np.float32)
            return project(mean[None], r)[0]

        hamming = by_hand(lambda own, sign=sign, query=query: sign @ np.where(query(own) > 0, 1, -1))
        assert values(figures, f"hamming_{bits}") == pytest.approx(hamming)
        coded = sign * scale[:, None]
        asymmetric = by_hand(lambda own, coded=coded, query=query: coded @ query(own))
        assert values(figures, f"asymmetric_{bits}") == pytest.approx(asymmetric)
    assert {figure.queries for figure in figures} == {NUM_CONTEXTS // 2}
    assert {figure.model for figure in figures} == {
        "embeddings", "hamming_64", "asymmetric_64", "hamming_128", "asymmetric_128"
    }  # fmt: skip


def test_baselines_are_ranked_as_defined(split: LeaveOneOut) -> None:
    item, context, *_ = interactions()
    dense = np.zeros((NUM_CONTEXTS, NUM_ITEMS))
    dense[context, item] = 1
    length = np.sqrt(dense.sum(axis=0))
    cosine = dense.T @ dense / np.outer(length, length)
    np.fill_diagonal(cosine, 0)
    figures = evaluate_baselines(split, K, NUM_ITEMS)
    assert values(figures, "popularity") == pytest.approx(by_hand(lambda own: dense.sum(axis=0)))
    assert values(figures, "item_knn") == pytest.approx(
        by_hand(lambda own: np.round(cosine[:, own].sum(axis=1), 12))
    )
    assert values(figures, "item_knn")["recall"] > values(figures, "popularity")["recall"]


def test_figures_do_not_depend_on_row_order(embeddings: np.ndarray) -> None:
    item, context, held_item, held_context = interactions()
    random = np.random.default_rng(0)
    rows, held = random.permutation(len(item)), random.permutation(len(held_item))
    rows = np.concatenate([rows, rows[:9]])  # and repeated edges count once
    shuffled = LeaveOneOut.from_edges(
        item[rows], context[rows], held_item[held], held_context[held], NUM_ITEMS, NUM_CONTEXTS
    )
    plain = LeaveOneOut.from_edges(item, context, held_item, held_context, NUM_ITEMS, NUM_CONTEXTS)
    for evaluate in (
        lambda split: evaluate_embeddings(split, embeddings, (64,), 0, K),
        lambda split: evaluate_baselines(split, K, 10),
    ):
        assert evaluate(shuffled) == evaluate(plain)


def test_learned_codes_are_the_signs_of_the_embedding_itself(split: LeaveOneOut) -> None:
    x = np.random.default_rng(3).standard_normal((NUM_ITEMS, 64)).astype(np.float32)
    figures = evaluate_embeddings(split, x, (64,), 0, K, rotate=False)
    sign = np.where(x > 0, 1.0, -1.0)
    scale = np.abs(x).mean(axis=1, dtype=np.float64)
    expected = by_hand(lambda own: (sign * scale[:, None]) @ x[own].mean(axis=0, dtype=np.float64))
    assert values(figures, "asymmetric_64") == pytest.approx(expected)


def test_nothing_held_out_is_an_error() -> None:
    none = np.empty(0, np.int32)
    with pytest.raises(EmptyInputError, match="held-out"):
        LeaveOneOut.from_edges(np.array([1]), np.array([0]), none, none, 3, 2)
