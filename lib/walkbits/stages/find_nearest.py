"""Step `find_nearest`: top lists of the published run for a table of ids, histories or vectors."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from walkbits.arrays.mapped import open_matrix
from walkbits.arrays.places import Place
from walkbits.config import Config
from walkbits.errors import ConfigError, InputError
from walkbits.index.asking import Allowed, nearest_items
from walkbits.index.codes import vectors
from walkbits.index.matrices import Form, unit_rows, with_prior
from walkbits.index.related import related_forms, seen_in
from walkbits.inference.histories import Histories, sum_of_items, write_vectors
from walkbits.inference.inputs import input_rows
from walkbits.inference.nodes import features_of_nodes, node_keys
from walkbits.ingest.queries import By, Choice, Queries, chosen_items, read_queries
from walkbits.models.card import load_model, read_card
from walkbits.runs.log import find_run
from walkbits.runs.pointer import read_pointer
from walkbits.runs.reuse import MODEL
from walkbits.runs.stage import StageRun
from walkbits.schemas import CONTEXT, EMBEDDINGS, ITEM, NODES, REPRESENTATIONS
from walkbits.stages.build_neighborhoods import GRAPH, num_nodes
from walkbits.tables.external_ids import ExternalIds
from walkbits.tables.rows import Rows
from walkbits.tables.store import Store
from walkbits.types import F32, I64, NodeType

LOG = logging.getLogger("walkbits")


def check_new(spark: SparkSession, folder: str) -> None:
    """Refuse to write over what is there.

    Raises:
        ConfigError: the folder exists.
    """
    jvm: Any = spark._jvm
    path = jvm.org.apache.hadoop.fs.Path(folder)
    if path.getFileSystem(spark._jsparkSession.sessionState().newHadoopConf()).exists(path):
        raise ConfigError(f"--output must be a new folder, got '{folder}', which is there; name another")


@contextmanager
def found_nearest(
    store: Store, config: Config, queries: DataFrame, by: By, k: int, choice: Choice | None = None
) -> Iterator[DataFrame]:
    """The k nearest items of each query in the channel's run, to be written within the block.

    Items ask by the score between items, and not for themselves. All others ask by inner product + prior;
    what a context or a history has seen is masked. See `ingest.queries` for the columns.

    Args:
        choice: Of items; None is all.

    Yields:
        (query_id, rank, item_id, score), rank from 1, ties by node_id.

    Raises:
        InputError: the channel shows nothing; or as `read_queries` and `chosen_items`.
        EmptyInputError: no queries, or no items are left.
        ConfigError: k is not from 1 to the number of items, or the model cannot embed such queries.
    """
    pointer = read_pointer(store, config.channel)
    if pointer is None:
        raise InputError(
            f"channel '{config.channel}' must show a run, got none; publish one with jobs/run_daily.py"
        )
    context = StageRun(store, config, find_run(store, pointer.run_id))
    network, counts = read_card(context.artifacts(MODEL)).network, num_nodes(context)
    if not 1 <= k <= counts[ITEM]:
        raise ConfigError(f"--k must be from 1 to {counts[ITEM]}, the items of the run, got {k}; lower it")
    if choice is not None and choice.at_most < 1:
        raise ConfigError(f"--at-most must be at least 1, got {choice.at_most}; choose another")
    if by == "contexts" and CONTEXT not in network.outputs:
        raise ConfigError(
            f"queries by contexts need a model that embeds contexts, got {network.architecture}; "
            "ask by histories"
        )
    nodes = store.read(NODES, run_id=context.run_id).select("node_type", "node_id", "external_id")
    allowed = Allowed(np.arange(counts[ITEM]))
    if choice is not None:
        allowed = Allowed(*chosen_items(choice, nodes), choice.at_most)
    asked = read_queries(queries, by, nodes, network.embedding_size(ITEM))
    with context.scratch("nearest") as folder:
        rows, masked = _vectors(context, asked, by, folder)
        scored: Form = with_prior
        width = rows.shape[1] + 1
        if by == "items":
            form, supported = related_forms(network, context.artifacts(GRAPH))
            scored, width = supported or form, width - 1
            rows = rows if network.outputs[ITEM].normalise else unit_rows(rows)
        else:
            rows = np.column_stack([rows, np.ones(len(rows), np.float32)])
        items = store.scan(
            EMBEDDINGS, ("node_id", "embedding", "prior"), run_id=context.run_id, node_type=ITEM
        )
        named = store.scan(NODES, ("node_id", "external_id"), run_id=context.run_id)
        names = ExternalIds.write(named, sum(counts.values()), folder / "names")
        lists, plan = nearest_items(
            store.spark, items, scored, width, allowed, rows, masked, k, (asked.names, names),
            config.index, config.seed, folder,
        )  # fmt: skip
        LOG.info(
            "nearest=%s run=%s queries=%d items=%d recall=%.4f scored=%.0f",
            by, context.run_id, len(rows), len(allowed.nodes), plan.recall, plan.scored,
        )  # fmt: skip
        yield lists.to_frame()


def _vectors(context: StageRun, asked: Queries, by: By, folder: Place) -> tuple[F32, tuple[I64, I64]]:
    """The queries' vectors as the model has them, fp32 [q, d], and what each list must not hold."""
    if asked.vectors is not None:
        return asked.vectors, asked.histories
    if asked.nodes is None:
        return _of_histories(context, asked.histories, folder), asked.histories
    kind: NodeType = "item" if by == "items" else "context"
    wanted = context.spark.createDataFrame(
        list(enumerate(asked.nodes.tolist())), "query bigint, node_id bigint"
    )
    embedded = context.store.read(EMBEDDINGS, run_id=context.run_id, node_type=kind)
    rows = embedded.join(F.broadcast(wanted), "node_id", "inner").orderBy("query").select("embedding")
    found = vectors(rows.toArrow()["embedding"].combine_chunks())
    if by == "items":
        return found, (np.arange(len(found) + 1), asked.nodes)
    return found, seen_in(context.artifacts(GRAPH)).of(asked.nodes - num_nodes(context)[ITEM])


def _of_histories(context: StageRun, histories: tuple[I64, I64], folder: Place) -> F32:
    model, counts, run_id = load_model(context.artifacts(MODEL)), num_nodes(context), context.run_id
    network = model.card.network
    embeds = CONTEXT in network.outputs

    def representations(layer: int, common: Mapping[str, Any]) -> Rows:
        if not embeds:
            return context.store.scan(EMBEDDINGS, ("node_id", "embedding"), run_id=run_id, node_type=ITEM)
        if layer:
            where = {"run_id": run_id, "layer": layer, "node_type": ITEM}
            return context.store.scan(REPRESENTATIONS, ("node", "representation"), **where)
        keys = node_keys(context.store, run_id, "item", counts)
        features = features_of_nodes(context.store, run_id, network, counts).get("item")
        return input_rows(
            "item", network.inputs["item"], model.tables.get("item"), keys, features, counts[ITEM],
            folder / "ids.npy", common,
        )  # fmt: skip

    place = folder / "histories.npy"
    made = network if embeds else sum_of_items(network.embedding_size("item"))
    seen = Histories(*histories, context.artifacts(GRAPH) / "item_indptr.npy")
    write_vectors(context.spark, made, model.weights, representations, counts[ITEM], seen, place, folder)
    return open_matrix(place)[: len(histories[0]) - 1]
