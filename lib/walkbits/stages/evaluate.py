"""Stage `evaluate`: quality on held-out edges, beside popularity and item-KNN, in one table.

Ranks the edges that `ingest.holdout` left out of the run's graph. Index arrays are gathered on the driver and
ranked there in blocks: evaluate a catalogue that fits it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pyspark.sql import functions as F

from walkbits.errors import EmptyInputError
from walkbits.evaluation.protocol import Figure, evaluate, space
from walkbits.evaluation.rankers import Codes, Embedding, ItemKnn, Popularity, Ranker, Reranked
from walkbits.evaluation.splits import Edges, Split
from walkbits.index.codes import Coder, vectors
from walkbits.models.card import read_card
from walkbits.network.arithmetic import supported
from walkbits.runs.reuse import MODEL
from walkbits.runs.stage import Stage, StageRun
from walkbits.schemas import (
    CODES,
    CONTEXT,
    EDGES,
    EMBEDDINGS,
    EVALUATION,
    HOLDOUT,
    ITEM,
    NEIGHBORHOODS,
    Table,
)
from walkbits.stages.build_neighborhoods import num_nodes
from walkbits.tables.store import Written
from walkbits.types import F32, I64

_FLOOR = Popularity().name


def run(context: StageRun) -> list[Written]:
    """Rank the catalogue for every query of both tasks, by each ranker."""
    config, store, run_id = context.config, context.store, context.run_id
    split = _split(context)
    embedding = _embedding(context, split)
    rankers: list[Ranker] = [
        Popularity(),
        ItemKnn(config.evaluation.num_neighbors),
        embedding,
        *_codes(context, embedding),
    ]
    figures = [
        figure
        for part in (split, split.item_to_item(config.seed))
        for figure in evaluate(part, rankers, config.evaluation.ks, config.evaluation.metrics)
    ]
    figures += space(embedding.name, embedding.items, config.seed, _item_neighborhoods(context))
    floor = {(f.task, f.metric, f.k): f.value for f in figures if f.model == _FLOOR}
    rows = [
        (f.task, f.split, f.model, f.metric, f.k, f.value, floor.get((f.task, f.metric, f.k)),
         f.queries, config.seed)
        for f in figures
    ]  # fmt: skip
    schema = (
        "task string, split string, model string, metric string, k int, value double, floor double, "
        "queries bigint, seed bigint"
    )
    frame = context.spark.createDataFrame(rows, schema).coalesce(1)
    return [store.write(EVALUATION, frame, run_id)]


def figures_table(figures: list[Figure]) -> str:
    """The figures as text: one table per task, one line per model, the popularity floor first."""
    return "\n\n".join(
        _task_table([f for f in figures if f.task == task]) for task in dict.fromkeys(f.task for f in figures)
    )


def _task_table(figures: list[Figure]) -> str:
    values = {(f.model, (f.metric, f.k)): f.value for f in figures}
    titles = {(f.metric, f.k): f"{f.metric}@{f.k}" if f.k else f.metric for f in figures}
    first = figures[0]
    what = "pairs" if first.task == "space" else "queries"
    lines = [f"{first.task}: split {first.split}, {first.queries} {what}"]
    width = max(16, *(len(f.model) for f in figures))
    lines += ["  ".join([f"{'model':<{width}}", *(f"{title:>8}" for title in titles.values())])]
    for model in sorted({f.model for f in figures}, key=lambda model: (model != _FLOOR, model)):
        cells = (f"{values[model, key]:>{max(8, len(title))}.4f}" for key, title in titles.items())
        lines += ["  ".join([f"{model:<{width}}", *cells])]
    return "\n".join(lines)


def read_figures(context: StageRun) -> list[Figure]:
    """The run's figures as committed, context to item first, then by model, metric and cut-off."""
    rows = (
        context.store.read(EVALUATION, run_id=context.run_id)
        .orderBy("task", "model", F.desc("metric"), "k")
        .collect()
    )
    names = ("task", "split", "model", "metric", "k", "value", "queries")
    return [Figure(*(row[name] for name in names)) for row in rows]


def _split(context: StageRun) -> Split:
    """The run's edges and those that its ingest held out."""
    counts = num_nodes(context)

    def edges(table: Table) -> Edges:
        rows = context.store.read(table, run_id=context.run_id).select("item", "context").toArrow()
        item, group = (rows[name].to_numpy().astype(np.int64) for name in ("item", "context"))
        return Edges(group, item, counts[CONTEXT], counts[ITEM])

    held_out = context.config.ingest.holdout
    return Split.given(edges(EDGES), edges(HOLDOUT), name=held_out.split if held_out else "given")


def _embedding(context: StageRun, split: Split) -> Embedding:
    """The run's vectors as the published scores have them.

    Where the model gives contexts no vector, a context is the sum of its items'.
    """
    counts = num_nodes(context)

    def side(node_type: str, first: int, count: int) -> tuple[F32, F32] | None:
        rows = (
            context.store.read(EMBEDDINGS, run_id=context.run_id, node_type=node_type)
            .select("node_id", "embedding", "prior")
            .toArrow()
        )
        if not rows.num_rows:
            return None
        own = rows["node_id"].to_numpy() - first
        read = vectors(rows["embedding"].combine_chunks())
        placed, prior = np.zeros((count, read.shape[1]), np.float32), np.zeros(count, np.float32)
        placed[own], prior[own] = read, rows["prior"].to_numpy()
        return placed, prior

    items = side(ITEM, 0, counts[ITEM])
    if items is None:
        raise EmptyInputError("embeddings must hold items, got none; run the layers first")
    contexts = side(CONTEXT, counts[ITEM], counts[CONTEXT])
    return Embedding(
        "embeddings", items[0], contexts[0] if contexts else None, prior=items[1] if items[1].any() else None,
        support=supported(split.popularity, read_card(context.artifacts(MODEL)).network.score.support),
    )  # fmt: skip


def _codes(context: StageRun, queried: Embedding) -> list[Ranker]:
    """Every score of every published code width, over the committed table."""
    config = context.config
    learned = read_card(context.artifacts(MODEL)).network.learned_codes
    coder = Coder.of(config.index, config.seed, queried.items.shape[1], learned=learned)
    rankers: list[Ranker] = []
    for bits in sorted(config.index.code_bits):
        rows = (
            context.store.read(CODES, run_id=context.run_id, code_bits=bits)
            .where(F.col("node_type") == ITEM)
            .select("node_id", "code", "scale", "prior_code")
            .toArrow()
        )
        order = np.argsort(rows["node_id"].to_numpy())
        code = rows["code"].combine_chunks().flatten().to_numpy().reshape(len(order), -1)[order]
        scale = rows["scale"].to_numpy()[order]
        hamming = Codes(f"hamming_{bits}", queried, code, scale, coder, asymmetric=False)
        rankers += [hamming, replace(hamming, name=f"asymmetric_{bits}", asymmetric=True)]
        if queried.prior is not None:
            ones = rows["prior_code"].to_numpy()[order]
            hamming = replace(hamming, name=f"hamming_prior_{bits}", prior_code=ones)
            rankers.append(hamming)
        rankers.append(Reranked(f"hamming500_float_{bits}", hamming, queried))
    return rankers


def _item_neighborhoods(context: StageRun) -> tuple[I64, I64] | None:
    """The items' walk neighborhoods: indptr [items + 1] and neighbors; None of a model without them."""
    rows = (
        context.store.read(NEIGHBORHOODS, run_id=context.run_id, relation="item_from_item")
        .select("node", "neighbors")
        .toArrow()
    )
    if not rows.num_rows:
        return None
    order = np.argsort(rows["node"].to_numpy())
    lists = [np.frombuffer(rows["neighbors"][int(row)].as_buffer(), "<i4") for row in order]
    indptr = np.concatenate([[0], np.cumsum([len(one) for one in lists])]).astype(np.int64)
    return indptr, np.concatenate(lists).astype(np.int64)


STAGE = Stage(
    name="evaluate",
    after=("ingest_graph", "build_neighborhoods", "train_model", "infer_layers", "build_index"),
    settings=lambda config: (config.evaluation, config.index),
    run=run,
)
