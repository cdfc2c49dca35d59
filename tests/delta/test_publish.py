"""The pointer: forward only, one winner, no silent skip."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from walkbits.errors import InputError, LostRaceError
from walkbits.runs.log import Run
from walkbits.runs.pointer import Pointer, flip, read_pointer
from walkbits.schemas import PUBLICATIONS
from walkbits.tables.store import Store, Written
from walkbits.tables.views import register_views

OUTPUTS = [Written("embeddings", 10, "ab", 1, 1), Written("codes", 30, "cd", 1, 1)]


def run_of(day: int, fingerprint: str = "0a1b2c3d" + "0" * 56) -> Run:
    return Run(date(2026, 1, day), fingerprint, 1)


@pytest.fixture
def store(spark: SparkSession, tmp_path: Path) -> Store:
    return Store(spark, str(tmp_path / "root"))


def publish(store: Store, run: Run, channel: str = "live", allow_rollback: bool = False) -> int:
    return flip(store, channel, run, read_pointer(store, channel), "0123456789ab", OUTPUTS, allow_rollback)


def test_each_publication_follows_the_last(store: Store) -> None:
    assert read_pointer(store, "live") is None
    assert [publish(store, run_of(day)) for day in (1, 2, 2)] == [1, 2, 3]
    rows = store.read(PUBLICATIONS).orderBy("seq").collect()
    assert [r["prev_run_id"] for r in rows] == [None, run_of(1).run_id, run_of(2).run_id]
    assert {r["rows"] for r in rows} == {40}
    again = run_of(2)
    assert read_pointer(store, "live") == Pointer(
        3, again.ds, again.run_id, again.run_id, again.inputs_fingerprint, "0123456789ab"
    )


def test_an_older_day_needs_to_be_allowed(store: Store) -> None:
    publish(store, run_of(5))
    with pytest.raises(LostRaceError, match=r"ds must be >= the published 2026-01-05, got 2026-01-04"):
        publish(store, run_of(4))
    assert publish(store, run_of(4), allow_rollback=True) == 2


def test_channels_have_pointers_of_their_own(store: Store) -> None:
    publish(store, run_of(5))
    assert publish(store, run_of(1), channel="ds=2026-01-01") == 1
    pointer = read_pointer(store, "live")
    assert pointer is not None
    assert pointer.ds == date(2026, 1, 5)


def test_views_follow_the_channel_and_a_mistyped_root_stays_absent(store: Store, tmp_path: Path) -> None:
    publish(store, run_of(5))
    publish(store, run_of(1), channel="staging")
    for channel, day in (("staging", 1), ("live", 5)):
        register_views(store.spark, store.root, channel=channel)
        (shown,) = store.spark.table("published_run").collect()
        assert (shown["channel"], shown["run_id"]) == (channel, run_of(day).run_id)
    with pytest.raises(InputError, match="root must hold published tables, got .*typo"):
        register_views(store.spark, str(tmp_path / "typo"))
    assert not (tmp_path / "typo").exists()


def test_a_pointer_that_moved_meanwhile_wins(store: Store) -> None:
    expected = read_pointer(store, "live")
    publish(store, run_of(1, "f" * 64))
    with pytest.raises(LostRaceError, match="got 20260101-ffffffff-a1 published meanwhile"):
        flip(store, "live", run_of(2), expected, "m", OUTPUTS)
    assert store.read(PUBLICATIONS).count() == 1


def test_a_publication_that_delta_skips_is_noticed(store: Store, spark: SparkSession) -> None:
    """A writer with this channel's next version came first, without a row of its own."""
    store.ensure(PUBLICATIONS)
    empty = spark.createDataFrame([], PUBLICATIONS.schema)
    empty.write.format("delta").mode("append").option("txnAppId", "publish/live").option(
        "txnVersion", 1
    ).save(store.path(PUBLICATIONS))
    with pytest.raises(LostRaceError):
        publish(store, run_of(1))
    assert store.read(PUBLICATIONS).isEmpty()
