"""The whole day on a small world: real tables, published together, resumable, reproducible."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import ROOT
from pyspark.sql import SparkSession
from pyspark.sql import functions as F
from support import world
from walkbits.arrays.mapped import files_of, folder_digest
from walkbits.config import Config, artifacts_of
from walkbits.errors import (
    AuditError,
    ConfigError,
    EmptyInputError,
    InputError,
    LostRaceError,
    MissingDependencyError,
    ModelError,
    WalkbitsError,
)
from walkbits.runs.log import find_run, logged_stages
from walkbits.runs.stage import StageRun, execute
from walkbits.schemas import (
    EMBEDDINGS,
    EVALUATION,
    PUBLICATIONS,
    PUBLISHED,
    RELATED,
    RUN_METRICS,
    RUNS,
    STAGE_LOG,
    TABLES,
)
from walkbits.stages import daily, infer_layers
from walkbits.stages.build_neighborhoods import forecast_of
from walkbits.stages.find_nearest import found_nearest
from walkbits.tables.store import Store
from walkbits.tables.views import register_views

DAY = date(2026, 1, 31)
PYTHON_GUIDE = ROOT / "docs" / "python.md"


@dataclass(frozen=True)
class Job:
    """A config, and the day it is run for."""

    store: Store
    config: Config
    ds: date

    @property
    def spark(self) -> SparkSession:
        return self.store.spark


def make_job(spark: SparkSession, config: Config, ds: date = DAY) -> Job:
    return Job(Store(spark, config.root), config, ds)


def run_day(job: Job) -> StageRun:
    return daily.run_daily(job.spark, job.config, ds=job.ds)


def run_stage(job: Job, name: str, **which: Any) -> None:
    daily.run_stage(job.spark, job.config, name, **({"ds": job.ds} | which))


def fingerprints(store: Store, run_id: str) -> dict[str, tuple[int, str]]:
    return {
        table.name: store.fingerprint(table, run_id)
        for table in TABLES.values()
        if "run_id" in table.partition_by and table != RUN_METRICS
    }


def versions(store: Store) -> dict[str, int]:
    return {
        t.name: store.spark.sql(f"DESCRIBE HISTORY delta.`{store.path(t)}` LIMIT 1").collect()[0]["version"]
        for t in TABLES.values()
        if store.exists(t)
    }


@pytest.fixture(scope="module")
def day(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """One published day."""
    job = make_job(spark, world.world_config(tmp_path_factory.mktemp("day")))
    run_day(job)
    return job


def test_published_tables_hold_every_node_once(day: Job) -> None:
    run_id = find_run(day.store, None).run_id
    assert day.store.read(EMBEDDINGS, run_id=run_id).count() == world.NUM_ITEMS
    assert day.store.read(RELATED, run_id=run_id).count() == world.NUM_ITEMS * 5
    assert day.store.read(PUBLICATIONS).count() == 1
    assert [r["state"] for r in day.store.read(RUNS).orderBy("seq").collect()] == [
        "created",
        "audited",
        "published",
    ]


def test_related_items_share_the_planted_community(day: Job) -> None:
    rows = day.store.read(RELATED).where("rank <= 3").collect()
    same = [
        int(r["item_id"][1:]) % world.COMMUNITIES == int(r["related_id"][1:]) % world.COMMUNITIES
        for r in rows
    ]
    assert sum(same) / len(same) > 0.9


def test_without_context_vectors_a_history_asks_by_the_sum_of_its_items(day: Job) -> None:
    seen = ["p0003", "p0011", "p0050"]
    queries = day.spark.createDataFrame([("new", seen)], "query_id string, items array<string>")
    with found_nearest(day.store, day.config, queries, "histories", 5) as found:
        lists = [(row["item_id"], row["score"]) for row in found.orderBy("rank").collect()]
    rows = day.store.read(EMBEDDINGS, run_id=find_run(day.store, None).run_id).orderBy("node_id").toPandas()
    x = np.array(rows["embedding"].tolist(), np.float64)
    scores = x @ x[rows["external_id"].isin(seen)].sum(axis=0)
    order = [item for item in np.argsort(-scores, kind="stable") if rows["external_id"][item] not in seen]
    assert [item for item, _ in lists] == [rows["external_id"][item] for item in order[:5]]
    assert [score for _, score in lists] == pytest.approx(scores[order[:5]].tolist(), abs=1e-5)


def test_views_show_the_run(day: Job) -> None:
    names = register_views(day.spark, day.config.root)
    assert {f"published_{table.name}" for table in PUBLISHED} <= set(names)
    shown = day.spark.table("published_embeddings").select("run_id").distinct().collect()
    assert [r["run_id"] for r in shown] == [find_run(day.store, None).run_id]


def test_the_example_for_notebooks_runs(day: Job, tmp_path: Path) -> None:
    """docs/python.md word for word, but for the places and the day: on a root where it is a no-op."""
    (example,) = re.findall(r"^```python\n(.*?)^```$", PYTHON_GUIDE.read_text(encoding="utf-8"), re.M | re.S)
    config = world.write_config(
        tmp_path, Path(day.config.interactions.path or "").parent, Path(day.config.root)
    )
    for ours, theirs in (
        ('"conf/demo.yaml"', repr(str(config))),
        ('"data/notebook"', repr(day.config.root)),
        ("date(2018, 1, 1)", repr(DAY).removeprefix("datetime.")),
    ):
        assert ours in example
        example = example.replace(ours, theirs)
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["run"].run_id == find_run(day.store, None).run_id
    assert names["related"].count() == world.NUM_ITEMS * 3


def test_the_same_inputs_again_change_nothing(day: Job) -> None:
    before = versions(day.store)
    run_day(day)
    assert versions(day.store) == before


def test_a_finished_stage_is_kept(day: Job, caplog: pytest.LogCaptureFixture) -> None:
    before = versions(day.store)
    run_stage(day, "infer_layers")
    assert versions(day.store) == before


def test_a_published_run_is_not_written_again(day: Job) -> None:
    other = day.config.model_copy(update={"index": day.config.index.model_copy(update={"num_related": 3})})
    with pytest.raises(InputError, match="a published run must not be written again"):
        execute(StageRun(day.store, other, find_run(day.store, None, DAY)), daily.STAGES["build_index"])


def test_a_run_goes_on_with_the_settings_that_opened_it(day: Job) -> None:
    walks = day.config.walks.model_copy(update={"num_walks": 5, "block_size": 32})
    audit = day.config.audit.model_copy(update={"max_row_drop": 0.9})
    other = day.config.model_copy(update={"walks": walks, "seed": 12, "audit": audit})
    with pytest.raises(ConfigError, match=r"that opened it, got others in \['seed', 'walks.num_walks'\]"):
        run_stage(make_job(day.spark, other), "build_neighborhoods")
    allowed = day.config.model_copy(update={"audit": audit})
    run_stage(make_job(day.spark, allowed), "build_neighborhoods")


def test_an_older_day_does_not_replace_a_newer_one(day: Job) -> None:
    before = versions(day.store)
    older = make_job(day.spark, day.config, ds=date(2026, 1, 30))
    with pytest.raises(LostRaceError, match="ds must be >= the published 2026-01-31"):
        run_day(older)
    after = versions(day.store)
    assert {name for name in after if after[name] != before[name]} == {RUNS.name}


@pytest.fixture
def other_partitions(spark: SparkSession) -> Iterator[None]:
    """Another number of partitions, splits and batches, and adaptive, compiled plans, for one test."""
    settings = {
        "spark.sql.shuffle.partitions": "7",
        "spark.sql.files.maxPartitionBytes": "4096",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "37",
        "spark.sql.adaptive.enabled": "true",
        "spark.sql.codegen.wholeStage": "true",
    }
    before = {key: spark.conf.get(key, None) for key in settings}
    for key, value in settings.items():
        spark.conf.set(key, value)
    yield
    for key, old in before.items():
        if old is None:
            spark.conf.unset(key)
        else:
            spark.conf.set(key, old)


class Killed(Exception):
    """Stands for a crash between two stages."""


@pytest.mark.slow
def test_a_killed_backfill_under_other_partitions_resumes_and_ends_with_the_same_bits(
    day: Job, other_partitions: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows in another order, other partitions and batches, artifacts below a URI, a crash on the way: the
    same fingerprint and rows."""
    table = world.interactions()
    keys = pa.table({"item": pc.utf8_reverse(table["product"]), "basket": table["basket"]})
    shuffled = world.world_config(tmp_path)
    world.write_inputs(
        tmp_path / "inputs",
        interactions=table.take(pc.sort_indices(keys, [("item", "descending"), ("basket", "descending")])),
    )
    earlier = date(2026, 1, 30)
    config = shuffled.model_copy(
        update={
            "root": day.config.root,
            "channel": f"ds={earlier}",
            "artifacts": (tmp_path / "far").as_uri(),
        }
    )
    job = make_job(day.spark, config, ds=earlier)
    fired = []

    def crash(context: StageRun) -> Any:
        fired.append(context.run_id)
        raise Killed

    broken = tuple(replace(s, run=crash) if s.name == "infer_layers" else s for s in daily.DAILY)
    with monkeypatch.context() as patch:
        patch.setattr(daily, "DAILY", broken)
        with pytest.raises(Killed):
            run_day(job)
    assert len(fired) == 1
    assert job.store.read(RUNS).where("state = 'failed'").count() == 1
    before = versions(job.store)
    run_day(job)
    after = versions(job.store)
    for name in ("nodes", "edges", "features", "neighborhoods"):
        assert before[name] == after[name]
    run, backfilled = find_run(day.store, None, DAY), find_run(job.store, None, earlier)
    assert (backfilled.inputs_fingerprint, backfilled.attempt) == (run.inputs_fingerprint, run.attempt)
    assert fingerprints(job.store, backfilled.run_id) == fingerprints(day.store, run.run_id)
    near, far = artifacts_of(day.config) / run.run_id, artifacts_of(config) / backfilled.run_id
    assert files_of(far) == files_of(near)  # and no scratch
    assert folder_digest(far / "graph") == folder_digest(near / "graph")
    pointers = {r["channel"]: r["run_id"] for r in day.store.read(PUBLICATIONS).collect()}
    assert pointers == {"live": run.run_id, f"ds={earlier}": backfilled.run_id}


def copy_of(day: Job, tmp_path: Path) -> StageRun:
    """The published day's tables and artifacts once more, to be damaged."""
    root = tmp_path / "copy"
    shutil.copytree(day.config.root, root)
    config = day.config.model_copy(update={"root": str(root), "channel": "other"})
    store = Store(day.spark, str(root))
    return StageRun(store, config, find_run(store, None, DAY))


def test_a_tampered_output_is_rebuilt(day: Job, tmp_path: Path) -> None:
    context = copy_of(day, tmp_path)
    shutil.rmtree(context.store.path(PUBLICATIONS))  # a published run would be refused
    whole = context.store.fingerprint(TABLES["features"], context.run_id)
    assert not execute(context, daily.DAILY[1])
    day.spark.sql(f"DELETE FROM delta.`{context.store.path(TABLES['features'])}` WHERE node_id = 3")
    assert execute(context, daily.DAILY[1])
    assert context.store.fingerprint(TABLES["features"], context.run_id) == whole
    assert not execute(context, daily.DAILY[1])


def test_a_stage_without_room_ends_before_it_starts(day: Job, tmp_path: Path) -> None:
    context = copy_of(day, tmp_path)
    shutil.rmtree(context.store.path(PUBLICATIONS))
    before = versions(context.store)
    needs = forecast_of(context, "infer_layers")
    assert needs is not None
    assert needs.written > 0
    starved = replace(infer_layers.STAGE, needs=lambda _: replace(needs, written=1 << 60))
    with pytest.raises(WalkbitsError, match="infer_layers needs .* GB of disk below"):
        execute(context, starved, again=True)
    assert versions(context.store) == before


def test_explain_tells_what_a_day_takes_and_writes_nothing(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = world.world_config(tmp_path)
    daily.day(spark, config, explain=True, ds=DAY)
    printed = capsys.readouterr().out
    counts = re.search(r"([\d,]+) items, ([\d,]+) contexts, ([\d,]+) interactions", printed)
    assert counts is not None
    items, contexts, rows = (int(one.replace(",", "")) for one in counts.groups())
    assert items == world.NUM_ITEMS
    assert rows == world.interactions().num_rows
    assert contexts == pytest.approx(len(pc.unique(world.interactions()["basket"])), rel=0.1)
    assert {*re.findall(r"^(\w+) ", printed, re.MULTILINE)} >= {stage.name for stage in daily.DAILY}
    world.write_inputs(tmp_path / "inputs", items=world.items().slice(0, 0))
    with pytest.raises(EmptyInputError, match="items: at least one row must be there"):
        daily.day(spark, config, explain=True, ds=DAY)
    assert not (tmp_path / "root").exists()


def test_a_damaged_or_missing_model_is_refused(day: Job, tmp_path: Path) -> None:
    context = copy_of(day, tmp_path)
    weights = context.artifacts("model") / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match="weights.*must have sha256"):
        infer_layers.load_run_model(context)
    shutil.rmtree(context.artifacts("model"))
    with pytest.raises(ModelError, match="model file must be readable"):
        infer_layers.load_run_model(context)


def test_an_audit_that_fails_publishes_nothing(day: Job, tmp_path: Path) -> None:
    context = copy_of(day, tmp_path)
    before = context.store.read(PUBLICATIONS).count()
    path = context.store.path(EMBEDDINGS)
    nan = "transform(embedding, x -> coalesce(float('NaN'), x))"
    day.spark.sql(
        f"UPDATE delta.`{path}` SET embedding = {nan} WHERE node_id = 3 AND run_id = '{context.run_id}'"
    )
    with pytest.raises(AuditError, match="embeddings must be finite, got 1 rows.*nothing was published"):
        daily.publish(context)
    assert context.store.read(PUBLICATIONS).count() == before
    newest = context.store.read(RUNS, run_id=context.run_id).orderBy(F.desc("seq")).first()
    assert newest is not None
    assert newest["state"] == "failed"


def test_an_audit_sees_codes_that_are_not_the_signs(day: Job, tmp_path: Path) -> None:
    context = copy_of(day, tmp_path)
    day.spark.sql(
        f"UPDATE delta.`{context.store.path(TABLES['codes'])}` SET code = transform(code, w -> ~w) "
        f"WHERE node_id = 3 AND code_bits = 128 AND run_id = '{context.run_id}'"
    )
    with pytest.raises(AuditError, match="codes must equal what its source gives"):
        daily.publish(context)


def replaced(table: pa.Table, column: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(column), column, values)


BAD_INPUTS: dict[str, tuple[Callable[[], dict[str, pa.Table]], type[Exception], str]] = {
    "null id": (
        lambda: {"interactions": replaced(world.interactions(), "product", pa.array([None, *world.interactions()["product"].to_pylist()[1:]]))},
        InputError, "1 x no item id",
    ),
    "negative weight": (
        lambda: {"interactions": replaced(world.interactions(), "amount", pc.negate(world.interactions()["amount"]))},
        InputError, "interactions.amount must be finite and >= 0",
    ),
    "NaN feature": (
        lambda: {"items": replaced(world.items(), "price", pa.array([float("nan")] * world.NUM_ITEMS))},
        InputError, "items.price must be finite or null",
    ),
    "empty interactions": (lambda: {"interactions": world.interactions().slice(0, 0)}, EmptyInputError, "interactions"),
    "empty items": (lambda: {"items": world.items().slice(0, 0)}, EmptyInputError, "items"),
    "missing column": (lambda: {"items": world.items().drop_columns(["price"])}, InputError, r"columns \['price'\]"),
    "float id": (
        lambda: {"interactions": replaced(world.interactions(), "basket", pc.cast(world.interactions()["basket"], pa.float64()))},
        InputError, "interactions.basket must be a string or integer id, got double",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_is_refused_before_anything_is_written(
    spark: SparkSession, tmp_path: Path, case: str
) -> None:
    make, error, message = BAD_INPUTS[case]
    config = world.world_config(tmp_path)
    world.write_inputs(tmp_path / "inputs", **make())
    with pytest.raises(error, match=message):
        run_day(make_job(spark, config))
    assert not (tmp_path / "root").exists()


def test_a_stage_without_its_run_says_what_to_do(spark: SparkSession, tmp_path: Path) -> None:
    job = make_job(spark, world.world_config(tmp_path))
    with pytest.raises(InputError, match="a run must exist"):
        run_stage(job, "infer_layers")
    with pytest.raises(InputError, match="--run-id must look like"):
        run_stage(job, "infer_layers", run_id="../x")
    daily.open_day(job.spark, job.config, ds=job.ds)
    with pytest.raises(
        InputError,
        match=r"stages \['ingest_graph', 'build_features', 'build_neighborhoods', 'train_model'\] must",
    ):
        run_stage(job, "infer_layers")


def test_evaluation_beats_popularity_on_planted_communities(spark: SparkSession, tmp_path: Path) -> None:
    job = make_job(spark, world.world_config(tmp_path))
    text = daily.evaluate(job.spark, job.config, ds=job.ds)
    run_id = text.split()[1].rstrip(",")
    evaluated = Store(spark, f"{job.config.root}/_evaluation")
    rows = evaluated.read(EVALUATION, run_id=run_id).collect()
    for task in ("context_to_item", "item_to_item"):
        assert f"{task}: split leave_one_out, 100 queries" in text
        recall = {r["model"]: r for r in rows if (r["task"], r["metric"], r["k"]) == (task, "recall", 10)}
        assert recall["embeddings"]["value"] > 1.5 * recall["popularity"]["value"]
        assert {r["floor"] for r in recall.values()} == {recall["popularity"]["value"]}
        assert recall["asymmetric_128"]["value"] > recall["popularity"]["value"]
    space = {r["metric"]: r["value"] for r in rows if r["task"] == "space"}
    assert space["neighbors_nearer"] > 0.7 > space["mean_cosine"]
    assert not Store(spark, job.config.root).exists(PUBLICATIONS)


def test_k_core_needs_the_jar_and_says_so(spark: SparkSession, tmp_path: Path) -> None:
    from walkbits.graph.profile import has_graphframes

    if has_graphframes(spark):
        pytest.skip("the GraphFrames jar is on the class path")
    job = make_job(spark, world.world_config(tmp_path, {"ingest.k_core": 2}))
    with pytest.raises(
        MissingDependencyError,
        match=r"ingest\.k_core=2 needs the GraphFrames jar.*--packages io\.graphframes",
    ):
        run_day(job)
    assert not (tmp_path / "root").exists()


def test_stage_log_names_every_output(day: Job) -> None:
    run_id = find_run(day.store, None, DAY).run_id
    logged = logged_stages(day.store, run_id)
    assert [*logged] == sorted([*(s.name for s in daily.DAILY), "audit_run", "publish_run"])
    outputs = {o.output for one in logged.values() for o in one.outputs}
    assert {"nodes", "edges", "features/node_type=item", "neighborhoods/relation=item_from_item", "artifacts/graph",
            "artifacts/feature_space", "artifacts/model", "representations/layer=1", "embeddings", "codes", "lsh_buckets", "related"} <= outputs  # fmt: skip
    seconds = day.store.read(STAGE_LOG, run_id=run_id).agg(F.min("seconds")).collect()[0][0]
    assert seconds > 0
