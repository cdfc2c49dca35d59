"""What changed since it was logged is refused, by whoever reads it next."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from support.days import DAY, NEXT_DAY, Day, day_of
from walkbits.errors import AuditError, InputError
from walkbits.models.card import load_model, save_model
from walkbits.runs.log import logged_stages
from walkbits.runs.stage import StageRun, check_inputs, execute
from walkbits.schemas import EMBEDDINGS, FEATURES, NEIGHBORHOODS, PUBLICATIONS, STAGE_LOG, TABLES, Table
from walkbits.stages import daily
from walkbits.stages.audit_run import audit_committed, published_outputs

pytestmark = pytest.mark.system

ALL = ("model", "graph")


def check(day: Day) -> None:
    context = day.context()
    logged = logged_stages(context.store, context.run_id)
    check_inputs(context, "reader", {name: logged[name] for name in logged if name in daily.STAGES}, ALL)


def test_changed_features_are_refused_before_the_work(copied: Callable[..., Day]) -> None:
    day = copied()
    shutil.rmtree(day.store.path(PUBLICATIONS))
    check(day)
    before = day.store.read(STAGE_LOG).count()
    path = day.store.path(FEATURES)
    day.spark.sql(f"UPDATE delta.`{path}` SET features = unhex(repeat('00', 68)) WHERE node_id = 3")
    other = day.config.model_copy(
        update={"inference": day.config.inference.model_copy(update={"block_size": 32})}
    )
    with pytest.raises(
        InputError, match=r"infer_layers: .* got others in \['features/node_type=item'\] .* run \w+ again"
    ):
        execute(StageRun(day.store, other, day.context().run), daily.STAGES["infer_layers"])
    assert day.store.read(STAGE_LOG).count() == before


def test_files_that_only_moved_are_no_change(copied: Callable[..., Day]) -> None:
    day = copied()
    for table in (FEATURES, NEIGHBORHOODS):
        day.spark.sql(f"OPTIMIZE delta.`{day.store.path(table)}`")
    check(day)


def test_a_lost_commit_is_a_change(copied: Callable[..., Day]) -> None:
    """The newest commits of a log are gone: the table reads as if the run had never been."""
    day = copied()
    for file in Path(day.store.path(FEATURES), "_delta_log").iterdir():
        if file.is_file() and file.name != f"{0:020d}.json":
            file.unlink()
    day.spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()
    with pytest.raises(InputError, match=r"got others in \['features/node_type=item'\]"):
        check(day)


def test_another_valid_model_is_refused(copied: Callable[..., Day]) -> None:
    day = copied(channel="other")
    context = day.context()
    folder = context.artifacts("model")
    model = load_model(folder)
    card = model.card
    zeros = {name: np.zeros_like(array) for name, array in model.weights.items()}
    save_model(
        folder, card.network, zeros, feature_schema=card.feature_schema, feature_space=None,
        config_hash=card.config_hash, data_run=card.data_run, metrics=card.metrics,
    )  # fmt: skip
    load_model(folder)  # valid in itself
    with pytest.raises(InputError, match=r"got others in \['artifacts/model'\] .* run train_model again"):
        check(day)
    with pytest.raises(InputError, match="artifacts/model"):
        audit_committed(day.context(), None, published_outputs(day.context()))


def test_neighborhoods_are_audited(copied: Callable[..., Day]) -> None:
    day = copied(channel="other")
    path, run_id = day.store.path(NEIGHBORHOODS), day.context().run_id
    day.spark.sql(f"DELETE FROM delta.`{path}` WHERE node = 3 AND run_id = '{run_id}'")
    with pytest.raises(AuditError, match="neighborhoods/relation=item_from_item must re-read as logged"):
        daily.publish_run(day.spark, day.config, ds=DAY)


@pytest.mark.parametrize("table", ["nodes", "embeddings", "codes", "lsh_buckets", "related"])
def test_a_published_table_that_lost_a_row_is_refused(copied: Callable[..., Day], table: str) -> None:
    day = copied(channel="other")
    path, run_id = day.store.path(TABLES[table]), day.context().run_id
    key = "item_id = 'p0003'" if table == "related" else "node_id = 3"
    day.spark.sql(f"DELETE FROM delta.`{path}` WHERE {key} AND run_id = '{run_id}'")
    with pytest.raises(AuditError, match=f"{table} must re-read as logged"):
        daily.publish_run(day.spark, day.config, ds=DAY)


def lose(day: Day, table: Table, run_id: str, how: str) -> None:
    """The largest data file of a run's table is lost or cut, unnoticed by anything that is cached."""
    folder = Path(day.store.path(table), f"run_id={run_id}")
    file = max(folder.rglob("*.parquet"), key=lambda one: one.stat().st_size)
    (file.parent / f".{file.name}.crc").unlink(missing_ok=True)
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    day.spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()


@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_lost_file_of_an_unfinished_run_is_written_again(copied: Callable[..., Day], how: str) -> None:
    day = copied()
    context = day.context()
    truth = day.store.fingerprint(FEATURES, context.run_id)
    shutil.rmtree(day.store.path(PUBLICATIONS))
    lose(day, FEATURES, context.run_id, how)
    again = day_of(day.spark, day.config)
    assert execute(again.context(), daily.STAGES["build_features"])
    assert again.store.fingerprint(FEATURES, context.run_id) == truth
    assert not execute(again.context(), daily.STAGES["infer_layers"])  # what stands is kept


def test_a_lost_file_of_the_live_run_keeps_no_later_day_back(
    copied: Callable[..., Day], caplog: pytest.LogCaptureFixture
) -> None:
    day = copied()
    live = day.live().run_id
    lose(day, EMBEDDINGS, live, "gone")
    with caplog.at_level("WARNING", "walkbits"):
        daily.run_daily(day.spark, day.config, ds=NEXT_DAY + timedelta(days=1))
    assert f"run={live} state=damaged" in caplog.text
    assert day_of(day.spark, day.config).live().ds == NEXT_DAY + timedelta(days=1)
