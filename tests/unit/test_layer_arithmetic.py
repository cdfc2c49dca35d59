"""Trainer module == the engine's tasks == a plain per-node algorithm 2, whatever the order and blocks."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.network import random_weights
from reference.plain import Graph, algorithm_2, packed, random_graph
from walkbits.arrays.mapped import create_matrix
from walkbits.arrays.vectors import binary_array, float_lists, list_array, read_lists, read_vectors
from walkbits.errors import InputError
from walkbits.inference.convolving import Convolve, Finish
from walkbits.inference.landing import Land, Projection
from walkbits.inference.tasks import in_blocks
from walkbits.models.base import Shapes
from walkbits.models.pinsage import PinSage
from walkbits.network import arithmetic
from walkbits.network.declaration import Network, Update
from walkbits.network.module import Module, hops_of
from walkbits.network.subgraphs import SubgraphBuilder

AVERAGE = Update(relation="item_from_context", pool="sum", combine="average")
POOLINGS = ("importance", "mean", "max")


def small_model(pooling: str = "importance", num_layers: int = 2) -> PinSage:
    return PinSage(pooling=pooling, num_layers=num_layers, hidden_size=6, embedding_size=5)


def network_of(model: PinSage) -> Network:
    return model.network(Shapes({"item": 1}, {"item": 7}))


def by_trainer(
    network: Network, weights: dict[str, np.ndarray], graph: Graph, items: np.ndarray
) -> np.ndarray:
    relations = {"item_from_item": graph.arrays}
    builder = SubgraphBuilder(network, relations, {"item": len(graph.features)})
    subgraph, rows = builder.build({"item": items.astype(np.int32)})
    cpu = torch.device("cpu")
    module = Module(network, 0, cpu)
    module.weights = {name: torch.from_numpy(array) for name, array in weights.items()}
    with torch.no_grad():
        features = torch.from_numpy(graph.features[subgraph.nodes["item"]])
        z = module({"item": {"features": features}}, hops_of(network, subgraph, cpu), subgraph.sizes)["item"]
    assert z.shape == (subgraph.sizes[-1]["item"], network.embedding_size("item"))
    return z.numpy()[rows["item"]]


def by_tasks(
    network: Network,
    weights: dict[str, np.ndarray],
    graph: Graph,
    folder: Path,
    block_size: int,
    order: np.ndarray,
    cuts: list[int],
) -> np.ndarray:
    """The engine's tasks in one process; `cuts` splits the ordered rows into Arrow batches."""
    nodes = len(graph.features)
    common: dict[str, Any] = {
        "weights": SimpleNamespace(value=weights),
        "block_size": block_size,
        "model_rows": SimpleNamespace(report=lambda *_: None),
    }
    out = graph.features
    for number, (update,) in enumerate(network.layers):
        own, pooled = folder / f"own-{number}.npy", folder / f"pooled-{number}.npy"
        create_matrix(own, nodes, out.shape[1])
        create_matrix(pooled, nodes, update.project.linear.size)
        projection = Projection("", update.project, None, pooled)
        land = Land(**common, width=out.shape[1], own=own, projections=(projection,))
        list(land.run(batches_of(order, cuts, [binary_array(out)])))
        last = number == len(network.layers) - 1
        convolve = Convolve(
            **common,
            label="",
            sources=nodes,
            update=update,
            pooled=pooled,
            own=own,
            references=None,
            finish=Finish(network.outputs["item"], (), 5) if last else None,
        )
        lists = [pa.array([packed(row[part]) for row in graph.rows], pa.binary()) for part in range(2)]
        out = np.zeros((nodes, 5), np.float32)
        for batch in convolve.run(batches_of(order, cuts, lists)):
            column = batch.column(2)
            flat = column.flatten().to_numpy() if last else read_vectors(column, 5)
            out[batch.column(1).to_numpy()] = np.reshape(flat, (-1, 5))
    return out


def batches_of(order: np.ndarray, cuts: list[int], columns: list[pa.Array]) -> list[pa.RecordBatch]:
    bounds = [0, *sorted({cut % (len(order) + 1) for cut in cuts}), len(order)]
    table = pa.RecordBatch.from_arrays(
        [pa.array(order.astype(np.int32)), *(column.take(pa.array(order)) for column in columns)],
        names=["node", *(f"c{i}" for i in range(len(columns)))],
    )
    return [table.slice(a, b - a) for a, b in pairwise(bounds)]


@pytest.mark.parametrize("pooling", POOLINGS)
@given(
    seed=st.integers(0, 10_000), nodes=st.integers(2, 30), largest=st.integers(0, 9), layers=st.integers(1, 3)
)
@settings(max_examples=25, deadline=None)
def test_trainer_engine_and_plain_loops_agree(
    tmp_path_factory: pytest.TempPathFactory, pooling: str, seed: int, nodes: int, largest: int, layers: int
) -> None:
    graph = random_graph(seed, nodes, 7, largest)
    model = small_model(pooling, layers)
    network = network_of(model)
    weights = random_weights(network, seed)
    items = np.random.default_rng(seed).integers(0, nodes, 8)
    plain = algorithm_2(graph, weights, model, items.tolist())
    trainer = by_trainer(network, weights, graph, items)
    engine = by_tasks(network, weights, graph, tmp_path_factory.mktemp("m"), 16, np.arange(nodes), [])[items]
    np.testing.assert_allclose(trainer, plain, rtol=0, atol=1e-5)
    np.testing.assert_allclose(engine, plain, rtol=0, atol=1e-5)
    sure = np.abs(plain) > 1e-5
    np.testing.assert_array_equal((trainer > 0)[sure], (plain > 0)[sure])
    np.testing.assert_array_equal((engine > 0)[sure], (plain > 0)[sure])


@given(data=st.data(), seed=st.integers(0, 10_000), nodes=st.integers(2, 60))
@settings(max_examples=30, deadline=None)
def test_order_and_batches_do_not_change_a_bit(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, seed: int, nodes: int
) -> None:
    graph = random_graph(seed, nodes, 7, 9)
    network = network_of(small_model())
    weights = random_weights(network, seed)
    order = np.array(data.draw(st.permutations(range(nodes))))
    cuts = data.draw(st.lists(st.integers(0, nodes), max_size=4))
    first = by_tasks(network, weights, graph, tmp_path_factory.mktemp("a"), 16, np.arange(nodes), [])
    second = by_tasks(network, weights, graph, tmp_path_factory.mktemp("b"), 16, order, cuts)
    np.testing.assert_array_equal(first.view(np.uint32), second.view(np.uint32))


@pytest.mark.parametrize("block_size", [17, 64, 1000])
def test_block_sizes_agree_within_rounding(tmp_path: Path, block_size: int) -> None:
    graph = random_graph(3, 50, 7, 9)
    network = network_of(small_model())
    weights = random_weights(network, 3)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one = by_tasks(network, weights, graph, tmp_path / "a", 16, np.arange(50), [])
    other = by_tasks(network, weights, graph, tmp_path / "b", block_size, np.arange(50), [])
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("width", "size"), [(133, 128), (256, 128), (7, 5), (128, 33)])
@pytest.mark.parametrize("block_size", [16, 100, 4096])
def test_a_row_has_the_same_bits_whatever_rows_are_beside_it(width: int, size: int, block_size: int) -> None:
    rng = np.random.default_rng(0)
    weights = {"a.weight": rng.standard_normal((size, width), dtype=np.float32)}
    layer = arithmetic.Linear(name="a", size=size, bias=False)
    x = rng.standard_normal((5000, width), dtype=np.float32)

    def of(nodes: np.ndarray) -> np.ndarray:
        rows = x[nodes]
        return in_blocks(
            nodes.astype(np.int32),
            block_size,
            lambda block: block.gather(
                arithmetic.normalise(arithmetic.linear(block.spread(rows), layer, weights))
            ),
        )

    straight = of(np.arange(5000))
    for some in (rng.permutation(5000), rng.permutation(5000)[:700], np.arange(4990, 5000), np.array([77])):
        np.testing.assert_array_equal(straight[some].view(np.uint32), of(some).view(np.uint32))


@pytest.mark.parametrize("how", ["importance", "mean", "max", "sum"])
def test_an_empty_neighborhood_pools_to_zeros(how: Any) -> None:
    matrix = -np.ones((3, 4), np.float32)
    indptr, rows, visits = np.array([0, 0, 2, 2]), np.array([1, 2], np.int32), np.array([3, 1], np.int32)
    weights = arithmetic.pool_weights(indptr, visits, how)
    pooled = arithmetic.pool(matrix, indptr, rows, weights, how)
    np.testing.assert_array_equal(pooled[[0, 2]], 0)
    np.testing.assert_allclose(pooled[1], -2 if how == "sum" else -1)


def test_importance_weights_are_shares_of_visits() -> None:
    weights = arithmetic.pool_weights(np.array([0, 2, 2, 3]), np.array([3, 1, 5], np.int32), "importance")
    np.testing.assert_array_equal(weights, np.float32([0.75, 0.25, 1]))


def test_a_zero_row_stays_zero_when_normalised() -> None:
    np.testing.assert_array_equal(
        arithmetic.normalise(np.float32([[0, 0], [3, 4]])), np.float32([[0, 0], [0.6, 0.8]])
    )


def test_combine_average_counts_the_node_itself() -> None:
    own, pooled = np.float32([[1, 1], [2, 2]]), np.float32([[5, 8], [0, 0]])
    np.testing.assert_array_equal(
        *arithmetic.combine(own, pooled, np.array([2, 0]), AVERAGE), np.float32([[2, 3], [2, 2]])
    )


@given(st.integers(0, 5), st.integers(0, 4), st.integers(1, 3))
@settings(deadline=None)
def test_vectors_survive_arrow(rows: int, skip: int, width: int) -> None:
    x = np.random.default_rng(rows).standard_normal((rows, width)).astype(np.float32)
    for kind in (pa.binary(), pa.large_binary()):
        back = read_vectors(binary_array(x).cast(kind).slice(skip), width)
        np.testing.assert_array_equal(back, x[skip:])
    lists = float_lists(x)
    lists.validate(full=True)
    assert lists.to_pylist() == x.tolist()


def test_lists_survive_slices() -> None:
    column = list_array(np.array([0, 2, 2, 3, 5]), np.array([1, 2, 3, 4, 5])).slice(1, 3)
    indptr, values = read_lists(column)
    assert indptr.tolist() == [0, 0, 1, 3]
    assert values.tolist() == [3, 4, 5]


def test_a_ragged_vector_is_refused_with_both_widths() -> None:
    column = pa.array([b"\0" * 8, b"\0" * 12])
    with pytest.raises(InputError, match=r"must hold 2 fp32 values \(8 bytes\), got one of 12 bytes"):
        read_vectors(column, 2)


def test_lists_of_floats_are_read_as_the_bytes_they_are() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    lists = float_lists(rows)
    np.testing.assert_array_equal(read_vectors(lists, 3), rows)
    np.testing.assert_array_equal(read_vectors(lists.slice(1, 2), 3), rows[1:3])
    inner = pa.ListArray.from_arrays(pa.array([0, 3, 6], pa.int32()), pa.array(rows.ravel()).slice(3))
    np.testing.assert_array_equal(read_vectors(inner, 3), rows[1:3])
    np.testing.assert_array_equal(read_vectors(inner, 3), read_vectors(binary_array(rows[1:3]), 3))
    for wrong in ([[1.0, 2.0]], [[1.0, None, 2.0]], [None]):
        with pytest.raises(InputError, match="vectors must hold"):
            read_vectors(pa.array(wrong, pa.list_(pa.float32())), 3)
