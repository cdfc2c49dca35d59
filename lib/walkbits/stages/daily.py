"""The stages, and what the jobs do with them: functions for a notebook or another program too.

A stage module is the edge where tables are read and written; what happens between is in
the subject packages (graph, models, inference, index).
"""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, Literal, TypedDict, Unpack

from pyspark.sql import SparkSession

from walkbits.arrays.places import place_of
from walkbits.config import Config, artifacts_of
from walkbits.errors import ConfigError
from walkbits.forecast import explained, forecast_day
from walkbits.index.export import Kind, Score
from walkbits.ingest.queries import By, Choice
from walkbits.ingest.sources import read_source
from walkbits.input_settings import Source
from walkbits.runs import reuse
from walkbits.runs.log import (
    Run,
    check_settings,
    find_run,
    is_labelled,
    newest_attempt,
    newest_state,
    opened_settings,
    record_state,
)
from walkbits.runs.pointer import check_forward, read_pointer
from walkbits.runs.report import write_report
from walkbits.runs.stage import Stage, StageRun, execute
from walkbits.stages import (
    build_features,
    build_index,
    build_neighborhoods,
    infer_layers,
    ingest_graph,
    profile_graph,
    train_model,
)
from walkbits.stages import evaluate as evaluation
from walkbits.stages.audit_run import audit_committed, published_outputs
from walkbits.stages.export_index import export
from walkbits.stages.find_nearest import check_new, found_nearest
from walkbits.stages.maintain_tables import maintain
from walkbits.stages.publish_run import PREVIOUS, check_stands, publish, roll_back
from walkbits.stages.verify import verify_live
from walkbits.tables.store import Store

LOG = logging.getLogger("walkbits")

DAILY: tuple[Stage, ...] = (
    ingest_graph.STAGE,
    build_features.STAGE,
    build_neighborhoods.STAGE,
    train_model.STAGE,
    infer_layers.STAGE,
    build_index.STAGE,
)
"""What a day runs before it publishes, in order."""


def store_of(spark: SparkSession, config: Config) -> Store:
    """The tables under the config's root."""
    return Store(spark, config.root.rstrip("/"))


_DAYS_AHEAD: Final = timedelta(days=3)


class Day(TypedDict, total=False):
    """Arguments of `open_day`."""

    ds: date | None
    new_attempt: bool
    label: str | None
    allow_future: bool


class Which(TypedDict, total=False):
    """Arguments of `existing`."""

    run_id: str | None
    ds: date | None
    label: str | None


STAGES: dict[str, Stage] = {stage.name: stage for stage in (*DAILY, profile_graph.STAGE)}


def open_day(
    spark: SparkSession,
    config: Config,
    *,
    ds: date | None = None,
    new_attempt: bool = False,
    label: str | None = None,
    allow_future: bool = False,
) -> StageRun:
    """Find or open the run of the day's inputs.

    A new run is recorded only after its inputs have passed every check.

    Args:
        ds: Day of the run; today in UTC if absent.
        new_attempt: Open a further run even if these inputs have one.
        label: Name by which later jobs of one workflow find the run.
        allow_future: Take a day that has not begun in any time zone; it would lock the channel until then.

    Raises:
        ConfigError: a day in the future, or a model that reads features that nothing gives.
        InputError: the inputs cannot be used.
    """
    store, today = store_of(spark, config), datetime.now(UTC).date()
    ds = ds or today
    if ds > today + _DAYS_AHEAD and not allow_future:
        raise ConfigError(
            f"--ds must be at most {_DAYS_AHEAD.days} days ahead of {today}, got {ds}, which would keep "
            "every earlier day from being published; fix it, or pass --allow-future"
        )
    ingest_graph.check_features(config)
    config = ingest_graph.pin_inputs(spark, config)
    inputs = ingest_graph.read_inputs(spark, config, ds)
    fingerprint = inputs.fingerprint(config)
    run = Run(ds, fingerprint, newest_attempt(store, ds, fingerprint))
    if not run.attempt or (new_attempt and not is_labelled(store, run, label)):
        ingest_graph.check_inputs(inputs, config)
        run = replace(run, attempt=run.attempt + 1)
        record_state(store, run, config, "created", label=label)
    elif label is not None and not is_labelled(store, run, label):
        record_state(store, run, config, newest_state(store, run.run_id), label=label)
    LOG.info("run=%s ds=%s root=%s", run.run_id, ds, config.root)
    return StageRun(store, config, run)


def existing(
    spark: SparkSession,
    config: Config,
    *,
    run_id: str | None = None,
    ds: date | None = None,
    label: str | None = None,
) -> StageRun:
    """The run of this id or label, or the one that changed last (of a day, if given).

    Raises:
        InputError: there is none.
        ConfigError: it was opened with other settings.
    """
    store = store_of(spark, config)
    run = find_run(store, run_id, ds, label)
    check_settings(store, run, config)
    config = ingest_graph.pinned_as_opened(config, opened_settings(store, run) or {})
    return StageRun(store, config, run)


def is_live(context: StageRun) -> bool:
    """Whether the channel already shows this very run; there is nothing to do then.

    Raises:
        AuditError: it does, and the run no longer re-reads as it was logged.
    """
    pointer = read_pointer(context.store, context.config.channel)
    if pointer is None or pointer.run_id != context.run_id:
        return False
    check_stands(context)
    LOG.info(
        "run=%s state=published channel=%s seq=%d: nothing to do",
        context.run_id, context.config.channel, pointer.seq,
    )  # fmt: skip
    return True


def run_daily(
    spark: SparkSession, config: Config, *, allow_rollback: bool = False, **day: Unpack[Day]
) -> StageRun:
    """The whole day; a day that may not be published is refused before the work.

    Where `ingest.holdout` leaves edges out, the published tables are evaluated on them.

    Args:
        allow_rollback: Publish even if the channel shows a later day.
        **day: As for `open_day`.

    Returns:
        The run, published.
    """
    context = open_day(spark, config, **day)
    if is_live(context):
        return context
    check_forward(read_pointer(context.store, config.channel), context.run, config.channel, allow_rollback)
    with context.leased():
        for stage in DAILY if config.ingest.holdout is None else (*DAILY, evaluation.STAGE):
            execute(context, stage)
        publish(context, allow_rollback)
    return context


def day(
    spark: SparkSession, config: Config, *, explain: bool = False, ds: date | None = None, **rest: Any
) -> None:
    """`run_daily`, or with `explain` what it would take, on standard output; nothing is written then."""
    if not explain:
        run_daily(spark, config, ds=ds, **rest)
        return
    ingest_graph.check_features(config)
    counts = ingest_graph.read_inputs(spark, config, ds or datetime.now(UTC).date()).counts()
    stages = forecast_day(counts, config, spark.sparkContext.defaultParallelism)
    sys.stdout.write(f"{counts}\n\n{explained(stages)}\n")


def ingest(spark: SparkSession, config: Config, **day: Unpack[Day]) -> None:
    """Open the day's run, as `open_day` does, and write its graph and features."""
    context = open_day(spark, config, **day)
    if not is_live(context):
        execute(context, ingest_graph.STAGE)
        execute(context, build_features.STAGE)


def run_stage(
    spark: SparkSession, config: Config, name: str, *, explain: bool = False, **which: Unpack[Which]
) -> None:
    """One stage of an existing run (see `existing`), or with `explain` its plan on standard output."""
    context, stage = existing(spark, config, **which), STAGES[name]
    if stage.explain and explain:
        sys.stdout.write(stage.explain(context) + "\n")
    else:
        execute(context, stage)


def train(spark: SparkSession, config: Config, *, retrain: bool = False, **which: Unpack[Which]) -> None:
    """Train, or take over the published model where that was decided when the features were computed.

    Args:
        retrain: Train in any case, on features computed anew.
        **which: As for `existing`.
    """
    context = existing(spark, config, **which)
    if retrain and reuse.decided(context) is not None:
        execute(context, build_features.ANEW, again=True)
    execute(context, train_model.STAGE)


def audit_run(spark: SparkSession, config: Config, **which: Unpack[Which]) -> None:
    """Audit an existing run, without publishing it; the verdict comes with a report to open."""
    context = existing(spark, config, **which)
    if is_live(context):
        return
    try:
        with context.leased():
            audit_committed(context, read_pointer(context.store, config.channel), published_outputs(context))
    finally:
        write_report(spark, context.store.root, artifacts_of(config) / "report.html")


def publish_run(
    spark: SparkSession, config: Config, *, allow_rollback: bool = False, **which: Unpack[Which]
) -> None:
    """Audit, where that is still to be done, and publish an existing run."""
    publish(existing(spark, config, **which), allow_rollback)


def rollback_run(spark: SparkSession, config: Config, *, run_id: str = PREVIOUS) -> None:
    """Point the channel back at a run that was published before."""
    roll_back(store_of(spark, config), config, run_id)


def verify(spark: SparkSession, config: Config) -> None:
    """Hold what the channel shows against its tables, its model and the logs."""
    verify_live(store_of(spark, config), config)


def export_index(
    spark: SparkSession, config: Config, *, output: str, kind: Kind = "flat", score: Score = "item"
) -> None:
    """Write the published items as an index for a server; see `walkbits.index.export`."""
    export(store_of(spark, config), config, kind, score, place_of(output))


def find_nearest(
    spark: SparkSession,
    config: Config,
    *,
    queries: str,
    by: By,
    output: str,
    format: Literal["delta", "parquet"] = "delta",
    k: int = 20,
    items: str | None = None,
    item: str | None = None,
    where: str | None = None,
    spread_by: str | None = None,
    at_most: int = 1,
) -> None:
    """Write the nearest published items of a table of queries; see `walkbits.stages.find_nearest`.

    Raises:
        ConfigError: the output is there already, items are to be chosen and no table of them is named, or a
            flag has nothing that it is about.
    """
    if at_most != 1 and not spread_by:
        raise ConfigError(f"--at-most needs the column of --spread-by, got none beside {at_most}; name one")
    if item and not (items or where or spread_by):
        raise ConfigError(f"--item needs --items, --where or --spread-by, got '{item}' alone; leave it out")
    check_new(spark, output)
    choice = None
    if items or where or spread_by:
        table = Source(path=items) if items else config.items
        if table is None:
            raise ConfigError(
                "--items must name a table of items, got none, and the config has none; name one"
            )
        column = item or (config.items.item if config.items else "item_id")
        choice = Choice(read_source(spark, table, "items"), column, where, spread_by, at_most)
    asked = read_source(spark, Source(path=queries), "queries")
    with found_nearest(store_of(spark, config), config, asked, by, k, choice) as lists:
        lists.write.format(format).save(output)


def maintain_tables(spark: SparkSession, config: Config) -> None:
    """Drop what no reader can need any more, and compact what grew."""
    maintain(store_of(spark, config), config)


def evaluate(spark: SparkSession, config: Config, **day: Unpack[Day]) -> str:
    """The day's stages on a graph with held-out edges, then the figures as text."""
    ingest_rules = config.ingest.model_copy(update={"holdout": config.evaluation.holdout})
    root = f"{config.root.rstrip('/')}/_evaluation"
    context = open_day(spark, config.model_copy(update={"ingest": ingest_rules, "root": root}), **day)
    with context.leased():
        for stage in (*DAILY, evaluation.STAGE):
            execute(context, stage)
    table = evaluation.figures_table(evaluation.read_figures(context))
    return f"run {context.run_id}, seed {config.seed}\n\n{table}\n"
