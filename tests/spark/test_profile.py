"""GraphFrames' view of a graph against counts by hand; needs its jar, named by WALKBITS_GRAPHFRAMES_JAR."""

from __future__ import annotations

import pytest
from pyspark.sql import SparkSession
from walkbits.errors import MissingDependencyError
from walkbits.graph.profile import graph_profile, has_graphframes, k_core_edges, require_graphframes

NO_JAR = "the GraphFrames jar is not on the class path; set WALKBITS_GRAPHFRAMES_JAR to one"
# Two items that share two contexts, a tail of one edge, and an item of its own.
EDGES = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 1)]
NUM_ITEMS, NUM_CONTEXTS = 4, 2


@pytest.fixture
def with_jar(spark: SparkSession) -> SparkSession:
    if not has_graphframes(spark):
        pytest.skip(NO_JAR)
    return spark


def test_without_the_jar_one_sentence_names_the_flag(spark: SparkSession) -> None:
    if has_graphframes(spark):
        pytest.skip("the GraphFrames jar is on the class path")
    with pytest.raises(
        MissingDependencyError, match=r"profile_graph needs the GraphFrames jar.*--packages io\.graphframes:"
    ):
        require_graphframes(spark, "profile_graph")


def test_profile_counts_degrees_components_and_cores(with_jar: SparkSession) -> None:
    nodes = with_jar.createDataFrame(
        [("item", i) for i in range(NUM_ITEMS)] + [("context", NUM_ITEMS + c) for c in range(NUM_CONTEXTS)],
        "node_type string, node_id bigint",
    )
    edges = with_jar.createDataFrame(EDGES, "item int, context int")
    rows = graph_profile(nodes, edges, NUM_ITEMS).collect()
    assert {(r["metric"], r["node_type"], r["bucket"]): r["nodes"] for r in rows} == {
        ("degree", "item", 2): 2, ("degree", "item", 1): 1, ("degree", "item", 0): 1,
        ("degree", "context", 2): 1, ("degree", "context", 3): 1,
        ("component_size", "all", 5): 5, ("component_size", "all", 1): 1,
        ("k_core_size", "item", 2): 2, ("k_core_size", "item", 1): 1, ("k_core_size", "item", 0): 1,
        ("k_core_size", "context", 2): 2,
    }  # fmt: skip


def test_k_core_keeps_the_square(with_jar: SparkSession) -> None:
    pairs = [(f"i{i}", f"c{c}") for i, c in EDGES]
    edges = with_jar.createDataFrame(pairs, "item_id string, context_id string")
    assert sorted(tuple(r) for r in k_core_edges(edges, 2).collect()) == pairs[:4]
