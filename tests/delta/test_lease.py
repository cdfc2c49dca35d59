"""The lease as rows, as where drivers share no disk: one holder, a number that rises, a holder that wakes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from walkbits.errors import LostRaceError
from walkbits.runs.lease import check_held, leased, seal
from walkbits.schemas import LEASES, NODES
from walkbits.tables.commits import Commits
from walkbits.tables.store import Store, Written

RUN = "20260131-0a1b2c3d-a1"


@pytest.fixture(autouse=True)
def no_shared_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Commits, "lock_file", lambda *_: None)


@pytest.fixture
def store(spark: SparkSession, tmp_path: Path) -> Store:
    return Store(spark, str(tmp_path / "root"))


def other(store: Store) -> Store:
    """Another driver."""
    return Store(store.spark, store.root)


def write(store: Store, count: int) -> Written:
    rows = [("item", node, f"p{node}", None, node, 1) for node in range(count)]
    schema = (
        "node_type string, node_id bigint, external_id string, name string, node_key bigint, degree bigint"
    )
    return store.write(NODES, store.spark.createDataFrame(rows, schema), RUN)


def test_a_second_driver_waits_for_the_release(store: Store) -> None:
    with leased(store, RUN):
        with (
            pytest.raises(LostRaceError, match="one driver at a time may work on it, got process"),
            leased(other(store), RUN),
        ):
            pass
        check_held(store, RUN)
        with leased(other(store), "20260131-0a1b2c3d-a2"):  # another run is free
            pass
    with leased(other(store), RUN):
        pass
    rows = store.read(LEASES, run_id=RUN).orderBy("seq").collect()
    assert [row["seq"] for row in rows] == [*range(1, len(rows) + 1)]
    assert [row["fence"] for row in rows] == sorted(row["fence"] for row in rows)
    assert rows[-1]["fence"] == 2


def lapsed(first: Store, then: Any) -> None:
    """A driver holds the lease, sleeps beyond it, and another takes over before it wakes in `then`."""
    with leased(first, RUN), leased(second := other(first), RUN, ttl=timedelta(0)):
        then(second)


def test_a_lease_that_nobody_renewed_is_free_and_its_holder_learns_of_it(store: Store) -> None:
    def woken(second: Store) -> None:
        assert second.commits.fence_of(RUN) > store.commits.fence_of(RUN)
        with pytest.raises(LostRaceError, match="one driver at a time"):
            check_held(store, RUN)
        check_held(second, RUN)

    with pytest.raises(LostRaceError):  # the first cannot release what is not its own
        lapsed(store, woken)


def test_a_holder_that_wakes_replaces_nothing(store: Store) -> None:
    """Neither what its successor wrote again, nor what its successor is about to publish."""

    def woken(second: Store) -> None:
        write(second, 3)
        written = write(second, 4)
        with pytest.raises(LostRaceError, match="nodes: only the driver that holds run"):
            write(store, 9)
        seal(second, RUN, [written])
        with pytest.raises(LostRaceError, match="nodes: only the driver that holds run"):
            write(store, 9)
        assert store.fingerprint(NODES, RUN) == (4, written.fingerprint)

    with pytest.raises(LostRaceError):
        lapsed(store, woken)


def test_a_sealed_output_waits_for_the_next_lease(store: Store) -> None:
    with leased(store, RUN):
        written = write(store, 3)
        seal(store, RUN, [written])
        with pytest.raises(LostRaceError):
            write(store, 4)
    with leased(again := other(store), RUN):
        assert write(again, 4).rows == 4
