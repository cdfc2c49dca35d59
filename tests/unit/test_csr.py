"""The graph in memory and in its folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference.walks import Graph, random_graph
from walkbits.errors import InputError
from walkbits.graph.csr import Adjacency, BipartiteCsr, read_meta


def row(side: Adjacency, node: int) -> list[tuple[int, int]]:
    own = slice(side.indptr[node], side.indptr[node + 1])
    weights = np.diff(side.cumulative[own], prepend=0) if len(side.cumulative) else np.ones(0)
    pad = [0] * (side.indptr[node + 1] - side.indptr[node])
    return list(zip(side.indices[own].tolist(), weights.tolist() or pad, strict=True))


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 60), st.integers(0, 9), st.booleans())
def test_rows_hold_each_edge_once_in_order(
    items: int, contexts: int, edges: int, seed: int, weighted: bool
) -> None:
    graph = random_graph(items, contexts, edges, seed, weighted)
    csr = graph.csr()
    assert csr.num_edges == len(graph.edges)
    for node_type, side in (("item", csr.item), ("context", csr.context)):
        for node, expected in enumerate(graph.rows(node_type)):
            assert row(side, node) == [(n, w if weighted else 0) for n, w in expected]
    assert csr.item.keys.tolist() == graph.item_keys
    assert csr.context.keys.tolist() == graph.context_keys


@pytest.mark.parametrize("weighted", [False, True])
def test_folder_round_trip_is_exact_and_read_only(tmp_path: Path, weighted: bool) -> None:
    csr = random_graph(30, 12, 80, 1, weighted).csr()
    csr.save(tmp_path)
    again = BipartiteCsr.open(tmp_path)
    assert again.weighted is weighted
    assert read_meta(tmp_path)["num_edges"] == csr.num_edges
    for side in ("item", "context"):
        for name in ("indptr", "indices", "cumulative", "keys"):
            one, other = getattr(getattr(csr, side), name), getattr(getattr(again, side), name)
            assert one.dtype == other.dtype
            assert (one == other).all()
            assert not other.flags.writeable
            assert type(one) is type(other) is np.ndarray


def test_a_graph_without_edges_or_nodes_opens(tmp_path: Path) -> None:
    for folder, nodes in ((tmp_path / "edges", 3), (tmp_path / "nodes", 0)):
        Graph(nodes, nodes, [], True, [5] * nodes, [5] * nodes).csr().save(folder)
        assert BipartiteCsr.open(folder).item.indptr.tolist() == [0] * (nodes + 1)


@pytest.mark.parametrize(
    ("edges", "word"),
    [([(0, 2, 1)], "context"), ([(-1, 0, 1)], "item"), ([(1, 1, 0)], "weight"), ([(1, 1, 3)] * 2, "unique")],
)
def test_bad_edges_are_refused(edges: list[tuple[int, int, int]], word: str) -> None:
    with pytest.raises(InputError, match=word):
        Graph(2, 2, edges, True, [0, 1], [2, 3]).csr()


def test_unfinished_or_damaged_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"meta\.json"):
        BipartiteCsr.open(tmp_path)
    random_graph(30, 12, 80, 1, False).csr().save(tmp_path)
    np.save(tmp_path / "item_indices.npy", np.zeros(3, np.int32))
    with pytest.raises(InputError, match=r"item_indices\.npy.*must hold"):
        BipartiteCsr.open(tmp_path)
    (tmp_path / "item_indices.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match=r"item_indices\.npy.*readable"):
        BipartiteCsr.open(tmp_path)
    (tmp_path / "item_indices.npy").unlink()
    with pytest.raises(InputError, match=r"item_indices\.npy.*readable"):
        BipartiteCsr.open(tmp_path)
