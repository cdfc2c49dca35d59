"""Every file under sql/ parses and runs, and answers what plain Python answers."""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F
from reference.buckets import buckets_of, weak_and
from reference.plain import packed, random_rows
from walkbits import schemas
from walkbits.index.codes import Coder, rotation, unpack_bits
from walkbits.tables.views import install_functions

SQL = Path(__file__).resolve().parents[2] / "sql"
VIEWS = sorted((SQL / "views").glob("*.sql"))
QUERIES = sorted((SQL / "queries").glob("*.sql"))

NUM_ITEMS, NUM_CONTEXTS, SIZE, BAND_BITS = 60, 12, 8, 4
LIVE, PREVIOUS, ABANDONED = "20260102-bbbbbbbb-a1", "20260101-aaaaaaaa-a1", "20260103-cccccccc-a1"
ITEM_IDS = [f"{100 - i}" if i % 7 else f'it\'em "{i}"' for i in range(NUM_ITEMS)]
# A context may carry the id of an item.
CONTEXT_IDS = [ITEM_IDS[3], *(f"c{i}" for i in range(1, NUM_CONTEXTS))]
IDS = ITEM_IDS + CONTEXT_IDS


def run_vectors(run_id: str) -> np.ndarray:
    """Embeddings of a run; the live one lies near the previous one."""
    x = np.random.default_rng(0).standard_normal((NUM_ITEMS + NUM_CONTEXTS, SIZE))
    if run_id != PREVIOUS:
        x += 0.3 * np.random.default_rng(len(run_id) + ord(run_id[-4])).standard_normal(x.shape)
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    x[11] = x[12]  # a tie
    return x


def run_nodes(run_id: str) -> list[int]:
    """Rows of IDS that a run knows: the previous run lacks some items and knows others."""
    gone = {PREVIOUS: {1, 2}, LIVE: {20, 70}}.get(run_id, set())
    return [row for row in range(len(IDS)) if row not in gone]


def node_type(row: int) -> str:
    return schemas.ITEM if row < NUM_ITEMS else schemas.CONTEXT


def name(row: int) -> str | None:
    return None if row % 5 == 0 else f"name of {row}"


X = run_vectors(LIVE)
NODES = run_nodes(LIVE)
ITEMS = [row for row in NODES if row < NUM_ITEMS]
DIRECTIONS = rotation(0, SIZE, 128)
CODER = Coder(DIRECTIONS)
CODE = {run_id: CODER.encode(run_vectors(run_id), 128)[0] for run_id in (LIVE, PREVIOUS)}
BUCKETS = buckets_of(CODE[LIVE][:, :1], BAND_BITS)
NEIGHBORS = {
    run_id: random_rows(np.random.default_rng(len(ITEMS) + seed), len(ITEMS), len(ITEMS), 5)
    for seed, run_id in enumerate((PREVIOUS, LIVE))
}
RECOMMENDED = (9, 5, 30)
ONES = [row % 7 if row < NUM_ITEMS else 0 for row in range(len(IDS))]
"""How many bits of a node's prior_code are no ones."""
PRIOR = [-one / 8 for one in ONES]
NEIGHBORS[LIVE][4] = ([58, 1, 0], [16_909_060, 300, 1])  # each byte of an int32


@pytest.fixture
def published(spark: SparkSession) -> None:
    """Base tables of three runs, of which the second is live, as temporary views; then the views."""
    rows: dict[str, list[dict[str, Any]]] = {table.name: [] for table in schemas.PUBLISHED}
    for run_id in (PREVIOUS, LIVE, ABANDONED):
        x = run_vectors(run_id)
        for node_id, row in enumerate(run_nodes(run_id)):
            node = {
                "run_id": run_id, "node_type": node_type(row), "node_id": node_id, "external_id": IDS[row]
            }  # fmt: skip
            rows["nodes"].append(node | {"name": name(row), "node_key": row, "degree": row})
            rows["embeddings"].append(node | {"embedding": x[row].tolist(), "prior": PRIOR[row]})
            for bits in (64, 128):
                code, scale = CODER.encode(x[[row]], bits)
                coded = {
                    "code_bits": bits,
                    "code": code[0].tolist(),
                    "scale": float(scale[0]),
                    "prior_code": -1 << ONES[row],
                }
                rows["codes"].append(node | coded)
                if bits == 64 and node_type(row) == schemas.ITEM:
                    for band, bucket in enumerate(buckets_of(code, BAND_BITS)[0].tolist()):
                        rows["lsh_buckets"].append(node | {"band": band, "bucket": bucket})
        known = [row for row in run_nodes(run_id) if row < NUM_ITEMS]
        for row in known:
            order = sorted((-float(x[row] @ x[other]), other) for other in known if other != row)
            for rank, (score, other) in enumerate(order[:4], 1):
                rows["related"].append(
                    {
                        "run_id": run_id, "item_id": IDS[row], "rank": rank,
                        "related_id": IDS[other], "score": -score,
                    }
                )  # fmt: skip
    rows["recommendations"] = [
        {
            "run_id": run_id, "context_id": IDS[context], "rank": rank,
            "item_id": IDS[other], "score": 1 / rank,
        }
        for run_id in (PREVIOUS, LIVE, ABANDONED)
        for context in run_nodes(run_id)[-3:]
        for rank, other in enumerate(RECOMMENDED, 1)
    ]  # fmt: skip
    rows["index_card"] = [
        {
            "run_id": run_id, "product": product, "gap": gap, "cells": 2.5, "recall": 0.9, "recall_error": 0.01,
            "items_scored": 20.0, "share_scored": 20 / NUM_ITEMS, "chosen": gap is None,
        }
        for run_id in (PREVIOUS, LIVE, ABANDONED)
        for product in ("related", "recommendations")
        for gap in (0.25, None)
    ]  # fmt: skip
    rows["code_directions"] = [
        {"run_id": run_id, "bit": bit, "direction": direction}
        | {"band": bit // BAND_BITS if bit < 64 else None, "place": bit % BAND_BITS if bit < 64 else None}
        for run_id in (PREVIOUS, LIVE, ABANDONED)
        for bit, direction in enumerate(DIRECTIONS.tolist())
    ]
    rows["neighborhoods"] = [
        {"run_id": run_id, "relation": "item_from_item", "node": row}
        | {"neighbors": packed(neighbors), "visits": packed(visits)}
        for run_id in (PREVIOUS, LIVE)
        for row, (neighbors, visits) in enumerate(NEIGHBORS[run_id])
    ]
    for table in (*schemas.PUBLISHED, schemas.NEIGHBORHOODS):
        selected = [tuple(row[column] for column in table.names) for row in rows[table.name]]
        spark.createDataFrame(selected, table.schema).createOrReplaceTempView(table.name)
    day = datetime.date(2026, 1, 2)
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5)
    pointers = [
        ("live", 9, day, PREVIOUS, None, "model", "inputs", 10, "sha", moment),
        ("live", 10, day, LIVE, PREVIOUS, "model", "inputs", 10, "sha", moment),
        ("ds=2026-01-03", 11, day, ABANDONED, LIVE, "model", "inputs", 10, "sha", moment),
    ]
    spark.createDataFrame(pointers, schemas.PUBLICATIONS.schema).createOrReplaceTempView("publications")
    install_functions(spark)
    for view in VIEWS:
        spark.sql(view.read_text(encoding="utf-8"))


def ask(spark: SparkSession, query: str, **parameters: Any) -> list[Row]:
    frame = spark.sql((SQL / "queries" / f"{query}.sql").read_text(encoding="utf-8"), args=parameters)
    return frame.collect()


def plan(spark: SparkSession, query: str, **parameters: Any) -> str:
    text = (SQL / "queries" / f"{query}.sql").read_text(encoding="utf-8")
    return spark.sql(text, args=parameters)._jdf.queryExecution().executedPlan().toString()


def inner(a: int, b: int) -> float:
    return float(X[a].astype(np.float64) @ X[b])


def differing(a: list[int], b: list[int]) -> int:
    """Bits in which two lists of signed words differ."""
    return sum(bin((int(x) ^ int(y)) % 2**64).count("1") for x, y in zip(a, b, strict=True))


def matching(a: int, b: int) -> int:
    return int((BUCKETS[a] == BUCKETS[b]).sum())


@pytest.mark.parametrize("path", VIEWS + QUERIES, ids=lambda path: path.stem)
def test_sparks_own_parser_accepts_it(spark: SparkSession, path: Path) -> None:
    text = path.read_text(encoding="utf-8").rstrip().removesuffix(";")
    assert ";" not in "".join(line for line in text.splitlines() if not line.startswith("--"))
    spark._jsparkSession.sessionState().sqlParser().parsePlan(text)


def test_every_query_is_tested_and_every_parameter_explained(request: pytest.FixtureRequest) -> None:
    tests = {item.originalname for item in request.session.items if hasattr(item, "originalname")}
    for path in QUERIES:
        assert f"test_{path.stem}" in tests
        text = path.read_text(encoding="utf-8")
        header = "\n".join(line for line in text.splitlines() if line.startswith("--"))
        body = "\n".join(line.split("--")[0] for line in text.splitlines())
        used = {word.strip(",();") for word in body.split() if word.lstrip("(").startswith(":")}
        assert all(word.lstrip("(:").split(",")[0] in header for word in used), path.name


@pytest.mark.usefixtures("published")
def test_views_show_the_live_run_whole(spark: SparkSession) -> None:
    for table in schemas.PUBLISHED:
        if table == schemas.NEIGHBORHOODS:
            continue  # shown as arrays, below
        view = spark.table(f"published_{table.name}")
        assert view.columns == table.names
        assert view.exceptAll(spark.table(table.name).where(f"run_id = '{LIVE}'")).count() == 0
        assert view.count() == spark.table(table.name).where(f"run_id = '{LIVE}'").count() > 0
    (run,) = spark.table("published_run").collect()
    assert (run["run_id"], run["seq"]) == (LIVE, 10)
    assert spark.table("published_run").columns == schemas.PUBLICATIONS.names


@pytest.mark.usefixtures("published")
def test_views_are_empty_before_the_first_publication(spark: SparkSession) -> None:
    spark.table("publications").limit(0).createOrReplaceTempView("publications")
    for view in VIEWS:
        spark.sql(view.read_text(encoding="utf-8"))
        assert spark.table(view.stem).count() == 0


@pytest.mark.usefixtures("published")
def test_related_items(spark: SparkSession) -> None:
    for row in (0, 3, 14):
        order = sorted((-inner(row, other), other) for other in ITEMS if other != row)[:4]
        found = ask(spark, "related_items", item_id=IDS[row])
        assert [(line["rank"], line["related_id"], line["name"]) for line in found] == [
            (rank, IDS[other], name(other)) for rank, (_, other) in enumerate(order, 1)
        ]
        assert [line["score"] for line in found] == pytest.approx([-score for score, _ in order], abs=1e-6)
    assert ask(spark, "related_items", item_id="nobody'; --") == []


@pytest.mark.usefixtures("published")
def test_recommended_items(spark: SparkSession) -> None:
    found = ask(spark, "recommended_items", context_id=IDS[NODES[-2]])
    assert [tuple(line) for line in found] == [
        (rank, IDS[other], name(other), pytest.approx(1 / rank)) for rank, other in enumerate(RECOMMENDED, 1)
    ]
    assert ask(spark, "recommended_items", context_id="nobody'; --") == []


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("depth", [5, 1000])
def test_coded_items(spark: SparkSession, depth: int) -> None:
    row = NODES[-2]
    bits = {other: differing(CODE[LIVE][row], CODE[LIVE][other]) + ONES[other] for other in ITEMS}
    near = sorted(ITEMS, key=lambda other: (bits[other], other))[:depth]
    score = {other: inner(row, other) + PRIOR[other] for other in near}
    best = sorted(near, key=lambda other: (-score[other], other))[:3]
    asked = {"code_bits": 128, "depth": depth, "num_results": 3}
    found = ask(spark, "coded_items", context_id=IDS[row], **asked)
    assert [tuple(line) for line in found] == [
        (rank, IDS[other], name(other), bits[other], pytest.approx(score[other], abs=1e-6))
        for rank, other in enumerate(best, 1)
    ]
    assert ask(spark, "coded_items", context_id="nobody'; --", **asked) == []


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(("theta", "probes"), [(0.0, 0), (5.0, 0), (5.0, 1), (9.0, 2)])
def test_weak_and_candidates(spark: SparkSession, theta: float, probes: int) -> None:
    for row in (3, 7):
        margins = np.abs(DIRECTIONS[:64].astype(np.float64) @ X[row])
        matches = weak_and(ITEMS.index(row), BUCKETS[ITEMS], margins, BAND_BITS, theta, probes)
        expected = {
            IDS[other]: (
                name(other),
                bands,
                pytest.approx(weight, abs=1e-5),
                differing(CODE[LIVE][row], CODE[LIVE][other]),
                pytest.approx(inner(row, other), abs=1e-6),
            )
            for other, (bands, weight) in ((ITEMS[place], one) for place, one in matches.items())
        }
        found = ask(spark, "weak_and_candidates", item_id=IDS[row], theta=theta, probes=probes)
        assert {line["candidate_id"]: tuple(line)[1:] for line in found} == expected
        assert len(found) == len(expected) > 0
        scores = [line["score"] for line in found]
        assert scores == sorted(scores, reverse=True)


def test_functions_over_codes_are_those_of_numpy(spark: SparkSession) -> None:
    install_functions(spark)
    x = np.random.default_rng(5).standard_normal((20, 128)).astype(np.float32)
    x[0], x[1] = 0, -0.0
    coder = Coder(None)
    code, scale = coder.encode(x, 128)
    table = pa.table(
        {
            "x": pa.array(list(x), pa.list_(pa.float32())),
            "code": code.tolist(),
            "scale": scale,
            "prior": x[:, 0],
        }
    )
    spark.createDataFrame(table).createOrReplaceTempView("coded")
    rows = spark.sql(
        """
        SELECT a.code, b.code AS other, hamming(a.code, b.code) AS differing, code_of(a.x) AS again,
            code_bucket(a.code, 4, 13) AS straddling, code_bucket(a.code, 1, 32) AS wide,
            asymmetric_score(a.x, b.code, b.scale, b.prior) AS score, a.x, b.scale, b.prior
        FROM coded AS a CROSS JOIN coded AS b
        """
    ).collect()
    for row in rows:
        assert row["differing"] == differing(row["code"], row["other"])
        assert row["again"] == row["code"]
        whole = sum((word % 2**64) << 64 * place for place, word in enumerate(row["code"]))
        assert row["straddling"] == whole >> 52 & 0x1FFF
        assert row["wide"] == whole >> 32 & 0xFFFFFFFF
        signs = unpack_bits(np.array([row["other"]]))[0] * 2.0 - 1
        assert row["score"] == pytest.approx(
            row["scale"] * float(np.array(row["x"]) @ signs) + row["prior"], abs=1e-4
        )


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("recent", "between"), [([3], ","), ([8, 30, 7], ","), ([8, 30, 7], ", "), ([11, 12, 25], "  , ")]
)
def test_home_feed(spark: SparkSession, recent: list[int], between: str) -> None:
    best = {}
    for other in ITEMS:
        near = [(-inner(row, other), row) for row in recent if matching(row, other) >= 2]
        if near and other not in recent:
            best[other] = min(near)
    order = sorted(best, key=lambda other: (best[other][0], other))[:6]
    items = between[-1].strip(",") + between.join(IDS[row] for row in recent)
    found = ask(spark, "home_feed", recent_items=items, min_bands=2, num_results=6)
    assert [tuple(line[:3]) for line in found] == [
        (rank, IDS[other], name(other)) for rank, other in enumerate(order, 1)
    ]
    assert [line["score"] for line in found] == pytest.approx([-best[other][0] for other in order], abs=1e-6)
    assert [(line["because_of"], line["because_of_name"]) for line in found] == [
        (IDS[best[other][1]], name(best[other][1])) for other in order
    ]
    assert len(found) == 6


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("place", [0, 4, 7, 20])
def test_neighborhood(spark: SparkSession, place: int) -> None:
    found = ask(spark, "neighborhood", item_id=IDS[ITEMS[place]])
    neighbors, visits = NEIGHBORS[LIVE][place]
    assert [tuple(line) for line in found] == [
        (rank, IDS[ITEMS[other]], name(ITEMS[other]), count, pytest.approx(count / sum(visits)))
        for rank, (other, count) in enumerate(zip(neighbors, visits, strict=True), 1)
    ]


@pytest.mark.usefixtures("published")
def test_neighborhoods_of_the_live_run_as_arrays(spark: SparkSession) -> None:
    found = spark.table("published_neighborhoods").orderBy("node").collect()
    assert [(line["node"], line["neighbors"], line["visits"]) for line in found] == [
        (node, *row) for node, row in enumerate(NEIGHBORS[LIVE])
    ]


@pytest.mark.usefixtures("published")
def test_bucket_population(spark: SparkSession) -> None:
    found = ask(spark, "bucket_population")
    assert [line["band"] for line in found] == list(range(64 // BAND_BITS))
    for line in found:
        _, counts = np.unique(BUCKETS[ITEMS, line["band"]], return_counts=True)
        gini = np.abs(counts[:, None] - counts).sum() / (2 * len(counts) * counts.sum())
        assert tuple(line)[1:] == pytest.approx(
            (len(ITEMS), len(counts), counts.mean(), counts.max(), gini, (counts**2).sum() / counts.sum())
        )


@pytest.mark.usefixtures("published")
def test_drift(spark: SparkSession) -> None:
    before = run_vectors(PREVIOUS).astype(np.float64)
    found = ask(spark, "drift")
    assert [line["node_type"] for line in found] == [schemas.CONTEXT, schemas.ITEM]
    for line in found:
        own = {row for row in NODES if node_type(row) == line["node_type"]}
        old = {row for row in run_nodes(PREVIOUS) if node_type(row) == line["node_type"]}
        common = sorted(own & old)
        flips = [
            differing(new, past) / 128
            for new, past in zip(CODE[LIVE][common], CODE[PREVIOUS][common], strict=True)
        ]
        cosine = [float(X[row].astype(np.float64) @ before[row]) for row in common]
        assert line.asDict() == {
            "run_id": LIVE,
            "prev_run_id": PREVIOUS,
            "node_type": line["node_type"],
            "nodes": len(own),
            "prev_nodes": len(old),
            "nodes_change": len(own) - len(old),
            "common": len(common),
            "mean_cosine": pytest.approx(math.fsum(cosine) / len(common), abs=1e-6),
            "share_of_bits_flipped": pytest.approx(sum(flips) / len(common)),
        }


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("changed", ["embedding", "code"])
def test_drift_between_two_widths_counts_nodes_and_compares_none(spark: SparkSession, changed: str) -> None:
    past = spark.table("embeddings" if changed == "embedding" else "codes")
    if changed == "embedding":
        short = F.when(F.col("run_id") == PREVIOUS, F.slice("embedding", 1, 3)).otherwise(F.col("embedding"))
        past = past.withColumn("embedding", short)
    else:
        past = past.where(f"run_id <> '{PREVIOUS}' OR code_bits = 64")
    spark.createDataFrame(past.collect(), past.schema).createOrReplaceTempView(
        "embeddings" if changed == "embedding" else "codes"
    )
    for view in VIEWS:
        spark.sql(view.read_text(encoding="utf-8"))
    for line in ask(spark, "drift"):
        old = [row for row in run_nodes(PREVIOUS) if node_type(row) == line["node_type"]]
        assert line["prev_nodes"] == len(old)
        assert line["common"] > 0
        compared = line["mean_cosine" if changed == "embedding" else "share_of_bits_flipped"]
        other = line["share_of_bits_flipped" if changed == "embedding" else "mean_cosine"]
        assert compared is None
        assert other is not None


@pytest.mark.usefixtures("published")
def test_drift_of_the_first_publication_has_nothing_to_compare(spark: SparkSession) -> None:
    spark.table("publications").where("seq = 9").createOrReplaceTempView("publications")
    for view in VIEWS:
        spark.sql(view.read_text(encoding="utf-8"))
    for line in ask(spark, "drift"):
        assert (line["run_id"], line["prev_run_id"]) == (PREVIOUS, None)
        assert (line["prev_nodes"], line["common"], line["mean_cosine"]) == (0, 0, None)


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("related_items", {"item_id": "5"}),
        ("weak_and_candidates", {"item_id": "5", "theta": 8.0, "probes": 2}),
        ("home_feed", {"recent_items": "5,6", "min_bands": 2, "num_results": 9}),
    ],
)
def test_no_query_pairs_items_with_the_whole_catalogue(
    spark: SparkSession, query: str, parameters: dict[str, Any]
) -> None:
    text = plan(spark, query, **parameters)
    assert "CartesianProduct" not in text
    assert "NestedLoopJoin" not in text
