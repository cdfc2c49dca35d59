"""The engine on Spark: equal to plain loops, and to itself under any partitioning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from pyspark.sql import SparkSession
from reference.network import MODELS, World, random_weights, random_world
from reference.network import embeddings as plain_embeddings
from reference.plain import Graph, algorithm_2, hub_graph, packed, random_graph
from support import layers_elsewhere
from support.parquet_layers import ParquetLayers
from walkbits.errors import InputError, WalkbitsError
from walkbits.inference.layers import Inferred, infer
from walkbits.models import parse_model
from walkbits.models.base import ModelSettings, Shapes
from walkbits.models.card import Card, LoadedModel, load_model, new_nodes_of, save_model
from walkbits.models.pinsage import PinSage
from walkbits.network.declaration import Network
from walkbits.schemas import EMBEDDINGS, REPRESENTATIONS
from walkbits.settings import Inference
from walkbits.tables.rows import Rows, union_of

NODES = 70
MODEL = PinSage(num_layers=2, hidden_size=6, embedding_size=5)


@pytest.fixture
def graph() -> Graph:
    return random_graph(1, NODES, 7, 9)


@pytest.fixture
def model() -> LoadedModel:
    network = network_of(MODEL)
    return loaded(network, random_weights(network, 1))


def network_of(model: PinSage) -> Network:
    return model.network(Shapes({"item": NODES}, {"item": 7}))


def loaded(network: Any, weights: dict[str, np.ndarray]) -> LoadedModel:
    card = Card(
        network=network,
        feature_schema="0" * 64,
        config_hash="0" * 64,
        data_run="20260101-00000000-a1",
        metrics={},
        weights_sha256="0" * 64,
        new_nodes=new_nodes_of(network),
    )
    return LoadedModel(card, weights)


def feature_rows(
    spark: SparkSession, features: np.ndarray, partitions: int = 2, shuffled: bool = False
) -> Rows:
    rows = [(node, row.astype("<f4").tobytes()) for node, row in enumerate(features)]
    order = np.random.default_rng(0).permutation(len(rows)) if shuffled else range(len(rows))
    frame = spark.createDataFrame([rows[i] for i in order], "node int, features binary")
    return Rows.of(frame.repartition(partitions))


def neighborhood_rows(spark: SparkSession, rows: Any, partitions: int = 2, shuffled: bool = False) -> Rows:
    listed = [(node, packed(neighbors), packed(visits)) for node, (neighbors, visits) in enumerate(rows)]
    order = np.random.default_rng(1).permutation(len(rows)) if shuffled else range(len(rows))
    schema = "node int, neighbors binary, visits binary"
    return Rows.of(spark.createDataFrame([listed[i] for i in order], schema).repartition(partitions))


def run(
    spark: SparkSession,
    model: LoadedModel,
    graph: Graph,
    folder: Path,
    block_size: int = 16,
    cache_bytes: int | None = None,
    message_dtype: str = "fp32",
    **shape: Any,
) -> tuple[Inferred, ParquetLayers]:
    layers = ParquetLayers(spark, folder / "layers")
    inferred = infer(
        spark,
        model,
        {"item": feature_rows(spark, graph.features, **shape)},
        {"item": len(graph.features)},
        lambda relation: neighborhood_rows(spark, graph.rows, **shape),
        Inference(block_size=block_size, cache_bytes=cache_bytes, message_dtype=message_dtype),
        folder / "run",
        layers,
    )
    return inferred, layers


def embeddings_of(inferred: Inferred) -> np.ndarray:
    table = union_of(inferred.parts).toArrow().sort_by("node")
    assert table["node"].to_pylist() == list(range(table.num_rows))
    return np.array(table["embedding"].to_pylist(), np.float32)


def test_engine_equals_plain_loops(
    spark: SparkSession, model: LoadedModel, graph: Graph, tmp_path: Path
) -> None:
    inferred, layers = run(spark, model, graph, tmp_path)
    got = embeddings_of(inferred)
    plain = algorithm_2(graph, model.weights, MODEL, list(range(NODES)))
    np.testing.assert_allclose(got, plain, rtol=0, atol=1e-5)
    sure = np.abs(plain) > 1e-5
    np.testing.assert_array_equal((got > 0)[sure], (plain > 0)[sure])
    assert layers.written == layers.proven == [1]
    assert layers.read(1, "item").to_frame().count() == NODES


def test_the_model_runs_once_per_node_and_layer(
    spark: SparkSession, model: LoadedModel, graph: Graph, tmp_path: Path
) -> None:
    inferred, _ = run(spark, model, graph, tmp_path, partitions=3)
    with pytest.raises(WalkbitsError, match="once per node and pass"):
        inferred.model_rows.check()
    union_of(inferred.parts).write.format("noop").mode("overwrite").save()
    inferred.model_rows.check()
    assert inferred.model_rows.seen() == {
        "layer 1: project item_from_item": NODES,
        "layer 1: convolve item": NODES,
        "layer 2: project item_from_item": NODES,
        "layer 2: convolve item": NODES,
    }
    union_of(inferred.parts).write.format("noop").mode("overwrite").save()
    assert inferred.model_rows.seen()["layer 2: convolve item"] == 2 * NODES


@pytest.mark.parametrize(
    "shape",
    [{"partitions": 1}, {"partitions": 3}, {"partitions": 7}, {"shuffled": True}],
    ids=lambda shape: "-".join(f"{key}={value}" for key, value in shape.items()),
)
def test_partitions_and_order_do_not_change_a_bit(
    spark: SparkSession, model: LoadedModel, graph: Graph, tmp_path: Path, shape: dict[str, Any]
) -> None:
    base = embeddings_of(run(spark, model, graph, tmp_path / "a")[0])
    other = embeddings_of(run(spark, model, graph, tmp_path / "b", **shape)[0])
    np.testing.assert_array_equal(base.view(np.uint32), other.view(np.uint32))


@pytest.mark.parametrize("pooling", ["importance", "max"])
def test_any_budget_gives_the_same_embeddings_and_signs(
    spark: SparkSession, tmp_path: Path, pooling: str
) -> None:
    hubs = hub_graph(4, NODES, 7, 9)
    network = network_of(MODEL.model_copy(update={"pooling": pooling}))
    model = loaded(network, random_weights(network, 4))
    everything = embeddings_of(run(spark, model, hubs, tmp_path / "all")[0])
    for budget, shape in ((NODES * 6 * 2, {}), (0, {"partitions": 3, "shuffled": True})):
        inferred, _ = run(spark, model, hubs, tmp_path / f"{budget}", cache_bytes=budget, **shape)
        got = embeddings_of(inferred)
        inferred.model_rows.check()
        np.testing.assert_allclose(got, everything, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(got > 0, everything > 0)


def test_half_precision_messages_stay_close(
    spark: SparkSession, model: LoadedModel, graph: Graph, tmp_path: Path
) -> None:
    everything = embeddings_of(run(spark, model, graph, tmp_path / "all")[0])
    got = embeddings_of(run(spark, model, graph, tmp_path / "b", cache_bytes=0, message_dtype="fp16")[0])
    np.testing.assert_allclose(got, everything, rtol=0, atol=5e-3)
    assert not np.array_equal(got, everything)


def test_column_types_are_those_of_the_tables(
    spark: SparkSession, model: LoadedModel, graph: Graph, tmp_path: Path
) -> None:
    inferred, layers = run(spark, model, graph, tmp_path)
    assert union_of(inferred.parts).schema["embedding"].dataType == EMBEDDINGS.schema["embedding"].dataType
    committed = layers.read(1, "item").to_frame()
    for name in ("node", "representation"):
        assert committed.schema[name].dataType == REPRESENTATIONS.schema[name].dataType


def test_only_the_last_layers_matrices_remain(
    spark: SparkSession, model: LoadedModel, graph: Graph, tmp_path: Path
) -> None:
    run(spark, model, graph, tmp_path)
    remaining = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert remaining == ["item.1.npy", "item_from_item.2.npy"]


def test_workers_compute_with_one_thread(spark: SparkSession) -> None:
    def threads(batches: Any) -> Any:

        import pyarrow as pa

        list(batches)
        yield pa.RecordBatch.from_pydict({"threads": [os.environ["OMP_NUM_THREADS"]]})

    assert {row.threads for row in spark.range(2).mapInArrow(threads, "threads string").collect()} == {"1"}


@pytest.mark.parametrize("damage", ["missing", "doubled", "outside"])
def test_features_must_hold_each_node_once(
    spark: SparkSession, model: LoadedModel, graph: Graph, tmp_path: Path, damage: str
) -> None:
    rows = feature_rows(spark, graph.features).to_frame()
    if damage == "missing":
        rows = rows.where("node != 3")
    elif damage == "doubled":
        rows = rows.selectExpr("CASE WHEN node = 3 THEN 4 ELSE node END AS node", "features")
    else:
        rows = rows.selectExpr("CASE WHEN node = 3 THEN 70 ELSE node END AS node", "features")
    with pytest.raises(InputError, match=r"item: .*node"):
        infer(
            spark, model, {"item": Rows.of(rows)}, {"item": NODES},
            lambda relation: neighborhood_rows(spark, graph.rows),
            Inference(), tmp_path / "run", ParquetLayers(spark, tmp_path),
        )  # fmt: skip


def test_features_of_another_width_are_refused_with_both_widths(
    spark: SparkSession, model: LoadedModel, tmp_path: Path
) -> None:
    graph = random_graph(1, NODES, 8, 9)
    with pytest.raises(InputError, match=r"must hold 7 fp32 values \(28 bytes\), got one of 32 bytes"):
        run(spark, model, graph, tmp_path)


def test_features_of_the_input_must_be_given(spark: SparkSession, model: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="features of item must be given"):
        infer(
            spark, model, {}, {"item": NODES}, lambda relation: Rows.of(spark.range(1)),
            Inference(), tmp_path / "run", ParquetLayers(spark, tmp_path),
        )  # fmt: skip


def key_rows(spark: SparkSession, keys: np.ndarray, partitions: int = 2) -> Rows:
    rows = [(node, int(key)) for node, key in enumerate(keys)]
    return Rows.of(spark.createDataFrame(rows, "node int, node_key bigint").repartition(partitions))


def save_world_model(model: ModelSettings, world: World, seed: int, folder: Path) -> dict[str, np.ndarray]:
    network = model.network(world.shapes)
    weights = random_weights(network, seed)
    save_model(
        folder, network, weights,
        feature_schema="0" * 64, config_hash="0" * 64, data_run="run", metrics={}, keys=world.keys,
    )  # fmt: skip
    return weights


def infer_world(
    spark: SparkSession,
    world: World,
    model: Path,
    folder: Path,
    layers: ParquetLayers,
    partitions: int,
    **knobs: Any,
) -> Inferred:
    return infer(
        spark,
        load_model(model),
        {t: feature_rows(spark, rows, partitions) for t, rows in world.features.items()},
        world.num_nodes,
        lambda update: neighborhood_rows(spark, world.rows[update.reads], partitions, shuffled=True),
        Inference(**knobs),
        folder,
        layers,
        lambda node_type: key_rows(spark, world.keys[node_type], partitions),
    )


@pytest.mark.parametrize("model", MODELS, ids=lambda one: one.architecture)
@pytest.mark.parametrize(
    ("seed", "partitions", "block_size", "cache_bytes"), [(0, 2, 16, None), (1, 5, 64, 600)]
)
def test_every_model_runs_as_declared_and_resumes_at_a_layer(
    spark: SparkSession,
    tmp_path: Path,
    model: ModelSettings,
    seed: int,
    partitions: int,
    block_size: int,
    cache_bytes: int | None,
) -> None:
    world = random_world(seed, 40, 23)
    network, saved = model.network(world.shapes), tmp_path / "model"
    weights = save_world_model(model, world, seed, saved)
    knobs = {"block_size": block_size, "cache_bytes": cache_bytes}
    layers = ParquetLayers(spark, tmp_path / "layers")
    inferred = infer_world(spark, world, saved, tmp_path / "run", layers, partitions, **knobs)
    table = union_of(inferred.parts).toArrow().sort_by([("node_type", "ascending"), ("node", "ascending")])
    inferred.model_rows.check()
    assert layers.proven == list(range(1, len(network.layers)))
    if layers.proven:
        killed = ParquetLayers(spark, tmp_path / "layers", kept=layers.proven[-1])
        resumed = infer_world(spark, world, saved, tmp_path / "resumed", killed, partitions, **knobs)
        again = union_of(resumed.parts).toArrow().sort_by([("node_type", "ascending"), ("node", "ascending")])
        resumed.model_rows.check()
        assert not killed.written
        assert not any(
            f"layer {kept}:" in one for kept in layers.proven for one in resumed.model_rows.expected
        )
        assert again["embedding"].equals(table["embedding"])
    for node_type, wanted in plain_embeddings(network, weights, world).items():
        rows = table.filter(pc.equal(table["node_type"], node_type))
        assert rows["node"].to_pylist() == list(range(len(wanted)))
        got = np.array(rows["embedding"].to_pylist())
        assert got.shape[1] == network.embedding_size(node_type)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)
        sure = np.abs(wanted) > 1e-5
        np.testing.assert_array_equal((got > 0)[sure], (wanted > 0)[sure])


@pytest.mark.parametrize("architecture", ["lightgcn", "two_tower"])
def test_rows_of_ids_follow_the_keys_and_unknown_nodes_start_at_zeros(
    spark: SparkSession, tmp_path: Path, architecture: str
) -> None:
    """A later day has other nodes at other numbers: each known one keeps its own row.

    Items of two_tower have nothing but rows here: the unknown ones are left out."""
    trained_on, later = random_world(2, 20, 9), random_world(3, 30, 12)
    for one, keys in trained_on.keys.items():
        shared = np.random.default_rng(5).permutation(len(later.keys[one]))[: len(keys) // 2]
        later.keys[one][:] = 10_000 + np.arange(len(later.keys[one]))
        later.keys[one][shared] = keys[: len(shared)]
    model = parse_model({"architecture": architecture, "embedding_size": 6})
    weights = save_world_model(model, trained_on, 2, tmp_path / "model")
    layers = ParquetLayers(spark, tmp_path / "layers")
    inferred = infer_world(spark, later, tmp_path / "model", tmp_path / "run", layers, 3, block_size=16)
    expected = dict(weights)
    for one in model.network(later.shapes).inputs:
        keys = later.keys[one]
        rows = dict(zip(trained_on.keys[one].tolist(), weights[f"inputs.{one}"], strict=True))
        expected[f"inputs.{one}"] = np.array(
            [rows.get(key, np.zeros(6, np.float32)) for key in keys.tolist()]
        )
        assert 0 < sum(key in rows for key in keys.tolist()) < len(keys)
    plain = plain_embeddings(model.network(later.shapes), expected, later)
    for row in union_of(inferred.parts).collect():
        np.testing.assert_allclose(row.embedding, plain[row.node_type][row.node], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("master", "uri"), [("local[1]", False), ("local-cluster[2,1,1024]", True)])
def test_other_masters_and_executors_that_share_no_disk_give_the_same_bits(
    spark: SparkSession, tmp_path: Path, master: str, uri: bool
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    artifacts = tmp_path / "artifacts"
    where = artifacts.as_uri() if uri else artifacts
    subprocess.run(
        [sys.executable, "-m", layers_elsewhere.__name__, master, tmp_path / "there", where],
        check=True,
        cwd=tmp_path,  # a local cluster writes its work folder here
        timeout=300,
    )
    for budget in layers_elsewhere.BUDGETS:
        here = layers_elsewhere.embeddings(spark, tmp_path / "here", tmp_path / "mapped", budget)
        there = np.load(tmp_path / "there" / f"{budget}.npy")
        np.testing.assert_array_equal(here.view(np.uint32), there.view(np.uint32))


def test_a_killed_worker_changes_no_bit_and_no_count(
    spark: SparkSession, model: LoadedModel, graph: Graph, tmp_path: Path
) -> None:
    base = embeddings_of(run(spark, model, graph, tmp_path / "a")[0])
    marker = str(tmp_path / "killed")

    def kill_once(batches: Any) -> Any:
        import signal

        yield from batches
        # After the rows: the model has counted them, and a retry must not count them again.
        if not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)

    rows = neighborhood_rows(spark, graph.rows)
    inferred = infer(
        spark,
        model,
        {"item": feature_rows(spark, graph.features)},
        {"item": NODES},
        lambda relation: rows.then(kill_once, rows.schema),
        Inference(block_size=16),
        tmp_path / "run",
        ParquetLayers(spark, tmp_path / "layers"),
    )
    retried = embeddings_of(inferred)
    assert Path(marker).exists()
    inferred.model_rows.check()
    np.testing.assert_array_equal(base.view(np.uint32), retried.view(np.uint32))
