"""New contexts from what they have seen: plain sums in fp64, for every way a network makes them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from walkbits.errors import ConfigError
from walkbits.index.asking import positions_of
from walkbits.inference.histories import fold_in, layers_read, sum_of_items
from walkbits.models.base import NO_SHAPES, Shapes
from walkbits.models.hashgnn import HashGnn
from walkbits.models.item_pool import ItemPool
from walkbits.models.lightgcn import LightGcn
from walkbits.models.two_tower import TwoTower
from walkbits.network.declaration import Input, Network, Output, Update

RANDOM = np.random.default_rng(4)
ITEMS, WIDTH = 30, 8
INDPTR = np.array([0, 3, 3, 10, 11])
ROWS = np.concatenate([np.sort(RANDOM.choice(ITEMS, size, replace=False)) for size in np.diff(INDPTR)])
DEGREES = RANDOM.integers(1, 50, len(ROWS))
SHAPES = Shapes({"item": ITEMS, "context": 4}, {})


def vectors(width: int = WIDTH) -> np.ndarray:
    return RANDOM.standard_normal((ITEMS, width)).astype(np.float32)


def weights_of(network: Network) -> dict[str, np.ndarray]:
    return {
        name: RANDOM.standard_normal(shape).astype(np.float32) for name, shape in network.tensors().items()
    }


def unit(x: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norms > 0, norms, 1)


def summed(items: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.array(
        [(items[ROWS[a:b]].astype(np.float64) * weights[a:b, None]).sum(axis=0) for a, b in pairwise(INDPTR)]
    )


def test_item_pool_weighs_a_history_by_degrees() -> None:
    network = ItemPool(embedding_size=WIDTH, history_exponent=0.25).network(SHAPES)
    assert layers_read(network) == [1]
    items = vectors()
    found = fold_in(network, {}, {1: items}, INDPTR, ROWS, DEGREES)
    np.testing.assert_allclose(found, unit(summed(items, DEGREES**-0.25)), atol=1e-6)
    assert not found[1].any()  # who has seen nothing has no direction


def test_a_hash_layer_is_applied_to_the_sum() -> None:
    model = HashGnn(embedding_size=WIDTH, code_bits=64, history_exponent=0.5)
    network = model.network(SHAPES)
    weights, items = weights_of(network), vectors()
    expected = unit(summed(items, DEGREES**-0.5) @ weights["hash.weight"].astype(np.float64).T)
    found = fold_in(network, weights, {1: items}, INDPTR, ROWS, DEGREES)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_mean_of_layers_counts_the_missing_row_as_zeros() -> None:
    network = LightGcn(embedding_size=WIDTH, num_layers=2).network(SHAPES)
    assert layers_read(network) == [0, 1]
    items = {0: vectors(), 1: vectors()}
    per_query = np.repeat(np.maximum(np.diff(INDPTR), 1) ** -0.5, np.diff(INDPTR))
    expected = sum(summed(items[layer], per_query * DEGREES**-0.5) for layer in (0, 1)) / 3
    found = fold_in(network, {}, items, INDPTR, ROWS, DEGREES)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_tower_reads_the_mean_of_the_items_rows() -> None:
    network = TwoTower(embedding_size=WIDTH, hidden_size=5).network(SHAPES)
    assert layers_read(network) == [0]
    weights, items = weights_of(network), vectors()
    mean = summed(items, np.repeat(1 / np.maximum(np.diff(INDPTR), 1), np.diff(INDPTR)))
    first = mean @ weights["towers.context.0.weight"].T + weights["towers.context.0.bias"]
    second = np.maximum(first, 0) @ weights["towers.context.1.weight"].T + weights["towers.context.1.bias"]
    found = fold_in(network, weights, {0: items}, INDPTR, ROWS, DEGREES)
    np.testing.assert_allclose(found, unit(second), atol=1e-5)


def test_without_context_vectors_a_history_is_the_sum_of_its_items() -> None:
    items = vectors()
    found = fold_in(sum_of_items(WIDTH), {}, {0: items}, INDPTR, ROWS, DEGREES)
    np.testing.assert_allclose(found, summed(items, np.ones(len(ROWS))), atol=1e-5)


def test_contexts_that_walk_cannot_be_made_of_histories() -> None:
    walked = Update(relation="context_from_item", pool="mean", combine="pooled")
    network = Network(
        architecture="walker",
        inputs={"item": Input(source="features", width=3)},
        layers=((walked,),),
        outputs={"context": Output()},
    )
    with pytest.raises(ConfigError, match="walker, whose contexts read context_from_item; ask by contexts"):
        layers_read(network)
    assert NO_SHAPES.num_nodes["item"] == 1


def test_masked_items_that_are_not_allowed_drop_out() -> None:
    allowed = np.array([2, 5, 6, 9])
    indptr, positions = positions_of((np.array([0, 3, 3, 5]), np.array([1, 5, 9, 2, 10])), allowed)
    assert indptr.tolist() == [0, 2, 2, 3]
    assert positions.tolist() == [1, 3, 0]
