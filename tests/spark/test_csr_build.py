"""The graph built by Spark tasks is, byte for byte, the one built in memory."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from reference.walks import Graph, random_graph
from walkbits.arrays.mapped import files_of, open_file
from walkbits.arrays.places import Place, place_of
from walkbits.errors import InputError
from walkbits.graph.csr import BipartiteCsr
from walkbits.graph.csr_build import csr_info, write_csr


def tables(spark: SparkSession, graph: Graph, partitions: int, shuffle: int) -> tuple[DataFrame, DataFrame]:
    keys = [*graph.item_keys, *graph.context_keys]
    nodes = [("item" if i < graph.num_items else "context", i, key) for i, key in enumerate(keys)]
    edges: list[tuple[Any, ...]] = list(graph.edges)
    generator = np.random.default_rng(shuffle)
    generator.shuffle(edges)
    nodes = [nodes[i] for i in generator.permutation(len(nodes))]
    edge_table = spark.createDataFrame(edges, "item INT, context INT, weight BIGINT")
    node_table = spark.createDataFrame(nodes, "node_type STRING, node_id BIGINT, node_key BIGINT")
    return edge_table.repartition(partitions), node_table.repartition(partitions)


def hashes(folder: Place) -> dict[str, str]:
    return {name: hashlib.sha256(open_file(folder / name).read()).hexdigest() for name in files_of(folder)}


@pytest.mark.parametrize(
    ("weighted", "partitions", "rows_per_slice", "uri"),
    [(False, 1, 1 << 19, False), (True, 1, 1 << 19, False), (True, 3, 25, True), (False, 7, 100, False)],
)
def test_equals_the_graph_built_in_memory(
    spark: SparkSession, tmp_path: Path,
    weighted: bool, partitions: int, rows_per_slice: int, uri: bool,
) -> None:  # fmt: skip
    folder = place_of((tmp_path / "spark").as_uri()) if uri else tmp_path / "spark"
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "13")  # rows are cut across batches
    try:
        graph = random_graph(90, 40, 250, 1, weighted)
        edges, nodes = tables(spark, graph, partitions, shuffle=partitions)
        info = write_csr(edges, nodes, 90, 40, folder, weighted, rows_per_slice)
    finally:
        spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
    graph.csr().save(tmp_path / "memory")
    assert hashes(folder) == hashes(tmp_path / "memory")
    assert info == csr_info(spark, tmp_path / "memory")
    assert info.bytes == sum(path.stat().st_size for path in (tmp_path / "memory").iterdir())
    assert BipartiteCsr.open(folder).num_edges == len(graph.edges)


def test_a_second_build_over_the_first_gives_the_same_bytes(spark: SparkSession, tmp_path: Path) -> None:
    graph = random_graph(30, 20, 100, 2, True)
    first = write_csr(*tables(spark, graph, 2, 0), 30, 20, tmp_path, True)
    before = hashes(tmp_path)
    assert write_csr(*tables(spark, graph, 5, 1), 30, 20, tmp_path, True) == first
    assert hashes(tmp_path) == before


def test_info_sees_a_changed_bit(spark: SparkSession, tmp_path: Path) -> None:
    random_graph(30, 20, 100, 2, True).csr().save(tmp_path)
    before = csr_info(spark, tmp_path)
    with (tmp_path / "item_indices.npy").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x01")
    assert csr_info(spark, tmp_path).sha256 != before.sha256


def test_a_killed_worker_changes_nothing(spark: SparkSession, tmp_path: Path) -> None:
    graph = random_graph(60, 30, 200, 3, True)
    expected = write_csr(*tables(spark, graph, 3, 0), 60, 30, tmp_path / "calm", True)
    marker = tmp_path / "fired"

    def die_once(batches: Any) -> Any:
        yield from batches
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os._exit(9)

    edges, nodes = tables(spark, graph, 3, 0)
    info = write_csr(edges.mapInArrow(die_once, edges.schema), nodes, 60, 30, tmp_path / "killed", True)
    assert marker.exists()
    assert info == expected


def test_graphs_without_edges_and_single_edges(spark: SparkSession, tmp_path: Path) -> None:
    for name, edges in (("none", []), ("one", [(1, 0, 5)])):
        graph = Graph(2, 1, edges, True, [4, -5], [6])
        write_csr(*tables(spark, graph, 1, 0), 2, 1, tmp_path / name, True)
        graph.csr().save(tmp_path / "memory")
        assert hashes(tmp_path / name) == hashes(tmp_path / "memory")
        assert json.loads((tmp_path / name / "meta.json").read_text())["num_edges"] == len(edges)


@pytest.mark.parametrize(
    ("edges", "num_items", "word"),
    [
        ([(0, 0, 1), (1, 1, 0)], 3, "weight must be > 0"),
        ([(0, 0, 1)], 4, "each of 4 items once"),
        ([(0, 0, 1), (3, 0, 1)], 3, "1 of 2 edges"),
        ([(0, 5, 1)], 3, "0 of 1 edges"),
    ],
)
def test_broken_input_stops_before_any_file(
    spark: SparkSession, tmp_path: Path, edges: list[tuple[int, int, int]], num_items: int, word: str
) -> None:
    graph = Graph(3, 2, edges, True, [1, 2, 3], [4, 5])
    with pytest.raises(InputError, match=word):
        write_csr(*tables(spark, graph, 1, 0), num_items, 2, tmp_path / "graph", True)
    assert not (tmp_path / "graph").exists()


def test_a_repeated_edge_fails_and_leaves_no_graph(spark: SparkSession, tmp_path: Path) -> None:
    graph = Graph(3, 2, [(0, 0, 1), (0, 0, 2)], True, [1, 2, 3], [4, 5])
    with pytest.raises(Exception, match="each edge once"):
        write_csr(*tables(spark, graph, 1, 0), 3, 2, tmp_path, True)
    with pytest.raises(InputError, match="finished"):
        BipartiteCsr.open(tmp_path)
