"""A model that serves several days reads features of the space it was trained in, and of no other."""

from __future__ import annotations

import hashlib
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from support import world
from walkbits.config import Config
from walkbits.errors import ModelError
from walkbits.models.card import copy_model, load_model
from walkbits.runs.stage import StageRun
from walkbits.schemas import FEATURES, NODES, PUBLICATIONS
from walkbits.stages import daily, infer_layers
from walkbits.tables.tables import utc_now

pytestmark = pytest.mark.system

MONDAY, TUESDAY = date(2026, 1, 5), date(2026, 1, 6)


def features_of(context: StageRun) -> dict[str, bytes]:
    nodes = context.store.read(NODES, run_id=context.run_id)
    rows = context.store.read(FEATURES, run_id=context.run_id).join(nodes, "node_id")
    return {row["external_id"]: bytes(row["features"]) for row in rows.collect()}


def train_day(spark: SparkSession, config: Config, ds: date, retrain: bool = False) -> StageRun:
    """The day's stages up to the model."""
    daily.ingest(spark, config, ds=ds)
    daily.run_stage(spark, config, "build_neighborhoods", ds=ds)
    daily.train(spark, config, ds=ds, retrain=retrain)
    return daily.existing(spark, config, ds=ds)


def show(context: StageRun, run_id: str | None = None) -> None:
    """Make a run the live one, as publishing does."""
    seq = context.store.read(PUBLICATIONS).count() + 1
    row = {
        "channel": "live", "seq": seq, "ds": context.run.ds, "run_id": run_id or context.run_id, "prev_run_id": None,
        "model_version": "0" * 12, "inputs_fingerprint": "0" * 64, "rows": 1, "sha": "0" * 64,
        "published_at": utc_now(),
    }  # fmt: skip
    context.store.append(PUBLICATIONS, [row])


def more_items() -> pa.Table:
    """The world's items and as many new ones, with words and prices that shift every mean."""
    index = np.arange(world.NUM_ITEMS)
    new = pa.table(
        {
            "product": pa.array([f"q{i:04d}" for i in index]),
            "title": pa.array([f"apple pie {i}" for i in index]),
            "brand": pa.array(["b1"] * len(index)),
            "price": pa.array(1000.0 + index),
        }
    )
    return pa.concat_tables([world.items(), new])


@pytest.fixture(scope="module")
def monday(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    """A published day, and inputs that have grown since."""
    folder = tmp_path_factory.mktemp("reuse")
    config = world.world_config(folder, {"retrain.every_days": 7, "training.epochs": 1})
    context = train_day(spark, config, MONDAY)
    show(context)
    world.write_inputs(folder / "inputs", items=more_items())
    return context


@pytest.fixture(scope="module")
def tuesday(monday: StageRun) -> StageRun:
    """A day that reuses Monday's model."""
    return train_day(monday.spark, monday.config, TUESDAY)


def test_a_day_that_reuses_a_model_reuses_its_feature_space(monday: StageRun, tuesday: StageRun) -> None:
    cards = [load_model(one.artifacts("model")).card for one in (monday, tuesday)]
    assert cards[0] == cards[1]
    before, after = features_of(monday), features_of(tuesday)
    assert len(after) == 2 * len(before)
    assert {one: after[one] for one in before} == before


def test_the_card_names_the_space_of_the_model_folder(monday: StageRun, tuesday: StageRun) -> None:
    for context in (monday, tuesday):
        folder = context.artifacts("model")
        assert isinstance(folder, Path)
        digest = hashlib.sha256((folder / "feature_space.safetensors").read_bytes()).hexdigest()
        assert load_model(folder).card.feature_space == digest


def test_the_decision_is_kept_whatever_is_published_meanwhile(monday: StageRun) -> None:
    spark, config = monday.spark, monday.config
    ds = date(2026, 1, 7)
    daily.ingest(spark, config, ds=ds)
    context = daily.existing(spark, config, ds=ds)
    before = features_of(context)
    show(monday, "20260106-00000000-a1")  # without a model that could be reused
    daily.ingest(spark, config, ds=ds)
    daily.run_stage(spark, config, "build_neighborhoods", ds=ds)
    daily.train(spark, config, ds=ds)
    show(monday)
    assert features_of(context) == before
    assert load_model(context.artifacts("model")).card.data_run == monday.run_id


def test_retrain_learns_a_space_of_its_own_and_only_once(tuesday: StageRun) -> None:
    spark, config = tuesday.spark, tuesday.config
    ds = date(2026, 1, 8)
    reused = train_day(spark, config, ds)
    before = features_of(reused)
    daily.train(spark, config, ds=ds, retrain=True)
    card = load_model(reused.artifacts("model")).card
    assert card.data_run == reused.run_id
    assert features_of(reused) != before
    version = reused.store.read(FEATURES, run_id=reused.run_id).inputFiles()
    daily.train(spark, config, ds=ds, retrain=True)
    daily.train(spark, config, ds=ds)
    daily.ingest(spark, config, ds=ds)
    assert load_model(reused.artifacts("model")).card == card
    assert reused.store.read(FEATURES, run_id=reused.run_id).inputFiles() == version


def test_features_of_another_space_are_refused(tuesday: StageRun, tmp_path: Path) -> None:
    config = tuesday.config.model_copy(update={"root": str(tmp_path)})
    fresh = train_day(tuesday.spark, config, TUESDAY)
    copy_model(tuesday.artifacts("model"), fresh.artifacts("model"))
    with pytest.raises(ModelError, match=r"feature space must be [0-9a-f]{12}, got [0-9a-f]{12}; "):
        infer_layers.load_run_model(fresh)
