"""A whole day with each model: trained, inferred, indexed, audited and published."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pytest
from pyspark.sql import SparkSession
from support import world
from walkbits.arrays.places import exists
from walkbits.config_file import load_config
from walkbits.index.codes import Coder
from walkbits.models import architectures
from walkbits.models.base import NO_SHAPES
from walkbits.schemas import CODES, EDGES, EMBEDDINGS, EVALUATION, HOLDOUT, PUBLICATIONS, RELATED, RUN_METRICS
from walkbits.stages import daily

pytestmark = pytest.mark.system

SMALL = {
    "training.epochs": 2,
    "training.checkpoint_seconds": 0.001,
    "training.train_neighbors": 5,
    "training.batch_size": 256,
    "training.num_negatives": 16,
    "walks.num_neighbors": 10,
    "walks.num_walks": 40,
    "ingest.holdout.contexts": 50,
    "ingest.holdout.min_items": 4,
}
ROOT = Path(__file__).resolve().parents[2]
IN_EVERY_RUN = {"item_pool", "hashgnn"}


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(one, marks=[] if one in IN_EVERY_RUN else [pytest.mark.slow])
        for one in architectures()
        if one != "pinsage"  # test_daily
    ],
)
def test_a_day_runs_from_a_models_file(spark: SparkSession, tmp_path: Path, architecture: str) -> None:
    world.write_inputs(tmp_path / "inputs")
    path = world.write_config(tmp_path, tmp_path / "inputs", tmp_path / "root")
    config = load_config(path, SMALL, ROOT / "conf" / "models" / f"{architecture}.yaml")
    run = daily.run_daily(spark, config, ds=date(2026, 1, 31))
    assert run.store.read(PUBLICATIONS).count() == 1
    assert not exists(run.artifacts("checkpoints"))
    figures = {
        row.metric for row in run.store.read(RUN_METRICS, run_id=run.run_id, stage="train_model").collect()
    }
    assert {"loss[1]", "loss[2]", "loss", "examples_per_second", "waiting_for_batches"} <= figures
    recall = run.store.read(EVALUATION, run_id=run.run_id, task="context_to_item", metric="recall").collect()
    assert {"embeddings", "popularity", "item_knn"} < {row.model for row in recall}
    assert {row.queries for row in recall} == {run.store.read(HOLDOUT, run_id=run.run_id).count()} == {50}
    rows = run.store.read(EMBEDDINGS, run_id=run.run_id).collect()
    counts = {one: sum(row.node_type == one for row in rows) for one in ("item", "context")}
    assert counts == {"item": world.NUM_ITEMS, "context": world.NUM_CONTEXTS}
    vectors = np.array([row.embedding for row in rows])
    assert len(np.unique(vectors.round(6), axis=0)) > world.NUM_ITEMS
    learned = config.model.network(NO_SHAPES).learned_codes
    coder = Coder.of(config.index, config.seed, vectors.shape[1], learned=learned)
    for bits in config.index.code_bits:
        code, scale = coder.encode(vectors.astype(np.float32), bits)
        published = run.store.read(CODES, run_id=run.run_id, code_bits=bits).collect()
        found = {row.node_id: (row.code, row.scale) for row in published}
        assert found == {row.node_id: (code[at].tolist(), scale[at]) for at, row in enumerate(rows)}
    score = config.model.score
    degrees = {
        row.item: row["count"]
        for row in run.store.read(EDGES, run_id=run.run_id).groupBy("item").count().collect()
    }
    total = sum(degrees.values())
    for row in rows:
        share = max(degrees.get(row.node_id, 0), 0.5) / total
        expected = score.temperature * score.prior * np.log(share) if row.node_type == "item" else 0.0
        assert row.prior == pytest.approx(expected, abs=1e-5)
    items = {row.external_id: row for row in rows if row.node_type == "item"}
    related = run.store.read(RELATED, run_id=run.run_id).collect()
    assert len(related) > world.NUM_ITEMS
    for pair in related:
        asked, found = (np.array(items[one].embedding) for one in (pair.item_id, pair.related_id))
        cosine = asked @ found / (np.linalg.norm(asked) * np.linalg.norm(found))
        contexts = degrees.get(items[pair.related_id].node_id, 0)
        counts_for = contexts / (contexts + score.support) if score.support else 1.0
        assert pair.score == pytest.approx(cosine * counts_for, abs=1e-5)
