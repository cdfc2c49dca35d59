"""Every ranker against a plain ranking of one query at a time over dense scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from walkbits import settings
from walkbits.errors import ConfigError, InputError
from walkbits.evaluation import rankers, tables
from walkbits.evaluation.rankers import Ranker
from walkbits.evaluation.splits import Edges, Split
from walkbits.index.codes import Coder, project, rotation, unpack_bits
from walkbits.network.arithmetic import supported

ITEMS, CONTEXTS, K = 50, 90, 8


def communities(seed: int = 4) -> Edges:
    random = np.random.default_rng(seed)
    likely = np.where((np.arange(CONTEXTS)[:, None] % 4) == (np.arange(ITEMS) % 4), 0.35, 0.05)
    likely[:, 7] = 0  # an item nobody has
    context, item = np.nonzero(random.random((CONTEXTS, ITEMS)) < likely)
    return Edges(context, item, CONTEXTS, ITEMS)


@pytest.fixture
def split() -> Split:
    return Split.leave_one_out(communities(), 3, 60, 4)


@pytest.fixture(params=["context_to_item", "item_to_item"])
def either(request: pytest.FixtureRequest, split: Split) -> Split:
    return split if request.param == "context_to_item" else split.item_to_item(1)


def plainly(
    split: Split, score: Callable[[int, list[int]], np.ndarray], positive: bool = False
) -> np.ndarray:
    """[queries, K] by score(query, history) -> [items], one query at a time."""
    found = np.full((len(split.queries), K), -1)
    for row, query in enumerate(split.queries):
        history = split.history[[row]].indices.tolist()
        values = np.round(np.array(score(int(query), history), np.float64), 10)
        order = [i for i in np.lexsort((np.arange(ITEMS), -values)) if i not in history]
        order = [i for i in order if values[i] > 0] if positive else order
        found[row, : len(order[:K])] = order[:K]
    return found


def dense(split: Split) -> np.ndarray:
    return split.train.toarray().astype(np.float64)


def test_popularity(either: Split) -> None:
    counts = dense(either).sum(axis=0)
    np.testing.assert_array_equal(rankers.Popularity().rank(either, K), plainly(either, lambda q, h: counts))


def test_popularity_ends_in_nothing_left(split: Split) -> None:
    found = rankers.Popularity().rank(split, ITEMS)
    assert ((found >= 0).sum(axis=1) == ITEMS - np.diff(split.masked[0])).all()


def cut(weights: np.ndarray, num: int) -> np.ndarray:
    """The largest `num` positive weights of each row, ties by column; the diagonal is none."""
    weights = np.round(weights, 12)
    np.fill_diagonal(weights, 0)
    for row in weights:
        row[np.lexsort((np.arange(ITEMS), -row))[num:]] = 0
    return weights


def cosine_table(x: np.ndarray, num: int) -> np.ndarray:
    inverse = np.maximum(x.sum(axis=0), 1) ** -0.5
    return cut(inverse[:, None] * (x.T @ x) * inverse, num).T


def rp3beta_table(x: np.ndarray, alpha: float, beta: float, num: int) -> np.ndarray:
    item, context = np.maximum(x.sum(axis=0), 1), np.maximum(x.sum(axis=1), 1)
    return cut(item[:, None] ** -alpha * (x.T * context**-alpha) @ x * item**-beta, num)


@pytest.mark.parametrize("num", [1, 6, 100])
def test_tables_are_their_formulas(split: Split, num: int) -> None:
    x = dense(split)
    np.testing.assert_allclose(tables.item_knn(split.train, num).toarray(), cosine_table(x, num), atol=1e-9)
    found = tables.rp3beta(split.train, 0.7, 0.4, num).toarray()
    np.testing.assert_allclose(found, rp3beta_table(x, 0.7, 0.4, num), atol=1e-9)


def test_table_rankers(either: Split) -> None:
    x = dense(either)
    for ranker, table in (
        (rankers.ItemKnn(6), cosine_table(x, 6)),
        (rankers.Rp3Beta(0.8, 0.3, 9), rp3beta_table(x, 0.8, 0.3, 9)),
    ):
        found = ranker.rank(either, K)
        expected = plainly(either, lambda q, h, table=table: table[h].sum(axis=0), positive=True)
        np.testing.assert_array_equal(found >= 0, expected >= 0)
        # Items of equal degree tie, but for the last bit, which is the processor's: scores are compared.
        for row, (items, wanted) in enumerate(zip(found, expected, strict=True)):
            history = either.history[[row]].indices
            scores = table[history].sum(axis=0)
            np.testing.assert_allclose(scores[items[items >= 0]], scores[wanted[wanted >= 0]], rtol=1e-9)
            chosen = items[items >= 0].tolist()
            assert len({*chosen, *history.tolist()}) == len(chosen) + len(history)


def test_ties_go_to_the_lower_item() -> None:
    edges = Edges(np.repeat([0, 1, 2], 4), np.tile([0, 1, 2, 3], 3), 3, 4)
    split = Split("given", edges, np.array([3, 0]), (np.array([0, 1, 2]), np.array([1, 1])), "item_to_item")
    assert rankers.ItemKnn(2).rank(split, 3).tolist() == [[-1, -1, -1], [1, 2, 3]]


def test_walked_table_estimates_rp3beta(split: Split) -> None:
    exact = tables.rp3beta(split.train, 0.8, 0.3, ITEMS).toarray()
    walks = settings.Walks(num_walks=20_000, walk_length=1, num_neighbors=ITEMS, context_weight_exponent=0.2)
    found = rankers.neighborhoods_of(
        rankers.graph_of(split, 0.2), "item_from_item", np.arange(ITEMS, dtype=np.int32), walks, 1
    )
    walked = tables.walk_table(split.train, found, 20_000, 0.8, 0.3).toarray()  # type: ignore[arg-type]
    assert np.corrcoef(exact.ravel(), walked.ravel())[0, 1] > 0.998
    assert walked.sum() == pytest.approx(exact.sum(), rel=0.01)


def test_walkers_rank_communities_first(either: Split) -> None:
    for ranker in (rankers.WalkedRp3Beta(num_walks=500, num_neighbors=20), rankers.Pixie()):
        found = ranker.rank(either, 5)
        assert found.shape == (len(either.queries), 5)
        for row, query in enumerate(either.queries):
            assert not set(found[row]) & set(either.history[[row]].indices.tolist())
            assert len(set(found[row].tolist()) - {-1}) == (found[row] >= 0).sum()
            assert query >= 0
        own = either.queries % 4
        same = (found % 4 == own[:, None])[found >= 0].mean()
        assert same > 0.6  # chance is 0.25
        np.testing.assert_array_equal(found, ranker.rank(either, 5))


def test_ease_is_its_closed_form(either: Split) -> None:
    x = dense(either)
    inverse = np.linalg.inv(x.T @ x + 30.0 * np.eye(ITEMS))
    weights = -inverse / inverse.diagonal()
    np.fill_diagonal(weights, 0)
    np.testing.assert_allclose(tables.ease(either.train, 30.0), weights, atol=1e-5)
    found = rankers.Ease(30.0).rank(either, K)
    table = tables.ease(either.train, 30.0).astype(np.float64)
    np.testing.assert_array_equal(found, plainly(either, lambda q, h: table[h].sum(axis=0)))
    with pytest.raises(ConfigError, match="at most 10 items"):
        tables.ease(either.train, 1.0, max_items=10)


def test_embeddings_dot_cosine_prior_and_context_vectors(split: Split) -> None:
    random = np.random.default_rng(1)
    x = random.standard_normal((ITEMS, 12)).astype(np.float32)
    own = random.standard_normal((CONTEXTS, 12)).astype(np.float32)
    weights, prior = random.random(ITEMS).astype(np.float32), random.random(ITEMS).astype(np.float32)
    wide = x.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1)
    summed = lambda h: (wide[h] * weights[h, None]).sum(axis=0)  # noqa: E731
    cases: list[tuple[Ranker, Callable[[int, list[int]], np.ndarray]]] = [
        (rankers.Embedding("dot", x, weights=weights), lambda q, h: wide @ summed(h)),
        (
            rankers.Embedding("own", x, own, prior=prior),
            lambda q, h: wide @ own[q].astype(np.float64) + prior,
        ),
        (
            rankers.Embedding("cosine", x, weights=weights, prior=prior, cosine=True, temperature=0.2),
            lambda q, h: wide @ summed(h) / lengths / np.linalg.norm(summed(h)) / 0.2 + prior,
        ),
    ]
    for ranker, score in cases:
        np.testing.assert_array_equal(ranker.rank(split, K), plainly(split, score))
    items = split.item_to_item(1)
    expected = plainly(items, lambda q, h: wide @ wide[q] / lengths)
    for ranker, _ in cases:  # item to item is the cosine, whatever the other task's score
        np.testing.assert_array_equal(ranker.rank(items, K), expected)


def test_support_weighs_between_items_alone(split: Split) -> None:
    x = np.random.default_rng(1).standard_normal((ITEMS, 12)).astype(np.float32)
    support = supported(split.popularity, 10.0)
    np.testing.assert_allclose(support, split.popularity / (split.popularity + 10))
    assert (supported(split.popularity, 0.0) == 1).all()
    ranker, plain = rankers.Embedding("e", x, support=support), rankers.Embedding("e", x)
    np.testing.assert_array_equal(ranker.rank(split, K), plain.rank(split, K))
    items, wide = split.item_to_item(1), rankers.unit(x).astype(np.float64)
    expected = plainly(items, lambda q, h: wide @ wide[q] * split.popularity / (split.popularity + 10))
    np.testing.assert_array_equal(ranker.rank(items, K), expected)
    r = rotation(5, 12, 64)
    coder = Coder(r)
    code, scale = coder.encode(x, 64)
    weighed = (2.0 * unpack_bits(code) - 1) * (scale * support)[:, None]
    queries, row = project(ranker.queries(items), r), iter(range(10**6))
    expected = plainly(items, lambda q, h: weighed @ queries[next(row)])
    asymmetric = rankers.Codes("asymmetric", ranker, code, scale, coder, asymmetric=True)
    assert (asymmetric.rank(items, K) == expected).mean() > 0.99  # fp32 against fp64


@pytest.mark.parametrize("rotated", [True, False])
def test_codes_are_read_and_the_query_alone_is_projected(either: Split, rotated: bool) -> None:
    x = np.random.default_rng(2).standard_normal((ITEMS, 64)).astype(np.float32)
    r = rotation(5, 64, 128) if rotated else None
    coder = Coder(r)
    code, scale = coder.encode(x, 128 if rotated else 64)
    embedding = rankers.Embedding("embeddings", x)
    bits = 2.0 * unpack_bits(code) - 1
    queries = project(embedding.queries(either), r)
    row = iter(range(10**6))
    expected = plainly(either, lambda q, h: bits @ np.where(queries[next(row)] > 0, 1, -1))
    hamming = rankers.Codes("hamming", embedding, code, scale, coder, asymmetric=False)
    np.testing.assert_array_equal(hamming.rank(either, K), expected)
    row = iter(range(10**6))
    expected = plainly(either, lambda q, h: (bits * scale[:, None]) @ queries[next(row)])
    asymmetric = rankers.Codes("asymmetric", embedding, code, scale, coder, asymmetric=True)
    assert (asymmetric.rank(either, K) == expected).mean() > 0.99  # fp32 against fp64
    with pytest.raises(InputError, match="one per item"):
        rankers.Codes("short", embedding, code[:9], scale[:9], coder, False).rank(either, K)


def test_the_prior_weighs_in_codes_as_in_the_float_score(split: Split) -> None:
    x = np.random.default_rng(2).standard_normal((ITEMS, 64)).astype(np.float32)
    prior = np.where(np.arange(ITEMS) == 11, 1e4, 0.0).astype(np.float32)
    coder, embedding = Coder(rotation(5, 64, 64), planes=True), rankers.Embedding("e", x, prior=prior)
    ranker = rankers.Codes("asymmetric", embedding, *coder.encode(x, 128), coder, True)
    first = ranker.rank(split, 1)[:, 0]
    known = np.array([11 in split.history[[row]].indices for row in range(len(split.queries))])
    assert (first[~known] == 11).all()
    assert not (first[known] == 11).any()
    assert (ranker.rank(split.item_to_item(1), 1) == 11).mean() < 0.3


def test_the_prior_adds_to_the_asymmetric_score_what_it_adds_to_the_float_score(split: Split) -> None:
    random = np.random.default_rng(2)
    x, prior = random.standard_normal((ITEMS, 64)).astype(np.float32), random.standard_normal(ITEMS)
    coder, embedding = Coder(rotation(5, 64, 64), planes=True), rankers.Embedding("e", x, prior=prior)
    fine = rankers.Codes(
        "asymmetric", embedding, *coder.encode(x, 512), coder, True
    )  # eight bits a coordinate
    assert (fine.rank(split, K) == embedding.rank(split, K)).mean() > 0.9


def test_candidates_are_ordered_by_the_float_score(either: Split) -> None:
    x = np.random.default_rng(2).standard_normal((ITEMS, 64)).astype(np.float32)
    coder, embedding = Coder(rotation(5, 64, 64)), rankers.Embedding("e", x)
    first = rankers.Codes("hamming", embedding, *coder.encode(x, 64), coder, False)
    near = first.rank(either, 12)
    expected = embedding.rank(either, ITEMS)
    found = rankers.Reranked("hierarchical", first, embedding, 12).rank(either, K)
    for query, listed in enumerate(found):
        kept = [item for item in expected[query] if item in near[query] and item >= 0][:K]
        assert listed[listed >= 0].tolist() == kept
    everything = rankers.Reranked("hierarchical", first, embedding, ITEMS)
    np.testing.assert_array_equal(everything.rank(either, K), embedding.rank(either, K))


def test_the_priors_bits_count_from_contexts_alone(split: Split) -> None:
    x = np.random.default_rng(2).standard_normal((ITEMS, 64)).astype(np.float32)
    coder, embedding = Coder(rotation(5, 64, 64)), rankers.Embedding("e", x)
    code, scale = coder.encode(x, 64)
    ones = np.arange(ITEMS) % 65
    prior_code = np.array([(1 << one) - 1 - (1 << 64 if one == 64 else 0) for one in ones.tolist()])
    ranker = rankers.Codes("hamming", embedding, code, scale, coder, False, prior_code)
    own = coder.encode(embedding.queries(split), 64)[0]
    row = iter(range(10**6))
    bits = unpack_bits(code)
    expected = plainly(split, lambda q, h: ones - (bits != unpack_bits(own[[next(row)]])).sum(axis=1))
    np.testing.assert_array_equal(ranker.rank(split, K), expected)
    items, plain = split.item_to_item(1), rankers.Codes("plain", embedding, code, scale, coder, False)
    np.testing.assert_array_equal(ranker.rank(items, K), plain.rank(items, K))
