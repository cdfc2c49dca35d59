"""What is live and damaged is called so: by verify, and by the jobs that would find nothing to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.days import NEXT_DAY, Day
from walkbits.errors import AuditError, InputError
from walkbits.schemas import CODES, PUBLICATIONS, RELATED, TABLES
from walkbits.stages import daily

pytestmark = pytest.mark.system


def verify(day: Day) -> None:
    daily.verify(day.spark, day.config)


def forget(day: Day) -> None:
    """As a new driver knows the tables."""
    day.spark._jvm.org.apache.spark.sql.delta.DeltaLog.clearCache()


def test_a_whole_publication_passes_and_nothing_is_written(two_days: Day) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(two_days.config.root).rglob("*.json")}
    verify(two_days)
    assert {path: path.stat().st_mtime_ns for path in Path(two_days.config.root).rglob("*.json")} == before


@pytest.mark.parametrize("table", ["nodes", "neighborhoods", "embeddings", "codes", "lsh_buckets", "related"])
def test_a_lost_row_is_found(copied: Callable[..., Day], table: str) -> None:
    day = copied()
    key = {"related": "item_id = 'p0003'", "neighborhoods": "node = 3"}.get(table, "node_id = 3")
    path, run_id = day.store.path(TABLES[table]), day.live().run_id
    day.spark.sql(f"DELETE FROM delta.`{path}` WHERE {key} AND run_id = '{run_id}'")
    with pytest.raises(AuditError, match=f"{table}.* must re-read as logged"):
        verify(day)


def test_jobs_with_nothing_to_do_look_at_what_is_live(copied: Callable[..., Day]) -> None:
    day = copied()
    day.spark.sql(f"DELETE FROM delta.`{day.store.path(RELATED)}` WHERE rank = 1")
    for job in (daily.run_daily, daily.audit_run, daily.publish_run):
        with pytest.raises(AuditError, match="is published and damaged: related must re-read"):
            job(day.spark, day.config, ds=NEXT_DAY)


def test_a_lost_commit_is_found(copied: Callable[..., Day]) -> None:
    """The newest commit of codes, then that of the pointer itself."""
    day = copied()
    for table, finding in (
        (CODES, "codes must re-read as logged"),
        (PUBLICATIONS, "must name every run that was published"),
    ):
        commits = sorted(Path(day.store.path(table), "_delta_log").glob("*.json"))
        for crc in Path(day.store.path(table), "_delta_log").glob("*.crc"):
            crc.unlink()
        saved = commits[-1].read_bytes()
        commits[-1].unlink()
        forget(day)
        with pytest.raises(AuditError, match=finding):
            verify(day)
        commits[-1].write_bytes(saved)
        forget(day)
    verify(day)


def test_codes_that_are_not_the_signs_are_found_though_the_log_agrees(copied: Callable[..., Day]) -> None:
    """Codes and their log row changed together: only the embeddings say what is right."""
    day = copied()
    run_id = day.live().run_id
    day.spark.sql(
        f"UPDATE delta.`{day.store.path(CODES)}` SET code = transform(code, w -> ~w) "
        f"WHERE node_id = 3 AND code_bits = 128 AND run_id = '{run_id}'"
    )
    rows, found = day.store.fingerprint(CODES, run_id)
    day.spark.sql(
        f"UPDATE delta.`{day.store.path(TABLES['stage_log'])}` SET fingerprint = '{found}', rows = {rows} "
        f"WHERE output = 'codes' AND run_id = '{run_id}'"
    )
    with pytest.raises(AuditError, match="codes must equal what its source gives"):
        verify(day)


def test_another_model_and_no_publication_are_found(copied: Callable[..., Day]) -> None:
    day = copied()
    day.spark.sql(f"UPDATE delta.`{day.store.path(PUBLICATIONS)}` SET model_version = '0123456789ab'")
    with pytest.raises(AuditError, match="the model must be the published 0123456789ab"):
        verify(day)
    shutil.rmtree(day.store.path(PUBLICATIONS))
    empty = day.config.model_copy(update={"channel": "other"})
    with pytest.raises(AuditError, match="publications must name every run"):
        daily.verify(day.spark, empty)


def test_a_channel_that_shows_nothing_is_an_input_error(copied: Callable[..., Day]) -> None:
    day = copied(channel="other")
    with pytest.raises(InputError, match="channel 'other' must show a run"):
        verify(day)
