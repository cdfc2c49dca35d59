"""Stage `evaluate`: quality on held-out edges, beside simple baselines, in one table.

Runs on a run of its own whose ingest held edges out; nothing of it is ever published.
The arrays are gathered on the driver: evaluate a catalogue that fits it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from walkbits.evaluation.protocol import Figure, LeaveOneOut, evaluate_baselines, evaluate_embeddings
from walkbits.index.codes import vectors
from walkbits.runs.stage import Stage, StageRun
from walkbits.schemas import CONTEXT, EDGES, EMBEDDINGS, EVALUATION, HOLDOUT, ITEM
from walkbits.stages.build_neighborhoods import num_nodes
from walkbits.tables.store import Written


def run(context: StageRun) -> list[Written]:
    """Rank the catalogue for every held-out context, by each model."""
    config, store, run_id = context.config, context.store, context.run_id
    split = _split(context)
    figures = [
        *evaluate_baselines(split, config.evaluation.k, config.evaluation.num_neighbors),
        *evaluate_embeddings(
            split, _item_embeddings(context), config.index.code_bits, config.seed, config.evaluation.k
        ),
    ]
    rows = [(f.model, f.metric, f.k, f.value, f.queries, config.seed) for f in figures]
    schema = "model string, metric string, k int, value double, queries bigint, seed bigint"
    frame = context.spark.createDataFrame(rows, schema).coalesce(1)
    return [store.write(EVALUATION, frame, run_id)]


def figures_table(figures: list[Figure]) -> str:
    """The figures as text, one line per model."""
    metrics = sorted({f"{f.metric}@{f.k}" for f in figures}, reverse=True)
    by_model: dict[str, dict[str, float]] = {}
    for figure in figures:
        by_model.setdefault(figure.model, {})[f"{figure.metric}@{figure.k}"] = figure.value
    lines = ["  ".join([f"{'model':<16}", *(f"{m:>10}" for m in metrics)])]
    for model, values in by_model.items():
        lines.append("  ".join([f"{model:<16}", *(f"{values[m]:>10.4f}" for m in metrics)]))
    return "\n".join(lines)


def read_figures(context: StageRun) -> list[Figure]:
    """The run's figures as committed, in the order of their models' names."""
    rows = context.store.read(EVALUATION, run_id=context.run_id).orderBy("model", "metric").collect()
    return [Figure(r["model"], r["metric"], r["k"], r["value"], r["queries"]) for r in rows]


def _split(context: StageRun) -> LeaveOneOut:
    counts = num_nodes(context)
    edges = context.store.read(EDGES, run_id=context.run_id).select("item", "context").toArrow()
    held = context.store.read(HOLDOUT, run_id=context.run_id).select("item", "context").toArrow()
    return LeaveOneOut.from_edges(
        edges["item"].to_numpy().astype(np.int64), edges["context"].to_numpy().astype(np.int64),
        held["item"].to_numpy().astype(np.int64), held["context"].to_numpy().astype(np.int64),
        counts[ITEM], counts[CONTEXT],
    )  # fmt: skip


def _item_embeddings(context: StageRun) -> NDArray[np.float32]:
    """fp32 [items, embedding_size] in index order."""
    rows = (
        context.store.read(EMBEDDINGS, run_id=context.run_id, node_type=ITEM)
        .select("node_id", "embedding")
        .toArrow()
    )
    order = np.argsort(rows["node_id"].to_numpy())
    return vectors(rows["embedding"].combine_chunks())[order]


STAGE = Stage(
    name="evaluate",
    after=("ingest_graph", "infer_layers"),
    settings=lambda config: (config.evaluation, config.index),
    run=run,
)
