"""Rows that the driver makes itself: what it knows of a log is what the table holds."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import deltalake
import pytest
from pyspark.sql import Row, SparkSession
from walkbits.errors import LostRaceError
from walkbits.schemas import RUN_METRICS, RUNS
from walkbits.tables.store import Store
from walkbits.tables.tables import utc_now

RUN, OTHER = "20260101-aaaaaaaa-a1", "20260102-bbbbbbbb-a1"
TEXTS = ["", "a\nb,'\"", "हिन्दी", "\U0010ffff" * 40, None]


@pytest.fixture
def store(spark: SparkSession, tmp_path: Path) -> Store:
    return Store(spark, str(tmp_path / "root"))


def state(run_id: str, label: str | None = None, attempt: int = 1) -> dict[str, Any]:
    return {
        "run_id": run_id, "ds": date(2026, 1, attempt), "attempt": attempt, "state": "created", "detail": None,
        "inputs_fingerprint": "f", "label": label, "config": "{}",
        "recorded_at": datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC),
    }  # fmt: skip


def stored(store: Store) -> list[dict[str, Any]]:
    """The rows, by a reader that knows nothing of the session."""
    return deltalake.DeltaTable(store.path(RUNS)).to_pyarrow_table().select(RUNS.names).to_pylist()


def test_a_driver_knows_its_own_rows_as_the_table_holds_them(store: Store, spark: SparkSession) -> None:
    assert store.collect(RUNS, run_id=RUN) == []
    assert not Path(store.root).exists()
    store.append(RUNS, [state(RUN, TEXTS[0])])
    store.collect(RUNS, run_id=RUN)
    for number, text in enumerate(TEXTS[1:], 2):
        store.append(RUNS, [state(RUN, text, number), state(OTHER, text, number)])
    known = store.collect(RUNS, run_id=RUN)
    assert [row["label"] for row in sorted(known, key=lambda row: row["attempt"])] == TEXTS
    for reader in (store, Store(spark, store.root)):
        rows = [row.asDict() for row in reader.collect(RUNS)]
        assert sorted(rows, key=str) == sorted(stored(store), key=str)
        assert [row for row in rows if row["run_id"] == RUN] == [
            row.asDict() for row in sorted(known, key=lambda row: rows.index(row.asDict()))
        ]
    assert store.read(RUNS, run_id=RUN).where("label is null").count() == 1


def test_a_commit_of_another_driver_is_read(store: Store, spark: SparkSession) -> None:
    store.append(RUNS, [state(RUN)])
    assert len(store.collect(RUNS, run_id=RUN)) == 1
    other = Store(spark, store.root)
    other.append(RUNS, [state(RUN, attempt=2)])
    store.append(RUNS, [state(RUN, attempt=3)])
    assert sorted(row["attempt"] for row in store.collect(RUNS, run_id=RUN)) == [1, 2, 3]
    assert sorted(row["attempt"] for row in other.collect(RUNS, run_id=RUN)) == [1, 2, 3]
    assert sorted(row["seq"] for row in other.collect(RUNS)) == [1, 2, 3]


def figures(value: float, *stages: str) -> list[dict[str, Any]]:
    return [
        {"stage": stage, "metric": name, "value": value, "unit": "ratio", "recorded_at": utc_now()}
        for stage in stages
        for name in ("a", "b")
    ]


def test_figures_take_the_place_of_their_stages_earlier_ones(store: Store, spark: SparkSession) -> None:
    both = ("train_model", "train_model.cost")
    store.write_local(RUN_METRICS, figures(1.0, *both), RUN, "stage", both)
    store.write_local(RUN_METRICS, figures(2.0, "audit_run"), RUN, "stage", ["audit_run"])
    store.write_local(RUN_METRICS, figures(3.0, *both), OTHER, "stage", both)
    again = Store(spark, store.root)
    again.write_local(RUN_METRICS, figures(float("nan"), both[1]), RUN, "stage", both)
    found = {
        (row["run_id"], row["stage"], row["metric"]): row["value"]
        for row in store.read(RUN_METRICS).collect()
    }
    assert {key[:2] for key in found} == {
        (RUN, both[1]), (RUN, "audit_run"), (OTHER, both[0]), (OTHER, both[1])
    }  # fmt: skip
    assert found[RUN, "audit_run", "a"] == 2.0
    where = {"run_id": RUN, "metric": "a"}
    assert store.collect(RUN_METRICS, ("value",), **where, stage="audit_run") == [Row(value=2.0)]
    assert {row["stage"] for row in store.collect(RUN_METRICS, ("stage",), **where)} == {"audit_run", both[1]}
    assert sorted(row["value"] for row in store.collect(RUN_METRICS, ("value",), run_id=OTHER)) == [3.0] * 4
    assert found[OTHER, both[0], "b"] == 3.0
    assert found[RUN, both[1], "a"] != found[RUN, both[1], "a"]


def test_a_driver_with_an_older_fence_replaces_no_figures(store: Store, spark: SparkSession) -> None:
    stages = ["audit_run"]
    newer = Store(spark, store.root)
    newer.commits.fence(RUN, 2)
    store.commits.fence(RUN, 1)
    for one in (store, newer):
        one.write_local(RUN_METRICS, figures(1.0, *stages), RUN, "stage", stages)
    with pytest.raises(LostRaceError, match="newer driver"):
        store.write_local(RUN_METRICS, figures(5.0, *stages), RUN, "stage", stages)
    assert {row["value"] for row in store.read(RUN_METRICS).collect()} == {1.0}
