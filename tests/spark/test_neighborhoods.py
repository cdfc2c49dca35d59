"""The neighborhoods stage: every node once, the kernel's rows, under any cut of the work."""

from __future__ import annotations

import os
from pathlib import Path, PosixPath

import numpy as np
import pytest
from pyspark.sql import SparkSession
from reference.plain import unpacked
from reference.walks import neighborhood, random_graph
from walkbits.arrays.places import place_of
from walkbits.errors import InputError
from walkbits.schemas import NEIGHBORHOODS
from walkbits.settings import Walks
from walkbits.tables.rows import Rows
from walkbits.types import Relation
from walkbits.walks.kernel import neighborhoods_of
from walkbits.walks.replicated import build_neighborhoods, weigh_by_context
from walkbits.walks.sharded import sharded_neighborhoods

RELATIONS: tuple[Relation, ...] = ("item_from_item", "item_from_context", "context_from_item")
WALKS = Walks(num_walks=10, num_neighbors=4, restart_probability=0.1)


@pytest.mark.parametrize("relation", RELATIONS)
def test_rows_are_those_of_plain_python(spark: SparkSession, tmp_path: Path, relation: Relation) -> None:
    graph = random_graph(50, 20, 60, 1, True)
    graph.csr().save(tmp_path)
    table = build_neighborhoods(spark, tmp_path, relation, WALKS, seed=5).to_frame()
    rows = table.orderBy("node").collect()
    assert [row.node for row in rows] == list(range(20 if relation == "context_from_item" else 50))
    for row in rows:
        found = list(zip(unpacked(row.neighbors), unpacked(row.visits), strict=True))
        assert found == neighborhood(graph, relation, row.node, WALKS, 5)
    assert any(not row.neighbors for row in rows)  # isolated nodes have a row
    fields = {field.name: field for field in NEIGHBORHOODS.schema}
    assert [field.dataType for field in table.schema] == [fields[name].dataType for name in table.columns]


@pytest.mark.parametrize("partitions", [1, 3, 17])
def test_partitions_and_batches_change_nothing(spark: SparkSession, tmp_path: Path, partitions: int) -> None:
    csr = random_graph(200, 40, 500, 2, False).csr()
    csr.save(tmp_path)
    rows = build_neighborhoods(spark, tmp_path, "item_from_item", WALKS, 5, partitions, nodes_per_batch=7)
    table = rows.to_frame()
    assert table.rdd.getNumPartitions() == partitions
    rows = table.orderBy("node").collect()
    nodes = np.arange(200, dtype=np.int32)
    indptr, neighbors, visits = neighborhoods_of(csr, "item_from_item", nodes, WALKS, 5)
    assert [row.node for row in rows] == list(range(200))
    assert [len(row.neighbors) // 4 for row in rows] == np.diff(indptr).tolist()
    assert [n for row in rows for n in unpacked(row.neighbors)] == neighbors.tolist()
    assert [n for row in rows for n in unpacked(row.visits)] == visits.tolist()


@pytest.mark.parametrize("plan", ["replicated", "sharded"])
def test_a_killed_worker_changes_nothing(spark: SparkSession, tmp_path: Path, plan: str) -> None:
    random_graph(100, 40, 300, 2, False).csr().save(tmp_path / "graph")
    marker = tmp_path / "fired"

    class Deadly(PosixPath):
        """A graph folder that kills the first worker to open it."""

        def __truediv__(self, name: str) -> Path:
            if b"pyspark.daemon" in Path("/proc/self/cmdline").read_bytes() and not marker.exists():
                marker.touch()
                os._exit(9)
            return Path(str(self), name)

    def walk(folder: Path) -> Rows:
        if plan == "replicated":
            return build_neighborhoods(spark, folder, "item_from_item", WALKS, 5)
        scratch = (tmp_path / "walkers").as_uri()
        return sharded_neighborhoods(spark, folder, "item_from_item", WALKS, 5, scratch, 3)

    calm = build_neighborhoods(spark, tmp_path / "graph", "item_from_item", WALKS, 5)
    killed = walk(Deadly(tmp_path / "graph")).to_frame()
    assert killed.orderBy("node").collect() == calm.to_frame().orderBy("node").collect()
    assert marker.exists()


def test_a_single_node_has_its_row_and_no_graph_is_an_error(spark: SparkSession, tmp_path: Path) -> None:
    random_graph(1, 1, 0, 0, False).csr().save(tmp_path)
    assert build_neighborhoods(spark, tmp_path, "item_from_item", WALKS, 5).to_frame().count() == 1
    with pytest.raises(InputError, match="finished"):
        build_neighborhoods(spark, tmp_path / "none", "item_from_item", WALKS, 5)


@pytest.mark.parametrize(
    ("relation", "penalty", "shards", "uri"),
    [
        ("item_from_item", 0.5, 3, False),
        ("item_from_context", 0.0, 1, False),
        ("context_from_item", 0.3, 5, True),
    ],
)
def test_both_plans_give_the_same_rows(
    spark: SparkSession, tmp_path: Path, relation: Relation, penalty: float, shards: int, uri: bool
) -> None:
    graph = place_of((tmp_path / "graph").as_uri()) if uri else tmp_path / "graph"
    random_graph(60, 20, 80, 1, True).csr().save(graph)
    walks = Walks(
        num_walks=20, walk_length=3, num_neighbors=4, restart_probability=0.3, popularity_penalty=penalty
    )
    one = build_neighborhoods(spark, graph, relation, walks, 5).to_frame()
    scratch = str(tmp_path / "walkers")
    other = sharded_neighborhoods(spark, graph, relation, walks, 5, scratch, shards).to_frame()
    assert one.columns == other.columns
    assert one.orderBy("node").collect() == other.orderBy("node").collect()


def test_context_weights_change_the_choice_of_a_context_only(spark: SparkSession) -> None:
    rows = [(0, 0, 3 << 20), (1, 0, 1 << 20), (1, 1, 1 << 20), (2, 0, 1 << 20), (3, 0, 1 << 20)]
    edges = spark.createDataFrame(rows, "item int, context int, weight bigint")
    weighed = weigh_by_context(edges, 0.5, weighted=True).orderBy("item", "context").collect()
    assert [row.weight for row in weighed] == [6 << 20, 2 << 20, 1 << 20, 2 << 20, 2 << 20]
    plain = weigh_by_context(edges, 0.5, weighted=False).where("item = 0").collect()
    assert [row.weight for row in plain] == [2 << 20]
