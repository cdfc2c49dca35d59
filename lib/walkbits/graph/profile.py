"""The shape of the graph, by GraphFrames: validation, degrees, components, k-cores.

GraphFrames' classes live in a jar that may be out of reach; this is the only module that
uses them, and it asks the JVM for them first. Nothing of the daily run needs it unless
`ingest.k_core` is set.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from walkbits.errors import MissingDependencyError

if TYPE_CHECKING:
    from graphframes import GraphFrame

_JVM_CLASS = "org.graphframes.GraphFramePythonAPI"
COORDINATE = "io.graphframes:graphframes-spark4_{scala}:{version}"


def has_graphframes(spark: SparkSession) -> bool:
    """Whether the jar is on the class path of this session."""
    loader = spark._jvm.java.lang.Thread.currentThread().getContextClassLoader()  # type: ignore[union-attr]
    return loader.getResource(_JVM_CLASS.replace(".", "/") + ".class") is not None


def require_graphframes(spark: SparkSession, wanted_by: str) -> None:
    """Stop with one sentence where the jar is absent.

    Raises:
        MissingDependencyError: names the option and the flag that brings the jar.
    """
    if not has_graphframes(spark):
        from importlib.metadata import version

        coordinate = COORDINATE.format(scala="2.13", version=version("graphframes-py"))
        raise MissingDependencyError(
            f"{wanted_by} needs the GraphFrames jar on the class path, got a session without it; "
            f"add `--packages {coordinate}` to spark-submit"
        )


def _graph(spark: SparkSession, nodes: DataFrame, edges: DataFrame) -> GraphFrame:
    from graphframes import GraphFrame

    checkpoints = Path(str(spark.conf.get("spark.sql.warehouse.dir")).removeprefix("file:")) / "_graphframes"
    spark.sparkContext.setCheckpointDir(str(checkpoints))
    return GraphFrame(nodes, edges)


def k_core_edges(edges: DataFrame, k: int) -> DataFrame:
    """Edges inside the k-core: every item and context kept has at least k kept edges.

    Args:
        edges: (item_id, context_id, ...).

    Raises:
        MissingDependencyError: the jar is absent.
    """
    spark = edges.sparkSession
    require_graphframes(spark, f"ingest.k_core={k}")
    # One id space: the type in front keeps an item and a context of one id apart.
    item, context = F.concat(F.lit("i:"), "item_id"), F.concat(F.lit("c:"), "context_id")
    pairs = edges.select(item.alias("src"), context.alias("dst"))
    nodes = pairs.select(F.col("src").alias("id")).union(pairs.select("dst")).distinct()
    cores = _cores(_graph(spark, nodes, pairs)).where(F.col("kcore") >= k)
    items = cores.where(F.col("id").startswith("i:")).select(F.substring("id", 3, 2**31 - 1).alias("item_id"))
    contexts = cores.where(F.col("id").startswith("c:")).select(
        F.substring("id", 3, 2**31 - 1).alias("context_id")
    )
    return (
        edges.join(items, "item_id", "left_semi")
        .join(contexts, "context_id", "left_semi")
        .select(*edges.columns)
    )


def _cores(graph: GraphFrame) -> DataFrame:
    """(id, kcore); an isolated node, which k_core leaves null, is in the 0-core."""
    cores: DataFrame = graph.k_core()
    return cores.select("id", F.coalesce(F.col("kcore"), F.lit(0)).cast("bigint").alias("kcore"))


def graph_profile(nodes: DataFrame, edges: DataFrame, num_items: int) -> DataFrame:
    """Histograms of the graph as (metric, node_type, bucket, nodes); see `schemas.GRAPH_PROFILE`.

    Args:
        nodes: (node_type, node_id). edges: (item, context) indices.

    Raises:
        MissingDependencyError: the jar is absent.
    """
    spark = nodes.sparkSession
    require_graphframes(spark, "profile_graph")
    typed = nodes.select(F.col("node_id").alias("id"), "node_type")
    pairs = edges.select(
        F.col("item").cast("bigint").alias("src"),
        (F.col("context").cast("bigint") + F.lit(num_items)).alias("dst"),
    )
    graph = _graph(spark, typed, pairs)
    graph.validate()
    degrees = typed.join(graph.degrees, "id", "left").select(
        "node_type", F.coalesce(F.col("degree"), F.lit(0)).alias("bucket")
    )
    components = graph.connectedComponents(algorithm="two_phase", broadcastThreshold=-1)
    sizes = components.groupBy("component").agg(F.count(F.lit(1)).alias("bucket"))
    cores = typed.join(_cores(graph), "id", "inner").select("node_type", F.col("kcore").alias("bucket"))
    unknown = pairs.join(typed, pairs.src == typed.id, "left_anti").select(F.lit(0).alias("bucket"))
    return (
        _histogram(degrees, "degree", F.col("node_type"))
        .unionByName(
            sizes.groupBy("bucket").agg((F.count(F.lit(1)) * F.col("bucket")).alias("nodes")).select(
                F.lit("component_size").alias("metric"), F.lit("all").alias("node_type"),
                F.col("bucket").cast("bigint"), F.col("nodes").cast("bigint"),
            )
        )
        .unionByName(_histogram(cores, "k_core_size", F.col("node_type")))
        .unionByName(_histogram(unknown, "validation", F.lit("all")))
    )  # fmt: skip


def _histogram(rows: DataFrame, metric: str, node_type: Column) -> DataFrame:
    return (
        rows.withColumn("node_type", node_type)
        .groupBy("node_type", F.col("bucket").cast("bigint").alias("bucket"))
        .agg(F.count(F.lit(1)).alias("nodes"))
        .select(F.lit(metric).alias("metric"), "node_type", "bucket", "nodes")
    )
