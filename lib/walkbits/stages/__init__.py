"""The stages, and the bodies of the jobs that run them.

A stage module is the edge where tables are read and written; what happens between is in
the subject packages (graph, models, inference, index).
"""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from datetime import UTC, datetime

from walkbits.cli import Job
from walkbits.pipeline import Context, Stage, artifacts_of, execute
from walkbits.runs.log import Run, find_run, is_labelled, newest_attempt, newest_state, record_state
from walkbits.runs.pointer import check_forward, read_pointer
from walkbits.stages import (
    build_index,
    build_neighborhoods,
    infer_layers,
    ingest_graph,
    profile_graph,
    train_model,
)
from walkbits.stages import evaluate as evaluation
from walkbits.stages.audit_run import audit_committed
from walkbits.stages.maintain_tables import maintain
from walkbits.stages.publish_run import publish, roll_back
from walkbits.tables.store import Store
from walkbits.tools.list_runs import write_report

LOG = logging.getLogger("walkbits")

DAILY: tuple[Stage, ...] = (
    ingest_graph.STAGE,
    build_neighborhoods.STAGE,
    train_model.STAGE,
    infer_layers.STAGE,
    build_index.STAGE,
)
"""What a day runs before it publishes, in order."""

STAGES: dict[str, Stage] = {stage.name: stage for stage in (*DAILY, profile_graph.STAGE)}


def open_day(job: Job) -> Context:
    """Find or open the run of the day's inputs.

    A new run is recorded only after its inputs have passed every check.
    """
    ds = job.args.ds or datetime.now(UTC).date()
    inputs = ingest_graph.read_inputs(job.spark, job.config, ds)
    fingerprint = inputs.fingerprint(job.config)
    run, label = Run(ds, fingerprint, newest_attempt(job.store, ds, fingerprint)), job.args.label
    if not run.attempt or (job.args.new_attempt and not is_labelled(job.store, run, label)):
        ingest_graph.check_inputs(inputs, job.config)
        run = replace(run, attempt=run.attempt + 1)
        record_state(job.store, run, job.config, "created", label=label)
    elif label is not None and not is_labelled(job.store, run, label):
        record_state(job.store, run, job.config, newest_state(job.store, run.run_id), label=label)
    context = Context(job.store, job.config, run)
    LOG.info("run=%s ds=%s root=%s", context.run_id, ds, job.config.root)
    return context


def is_live(context: Context) -> bool:
    """Whether the channel already shows this very run; there is nothing to do then."""
    pointer = read_pointer(context.store, context.config.channel)
    if pointer is None or pointer.run_id != context.run_id:
        return False
    LOG.info(
        "run=%s state=published channel=%s seq=%d: nothing to do",
        context.run_id, context.config.channel, pointer.seq,
    )  # fmt: skip
    return True


def ingest(job: Job) -> None:
    """Open the day's run and write its graph."""
    context = open_day(job)
    if not is_live(context):
        execute(context, ingest_graph.STAGE)


def existing(job: Job) -> Context:
    """The run that the flags name."""
    run = find_run(job.store, job.args.run_id, job.args.ds, job.args.label)
    return Context(job.store, job.config, run)


def run_stage(job: Job, name: str) -> None:
    """One stage of an existing run, or with --explain its plan on standard output."""
    context, stage = existing(job), STAGES[name]
    if stage.explain and job.args.explain:
        sys.stdout.write(stage.explain(context) + "\n")
    else:
        execute(context, stage)


def train(job: Job) -> None:
    """Train, or take over the published model where the config allows it and --retrain does not forbid it."""
    execute(existing(job), train_model.ANEW if job.args.retrain else train_model.STAGE)


def audit_run(job: Job) -> None:
    """Audit an existing run, without publishing it; the verdict comes with a report to open."""
    context = existing(job)
    if is_live(context):
        return
    try:
        audit_committed(context, read_pointer(job.store, job.config.channel))
    finally:
        write_report(job.spark, job.store.root, artifacts_of(job.config) / "report.html")


def publish_run(job: Job) -> None:
    """Audit, where that is still to be done, and publish an existing run."""
    publish(existing(job), job.args.allow_rollback)


def run_daily(job: Job) -> None:
    """The whole day; a day that may not be published is refused before the work."""
    context = open_day(job)
    if is_live(context):
        return
    pointer = read_pointer(job.store, job.config.channel)
    check_forward(pointer, context.run, job.config.channel, job.args.allow_rollback)
    for stage in DAILY:
        execute(context, stage)
    publish(context, job.args.allow_rollback)


def rollback_run(job: Job) -> None:
    """Point the channel back at a run that was published before."""
    roll_back(job.store, job.config, job.args.run_id)


def maintain_tables(job: Job) -> None:
    """Drop what no reader can need any more, and compact what grew."""
    maintain(job.store, job.config)


def evaluate(job: Job) -> str:
    """The day's stages on a graph with held-out edges, then the figures as text."""
    ingest_rules = job.config.ingest.model_copy(update={"holdout": job.config.evaluation.holdout})
    root = f"{job.config.root.rstrip('/')}/_evaluation"
    config = job.config.model_copy(update={"ingest": ingest_rules, "root": root})
    context = open_day(replace(job, config=config, store=Store(job.spark, root)))
    for stage in (*DAILY[:-1], evaluation.STAGE):
        execute(context, stage)
    figures = evaluation.read_figures(context)
    queries = figures[0].queries
    return (
        f"{queries} queries, seed {config.seed}, run {context.run_id}\n{evaluation.figures_table(figures)}\n"
    )
