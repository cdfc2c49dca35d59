"""Inputs that may be left out or added: a bare log, context tables, impressions, vectors."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from support import world
from walkbits.config import Config
from walkbits.config_file import load_config
from walkbits.errors import ConfigError, InputError
from walkbits.inference.nodes import features_of_nodes
from walkbits.ingest.space import load_space, read_space, space_id
from walkbits.network.declaration import Input, Network, Output
from walkbits.runs.stage import StageRun
from walkbits.schemas import EDGES, FEATURES, IMPRESSIONS, NODES, QUARANTINE
from walkbits.stages import daily
from walkbits.types import NodeType

DAY = date(2026, 1, 31)
BASKETS = world.NUM_CONTEXTS
OF_IDS = {"architecture": "lightgcn"}


def ingested(spark: SparkSession, config: Config) -> StageRun:
    daily.ingest(spark, config, ds=DAY)
    return daily.existing(spark, config, ds=DAY)


def config_of(tmp_path: Path, overrides: dict[str, Any]) -> Config:
    world.write_inputs(tmp_path / "inputs")
    path = world.write_config(tmp_path, tmp_path / "inputs", tmp_path / "root")
    return load_config(path, overrides)


def test_a_log_alone_is_enough_for_a_model_of_ids(spark: SparkSession, tmp_path: Path) -> None:
    config = config_of(tmp_path, {"items": None, "features": {}, "model": OF_IDS})
    context = ingested(spark, config)
    nodes = context.store.read(NODES, run_id=context.run_id)
    touched = sorted(set(world.interactions()["product"].to_pylist()))
    found = nodes.where("node_type = 'item'").orderBy("node_id").collect()
    assert [row["external_id"] for row in found] == touched
    assert [row["node_id"] for row in found] == [*range(len(touched))]
    assert {row["name"] for row in found} == {None}
    assert nodes.where("node_type = 'context'").count() == BASKETS
    assert context.store.read(FEATURES, run_id=context.run_id).count() == 0
    data = read_space(context.artifacts("feature_space"))
    assert load_space(context.artifacts("feature_space"), space_id(data)).layouts == {
        "item": (),
        "context": (),
    }


def test_a_model_that_reads_features_needs_some_before_anything_is_written(
    spark: SparkSession, tmp_path: Path
) -> None:
    for overrides in ({"items": None}, {"items": {"path": "b", "name": "title"}}):
        config = config_of(tmp_path, overrides | {"features": {}})
        with pytest.raises(
            ConfigError,
            match=r"pinsage reads features of items, got none; name columns under items\.text.*features\.degree",
        ):
            daily.run_daily(spark, config, ds=DAY)
    assert not (tmp_path / "root").exists()


def users() -> pa.Table:
    """Every basket, and one that nobody filled."""
    index = np.arange(BASKETS + 1)
    return pa.table(
        {
            "user": index,
            "label": [f"basket {i}" for i in index],
            "segments": [[f"s{i % 3}", "all"] for i in index],
            "since": pa.array(index + 18_000, pa.int32()).cast(pa.date32()),
            "face": [[float(i % 5 + 1), -1.0, 0.0] for i in index],
        }
    )


CONTEXTS = {
    "context": "user", "name": "label", "categorical": ["segments"], "numeric": ["since"], "vectors": {"face": 3},
}  # fmt: skip


@pytest.fixture(scope="module")
def described(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    """A day with all inputs: one user's vector is broken, and some impressions are of nobody."""
    folder = tmp_path_factory.mktemp("inputs")
    table = users()
    broken = table["face"].to_pylist()
    broken[3] = [1.0, float("nan"), 0.0]
    pq.write_table(table.set_column(4, "face", pa.array(broken)), folder / "users.parquet")
    rows = world.interactions()
    taken = next(zip(rows["product"].to_pylist(), rows["basket"].to_pylist(), strict=True))
    pairs = set(zip(rows["product"].to_pylist(), rows["basket"].to_pylist(), strict=True))
    fresh = next((f"p{i:04d}", 5) for i in range(240) if (f"p{i:04d}", 5) not in pairs)
    lonely = ("p0001", BASKETS)
    shown = [taken, fresh, fresh, lonely, ("ghost", 5), ("p0001", 3), ("p0001", -1), (None, 5)]
    item, basket = zip(*shown, strict=True)
    pq.write_table(pa.table({"product": list(item), "user": list(basket)}), folder / "shown.parquet")
    config = config_of(
        folder,
        {
            "contexts": CONTEXTS | {"path": str(folder / "users.parquet")},
            "impressions": {"path": str(folder / "shown.parquet"), "item": "product", "context": "user"},
            "ingest.max_quarantined": 0.6,
        },
    )
    return ingested(spark, config)


def test_contexts_have_names_and_features_and_keep_their_place(described: StageRun) -> None:
    store, run_id = described.store, described.run_id
    nodes = store.read(NODES, run_id=run_id).where("node_type = 'context'").collect()
    assert len(nodes) == BASKETS
    assert all(row["name"] == f"basket {row['external_id']}" for row in nodes)
    assert {row["external_id"]: row["degree"] for row in nodes}[str(BASKETS)] == 0
    assert "3" not in {row["external_id"] for row in nodes}
    network = Network(
        architecture="toy",
        inputs={"item": Input(source="features", width=34), "context": Input(source="features", width=20)},
        outputs={"item": Output(), "context": Output()},
    )
    counts: dict[NodeType, int] = {"item": world.NUM_ITEMS, "context": BASKETS}
    read = features_of_nodes(store, run_id, network, counts)
    for node_type, width in (("item", 34), ("context", 20)):
        rows = read[node_type].to_frame().toArrow().to_pylist()
        assert sorted(row["node"] for row in rows) == [*range(counts[node_type])]
        assert {len(row["features"]) for row in rows} == {4 * width}
    index = {row["external_id"]: row["node_id"] - world.NUM_ITEMS for row in nodes}
    vectors = {
        row["node"]: np.frombuffer(row["features"], "<f4") for row in read["context"].to_frame().collect()
    }
    for user in (0, 7, BASKETS):
        face = np.array([user % 5 + 1, -1, 0])
        np.testing.assert_allclose(vectors[index[str(user)]][17:], face / np.linalg.norm(face), atol=1e-6)


def test_impressions_are_counted_and_what_was_taken_is_none(described: StageRun) -> None:
    store, run_id = described.store, described.run_id
    nodes = store.read(NODES, run_id=run_id).collect()
    item = {row["node_id"]: row["external_id"] for row in nodes if row["node_type"] == "item"}
    context = {
        row["node_id"] - len(item): row["external_id"] for row in nodes if row["node_type"] == "context"
    }
    rows = store.read(IMPRESSIONS, run_id=run_id).collect()
    found = {(item[row["item"]], context[row["context"]]): row["count"] for row in rows}
    assert len(found) == 2
    assert found.pop(("p0001", str(BASKETS))) == 1
    assert [*found.values()] == [2]
    edges = {(row["item"], row["context"]) for row in store.read(EDGES, run_id=run_id).collect()}
    assert not edges & {(row["item"], row["context"]) for row in rows}


def test_every_row_that_is_set_aside_has_its_source_and_reason(described: StageRun) -> None:
    rows = described.store.read(QUARANTINE, run_id=described.run_id).collect()
    found = {(row["source"], row["reason"]) for row in rows}
    assert found == {
        ("contexts", "face holds a null, NaN or infinity"),
        ("interactions", "context is not in the context table"),
        ("impressions", "item is not in the item table"),
        ("impressions", "context is not in the context table"),
        ("impressions", "no item id"),
    }
    assert sum(row["source"] == "interactions" for row in rows) == world.PER_CONTEXT
    assert sum(row["source"] == "impressions" for row in rows) == 4


def test_bad_contexts_and_impressions_are_refused_before_anything_is_written(
    spark: SparkSession, tmp_path: Path
) -> None:
    pq.write_table(users().slice(0, 5), tmp_path / "few.parquet")
    pq.write_table(pa.table({"item_id": ["ghost"], "context_id": [1]}), tmp_path / "ghosts.parquet")
    few = CONTEXTS | {"path": str(tmp_path / "few.parquet")}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"contexts": few}, r"of the interactions may be set aside, .* x context is not in the context table"),
        ({"contexts": few | {"numeric": ["face"]}}, r"contexts\.face must be a number.*got array<double>"),
        (
            {"items": None, "features.degree": ["item"], "impressions": {"path": str(tmp_path / "ghosts.parquet")}},
            r"of the impressions may be set aside, got 1 of 1 \(1 x item is not in the interactions\)",
        ),
    ]  # fmt: skip
    for overrides, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            daily.ingest(spark, config_of(tmp_path, overrides), ds=DAY)
        assert caught.value.exit_code == 2
    assert not (tmp_path / "root").exists()
