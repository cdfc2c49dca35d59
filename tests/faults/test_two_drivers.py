"""Two drivers at a time: of one run one works and the other ends; what is published stays as it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.days import DAY, NEXT_DAY, Day, day_of
from walkbits.arrays.mapped import files_of
from walkbits.config import artifacts_of
from walkbits.errors import AuditError, InputError, LostRaceError
from walkbits.runs import collect
from walkbits.runs.lease import leased
from walkbits.runs.log import find_run, newest_state
from walkbits.runs.stage import StageRun, execute
from walkbits.schemas import PUBLICATIONS, RELATED, RUNS
from walkbits.settings import Maintenance
from walkbits.stages import daily
from walkbits.stages.maintain_tables import maintain
from walkbits.stages.publish_run import roll_back
from walkbits.tables import locks

pytestmark = pytest.mark.system

KEEP_ONE = Maintenance(keep_published=1, keep_days=0)


def test_a_second_driver_of_the_run_is_refused_at_every_stage(
    two_days: Day, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = two_days.config.model_copy(update={"root": str(tmp_path / "root")})
    day, refused = day_of(two_days.spark, config), []

    def beside(stage: Any) -> Any:
        def run(context: StageRun) -> Any:
            second = day_of(day.spark, config)
            for what in (
                lambda: daily.run_daily(day.spark, config, ds=DAY),
                lambda: daily.run_stage(day.spark, config, stage.name, ds=DAY),
                lambda: daily.publish_run(day.spark, config, ds=DAY),
            ):
                with pytest.raises(LostRaceError, match="one driver at a time may work on it, got process"):
                    what()
            refused.append((stage.name, newest_state(second.store, context.run_id)))
            return stage.run(context)

        return replace(stage, run=run)

    with monkeypatch.context() as patch:
        patch.setattr(daily, "DAILY", tuple(map(beside, daily.DAILY)))
        run = daily.run_daily(day.spark, config, ds=DAY)
    assert refused == [(stage.name, "created") for stage in daily.DAILY]
    assert day.rows(run.run_id) == two_days.rows(two_days.context().run_id)
    assert not [name for name in files_of(artifacts_of(config) / run.run_id) if "scratch" in name]


def test_a_driver_that_lost_its_lock_cannot_replace_what_is_published(
    copied: Callable[..., Day], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock is gone, as on a disk that forgot it; another driver ends the run; then it wakes, with other
    settings."""
    day = copied()
    shutil.rmtree(day.store.path(PUBLICATIONS))
    index = day.config.index.model_copy(update={"num_related": 3})
    slow = day_of(day.spark, day.config.model_copy(update={"index": index}))
    seen = {}

    def asleep(context: StageRun) -> Any:
        shutil.rmtree(Path(day.config.root) / "_locks")
        with monkeypatch.context() as forgotten:
            forgotten.setattr(locks, "_HELD", {})
            daily.run_daily(day.spark, day.config, ds=DAY)
        seen.update(day.rows(day.live().run_id))
        return index_stage.run(context)

    index_stage = daily.STAGES["build_index"]
    with pytest.raises(LostRaceError, match=f"{RELATED.name}|codes: only the driver that holds run"):
        execute(slow.context(), replace(index_stage, run=asleep))
    assert seen
    assert day.rows(day.live().run_id) == seen
    assert newest_state(day.store, day.live().run_id) == "published"


def test_a_withdrawn_run_stays_withdrawn(copied: Callable[..., Day]) -> None:
    day = copied()
    bad, good = day.live().run_id, day.context(DAY).run_id
    roll_back(day.store, day.config)
    assert day.live().run_id == good
    for retry in (
        lambda: daily.run_daily(day.spark, day.config, ds=NEXT_DAY),
        lambda: daily.publish_run(day.spark, day.config, ds=NEXT_DAY),
    ):
        with pytest.raises(LostRaceError, match=f"withdrawn must not come back by itself, got {bad}"):
            retry()
    assert day.live().run_id == good
    daily.run_daily(day.spark, day.config, ds=NEXT_DAY, allow_rollback=True)
    assert (day.live().run_id, day.live().seq) == (bad, 4)


def test_a_rollback_beside_a_collection_shows_a_whole_run_or_none(
    copied: Callable[..., Day], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rollback comes when the collection has chosen its runs; it is refused, and the live run stays."""
    day = copied(maintenance=KEEP_ONE)
    live, seen, first = day.live(), [], day.context(DAY).run_id

    def late(store: Any, run_ids: list[str]) -> Any:
        seen.append((run_ids, newest_state(store, run_ids[0])))
        with pytest.raises(LostRaceError, match="one driver at a time"):
            roll_back(day_of(day.spark, day.config).store, day.config)
        return drop_runs(store, run_ids)

    drop_runs = collect.drop_runs
    monkeypatch.setattr(collect, "drop_runs", late)
    collected = maintain(day.store, day.config)
    assert seen == [(collected, "collecting")]
    assert collected == [first]
    assert day.live() == live
    with pytest.raises(AuditError, match="must re-read as logged.*the channel still shows"):
        roll_back(day.store, day.config)
    assert day.live() == live


def test_a_rollback_before_the_collection_spares_the_run(
    copied: Callable[..., Day], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rollback comes when the collection has looked at the pointers, and has no lease yet."""
    day = copied(maintenance=KEEP_ONE)
    calls = []

    def looked(store: Any, rules: Maintenance) -> list[str]:
        found = collectable(store, rules)
        if not calls:
            roll_back(day_of(day.spark, day.config).store, day.config)
        calls.append(found)
        return found

    collectable = collect.collectable
    monkeypatch.setattr(collect, "collectable", looked)
    first = day.context(DAY).run_id
    whole = day.rows(first)
    assert maintain(day.store, day.config) == []
    assert calls[0] == [first]
    assert day.live().run_id == first
    assert day.rows(first) == whole


def test_a_run_at_work_is_not_collected(copied: Callable[..., Day]) -> None:
    """Both runs were quiet for long and no channel shows them; of one the driver is at work again."""
    day = copied(maintenance=KEEP_ONE)
    shutil.rmtree(day.store.path(PUBLICATIONS))
    run_id, idle = day.context(DAY).run_id, day.context(NEXT_DAY).run_id
    whole = day.rows(run_id)
    with leased(day_of(day.spark, day.config).store, run_id):
        assert maintain(day.store, day.config) == [idle]
    assert day.rows(run_id) == whole
    assert newest_state(day.store, run_id) == "published"


def test_a_collection_that_is_killed_is_ended_by_the_next(
    copied: Callable[..., Day], monkeypatch: pytest.MonkeyPatch
) -> None:
    day = copied(maintenance=KEEP_ONE)
    first = day.context(DAY).run_id
    with monkeypatch.context() as patch:
        patch.setattr(collect, "drop_runs", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            maintain(day.store, day.config)
    assert newest_state(day.store, first) == "collecting"
    patient = day.config.model_copy(update={"maintenance": Maintenance(keep_published=1)})
    assert maintain(day.store, patient) == [first]
    assert newest_state(day.store, first) == "collected"
    assert day.rows(first)["embeddings"][0] == 0
    assert maintain(day.store, patient) == []


def test_a_rollback_names_what_it_cannot_show(copied: Callable[..., Day]) -> None:
    day = copied()
    live = day.live()
    for run_id in (live.run_id, "20260131-00000000-a1"):
        with pytest.raises(InputError, match="must be an earlier publication of channel 'live'"):
            roll_back(day.store, day.config, run_id)
    assert day.live() == live
    assert roll_back(day.store, day.config, day.context(DAY).run_id) == 3
    assert day.store.read(RUNS).where("state = 'published'").count() == 3


def test_a_label_finds_its_run(two_days: Day) -> None:
    assert find_run(two_days.store, None).run_id == two_days.live().run_id
