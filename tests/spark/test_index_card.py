"""index_card says how the lists were searched; the audit compares published lists with a scan."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from support import world
from walkbits.errors import AuditError
from walkbits.index.cells import sampled
from walkbits.index.codes import vectors
from walkbits.models.card import read_card
from walkbits.runs import recall
from walkbits.runs.log import find_run, metric
from walkbits.runs.reuse import MODEL
from walkbits.runs.stage import StageRun, execute
from walkbits.schemas import EDGES, EMBEDDINGS, INDEX_CARD, ITEM, NODES, RECOMMENDATIONS, RELATED
from walkbits.stages import daily
from walkbits.stages.build_neighborhoods import GRAPH
from walkbits.types import F32

DAY = date(2026, 1, 31)
ITEM_POOL = {
    "model": {"architecture": "item_pool", "embedding_size": 16},
    "features.degree": [], "index.num_recommended": 7,
}  # fmt: skip


@pytest.fixture(scope="module")
def indexed(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> StageRun:
    """A run up to its index, by cells that need not find all."""
    overrides = ITEM_POOL | {"index.exact": "never", "index.target_recall": 0.8}
    context = daily.open_day(spark, world.world_config(tmp_path_factory.mktemp("card"), overrides), ds=DAY)
    for stage in daily.DAILY:
        execute(context, stage)
    return context


def test_the_card_holds_the_curve_and_the_choice(indexed: StageRun) -> None:
    rows = indexed.store.read(INDEX_CARD, run_id=indexed.run_id).collect()
    assert {row["product"] for row in rows} == {RELATED.name, RECOMMENDATIONS.name}
    for product in (RELATED.name, RECOMMENDATIONS.name):
        own = sorted(
            (row for row in rows if row["product"] == product and row["gap"] is not None),
            key=lambda row: row["gap"],
        )
        (chosen,) = [row for row in rows if row["product"] == product and row["chosen"]]
        recalls, scored = ([row[name] for row in own] for name in ("recall", "items_scored"))
        assert recalls == sorted(recalls)
        assert scored == sorted(scored)
        assert chosen["recall"] >= 0.8
        assert 0 < chosen["cells"] < 64
        assert chosen["share_scored"] == chosen["items_scored"] / world.NUM_ITEMS < 1
        assert (
            metric(indexed.store, indexed.run_id, "build_index", f"search_recall[{product}]")
            == chosen["recall"]
        )


def embedded(context: StageRun, node_type: str) -> tuple[F32, np.ndarray]:
    rows = (
        context.store.read(EMBEDDINGS, run_id=context.run_id, node_type=node_type)
        .orderBy("node_id")
        .toArrow()
    )
    return vectors(rows["embedding"].combine_chunks()), rows["prior"].to_numpy()


def exact_scores(context: StageRun, product: str) -> np.ndarray:
    """All scores of a product by their definition, what may not be listed at -inf."""
    items, prior = embedded(context, ITEM)
    if product == RELATED.name:
        support = read_card(context.artifacts(MODEL)).network.score.support
        degrees = context.store.read(NODES, run_id=context.run_id, node_type=ITEM).orderBy("node_id")
        n = degrees.toPandas()["degree"].to_numpy()
        scores = (items.astype(np.float64) @ items.T) * n / (n + support)
        np.fill_diagonal(scores, -np.inf)
        return scores
    contexts, _ = embedded(context, "context")
    scores = contexts.astype(np.float64) @ items.T + prior
    edges = context.store.read(EDGES, run_id=context.run_id).toPandas()
    scores[edges["context"], edges["item"]] = -np.inf
    return scores


@pytest.mark.parametrize("product", [RELATED.name, RECOMMENDATIONS.name])
def test_the_audits_recall_is_the_share_of_a_scans_lists(indexed: StageRun, product: str) -> None:
    network = read_card(indexed.artifacts(MODEL)).network
    asked = recall.products_of(
        network, world.NUM_ITEMS, world.NUM_CONTEXTS, indexed.config.index, indexed.artifacts(GRAPH)
    )
    (one,) = [one for one in asked if one.table.name == product]
    found, error, queries = recall.list_recall(indexed.store, indexed.run_id, one, indexed.config.seed)
    names = (
        indexed.store.read(NODES, run_id=indexed.run_id).orderBy("node_id").toPandas()["external_id"].tolist()
    )
    lists = (
        indexed.store.read(one.table, run_id=indexed.run_id)
        .toPandas()
        .groupby(one.columns[0])[one.columns[1]]
    )
    published = {query: set(own) for query, own in lists}
    scores = exact_scores(indexed, product)
    shares = []
    for query in sampled(one.count, recall.SAMPLE, indexed.config.seed ^ recall._TAG).tolist():
        best = np.lexsort((np.arange(world.NUM_ITEMS), -scores[query]))[: one.k]
        own = published[names[one.first + query]]
        shares.append(np.mean([names[item] in own for item in best]))
    assert queries == recall.SAMPLE
    # fp32 rounds: of two items that score alike the other may be listed
    assert found == pytest.approx(np.mean(shares), abs=0.005)
    assert error == pytest.approx(np.std(shares) / np.sqrt(len(shares)), abs=0.002)
    assert found >= 0.75


def test_explain_prints_candidates_bytes_and_seconds(
    indexed: StageRun, capsys: pytest.CaptureFixture[str]
) -> None:
    which = {"run_id": indexed.run_id}
    daily.run_stage(indexed.spark, indexed.config, "build_index", explain=True, **which)  # type: ignore[arg-type]
    text = capsys.readouterr().out
    for name in (RELATED.name, RECOMMENDATIONS.name):
        assert f"{name}: cells, at most its 62 nearest cells of 62" in text
    assert f"of {world.NUM_ITEMS} items" in text
    assert "bytes" in text
    assert "on 2 cores, about" in text
    assert f"codes: {2 * (world.NUM_ITEMS + world.NUM_CONTEXTS):,} rows, " in text


def test_lists_that_lost_their_items_are_not_published(indexed: StageRun) -> None:
    """Last: it damages the run. The lists keep their form, their ranks and the items' names."""
    daily.audit_run(indexed.spark, indexed.config, run_id=indexed.run_id)
    for product in (RELATED, RECOMMENDATIONS):
        measured = metric(indexed.store, indexed.run_id, "audit_run", f"list_recall[{product.name}]")
        assert measured is not None
        assert measured >= 0.75
    related = indexed.store.read(RELATED, run_id=indexed.run_id)
    others = F.concat(
        F.lit("p"), F.lpad(F.pmod(F.substring("related_id", 2, 4).cast("int") + 100, F.lit(240)), 4, "0")
    )
    moved = related.withColumn("related_id", others).where("item_id <> related_id").drop("run_id")
    indexed.store.write(RELATED, moved.localCheckpoint(), indexed.run_id)
    with pytest.raises(
        AuditError, match=r"index\.target_recall: related must hold at least 0\.8 of the exact"
    ):
        daily.audit_run(indexed.spark, indexed.config, run_id=indexed.run_id)
    assert find_run(indexed.store, indexed.run_id).run_id == indexed.run_id
