"""Lists for any queries: those of the published tables, filtered, spread, and refused where they make no sense."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql import functions as F
from support import world
from walkbits.config import Config
from walkbits.errors import ConfigError, EmptyInputError, InputError, WalkbitsError
from walkbits.index.codes import vectors
from walkbits.ingest.queries import By, Choice
from walkbits.models.base import Shapes
from walkbits.models.pinsage import PinSage
from walkbits.runs.pointer import read_pointer
from walkbits.schemas import EDGES, EMBEDDINGS, NODES, RECOMMENDATIONS, RELATED
from walkbits.stages import daily
from walkbits.stages import find_nearest as stage
from walkbits.stages.find_nearest import found_nearest
from walkbits.tables.store import Store

DAY = date(2026, 1, 31)
K = 6
SOME = [3, 40, 77, 399]
"""Contexts that ask."""


class Published:
    """A published day."""

    def __init__(self, spark: SparkSession, folder: Path, **model: Any) -> None:
        overrides = {
            "model": {"architecture": "item_pool", "embedding_size": 16, **model},
            "features.degree": [], "index.num_recommended": K, "index.num_related": K,
        }  # fmt: skip
        self.config: Config = world.world_config(folder, overrides)
        daily.run_daily(spark, self.config, ds=DAY)
        self.spark, self.store = spark, Store(spark, self.config.root)
        pointer = read_pointer(self.store, "live")
        assert pointer is not None
        self.run_id = pointer.run_id
        self.items = spark.createDataFrame(world.items())
        nodes = self.store.read(NODES, run_id=self.run_id).orderBy("node_id").toPandas()
        self.names = nodes["external_id"].tolist()
        embedded = self.store.read(EMBEDDINGS, run_id=self.run_id).orderBy("node_id").toArrow()
        self.vectors = vectors(embedded["embedding"].combine_chunks())
        self.prior = embedded["prior"].to_numpy()[: world.NUM_ITEMS]
        edges = self.store.read(EDGES, run_id=self.run_id).toPandas()
        self.seen = {one: sorted(own["item"]) for one, own in edges.groupby("context")}

    def context_name(self, context: int) -> str:
        return self.names[world.NUM_ITEMS + context]

    def history(self, context: int) -> list[str]:
        return [self.names[item] for item in self.seen[context]]

    def queries(self, rows: list[tuple[Any, ...]], columns: str) -> DataFrame:
        return self.spark.createDataFrame(rows, columns)

    def ask(
        self, queries: DataFrame, by: By, k: int = K, choice: Choice | None = None
    ) -> dict[str, list[Row]]:
        with found_nearest(self.store, self.config, queries, by, k, choice) as found:
            rows = found.orderBy("query_id", "rank").collect()
        assert found.columns == ["query_id", "rank", "item_id", "score"]
        lists: dict[str, list[Row]] = {}
        for row in rows:
            lists.setdefault(row["query_id"], []).append(row)
        for own in lists.values():
            assert [row["rank"] for row in own] == list(range(1, len(own) + 1))
        return lists

    def published(
        self, table: Any, query: str, item: str, wanted: list[str]
    ) -> dict[str, list[tuple[str, float]]]:
        rows = (
            self.store.read(table, run_id=self.run_id)
            .where(F.col(query).isin(wanted))
            .orderBy("rank")
            .collect()
        )
        lists: dict[str, list[tuple[str, float]]] = {}
        for row in rows:
            lists.setdefault(row[query], []).append((row[item], row["score"]))
        return lists


@pytest.fixture(scope="module")
def day(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Published:
    return Published(spark, tmp_path_factory.mktemp("nearest"))


def listed(found: dict[str, list[Row]]) -> dict[str, list[tuple[str, float]]]:
    return {query: [(row["item_id"], row["score"]) for row in own] for query, own in found.items()}


def test_by_ids_the_lists_are_the_published_ones(day: Published) -> None:
    items = [day.names[item] for item in (0, 8, 101)]
    found = day.ask(day.queries([(one,) for one in items], "query_id string"), "items")
    assert listed(found) == day.published(RELATED, "item_id", "related_id", items)
    contexts = [day.context_name(one) for one in SOME]
    numbers = [(int(name),) for name in contexts]  # ids of any exact type
    found = day.ask(day.queries(numbers, "query_id bigint"), "contexts")
    assert listed(found) == day.published(RECOMMENDATIONS, "context_id", "item_id", contexts)


def test_a_history_and_its_vector_are_what_the_model_makes_of_the_context(day: Published) -> None:
    names = [day.context_name(one) for one in SOME]
    expected = day.published(RECOMMENDATIONS, "context_id", "item_id", names)
    rows = [(f"new {day.context_name(one)}", day.history(one)[::-1]) for one in SOME]
    found = day.ask(day.queries(rows, "query_id string, items array<string>"), "histories")
    embedded = [
        (name, day.vectors[world.NUM_ITEMS + one].tolist(), day.history(one))
        for name, one in zip(names, SOME, strict=True)
    ]
    columns = "query_id string, embedding array<double>, items array<string>"
    by_vector = day.ask(day.queries(embedded, columns), "vectors")
    for name in names:
        assert [item for item, _ in expected[name]] == [row["item_id"] for row in found[f"new {name}"]]
        scores = [score for _, score in expected[name]]
        assert [row["score"] for row in found[f"new {name}"]] == pytest.approx(scores, abs=1e-6)
    assert listed(by_vector) == expected


def test_a_history_of_items_with_content(spark: SparkSession, tmp_path: Path) -> None:
    day = Published(spark, tmp_path, architecture="two_tower", hidden_size=16, content=True)
    names = [day.context_name(one) for one in SOME]
    rows = [(name, day.history(one)) for name, one in zip(names, SOME, strict=True)]
    found = listed(day.ask(day.queries(rows, "query_id string, items array<string>"), "histories"))
    for name, expected in day.published(RECOMMENDATIONS, "context_id", "item_id", names).items():
        assert [item for item, _ in found[name]] == [item for item, _ in expected]
        scores = [score for _, score in expected]
        assert [score for _, score in found[name]] == pytest.approx(scores, abs=1e-6)


def test_who_has_seen_nothing_gets_what_is_popular(day: Published) -> None:
    empty = day.queries([("nobody", [])], "query_id string, items array<string>")
    best = np.lexsort((np.arange(world.NUM_ITEMS), -day.prior))[:K]
    assert [row["item_id"] for row in day.ask(empty, "histories")["nobody"]] == [
        day.names[one] for one in best
    ]


@pytest.mark.parametrize(("spread_by", "at_most"), [(None, 1), ("brand", 1), ("brand", 2)])
def test_lists_are_filtered_before_the_cut_and_spread(
    day: Published, spread_by: str | None, at_most: int
) -> None:
    where = "price BETWEEN 2 AND 9 AND title NOT LIKE 'eggs%'"
    table = {row["product"]: row for row in world.items().to_pylist()}
    kept = [
        item for item in range(world.NUM_ITEMS)
        if (row := table[day.names[item]])["price"] is not None
        and 2 <= row["price"] <= 9 and not row["title"].startswith("eggs")
    ]  # fmt: skip
    assert K < len(kept) < world.NUM_ITEMS / 2
    choice = Choice(day.items, "product", where, spread_by, at_most)
    contexts = day.queries([(day.context_name(one),) for one in SOME], "query_id string")
    found = day.ask(contexts, "contexts", choice=choice)
    for one in SOME:
        scores = (
            day.vectors[: world.NUM_ITEMS].astype(np.float64) @ day.vectors[world.NUM_ITEMS + one] + day.prior
        )
        expected: list[str] = []
        for item in sorted(
            set(kept) - set(day.seen[one]), key=lambda item: (-np.float32(scores[item]), item)
        ):
            brand = table[day.names[item]][spread_by] if spread_by else None
            same = [other for other in expected if spread_by and table[other][spread_by] == brand]
            if len(expected) < K and (brand is None or len(same) < at_most):
                expected.append(day.names[item])
        assert [row["item_id"] for row in found[day.context_name(one)]] == expected


def test_a_search_by_cells_keeps_to_the_filter_and_the_mask(day: Published) -> None:
    index = day.config.index.model_copy(update={"exact": "never", "target_recall": 0.5})
    config = day.config.model_copy(update={"index": index})
    kept = {
        row["product"] for row in world.items().to_pylist() if row["price"] is not None and row["price"] > 1
    }
    names = [day.context_name(one) for one in range(world.NUM_CONTEXTS)]
    contexts = day.queries([(name,) for name in names], "query_id string")
    choice = Choice(day.items, "product", "price > 1")
    with found_nearest(day.store, config, contexts, "contexts", K, choice) as found:
        rows = found.collect()
    assert len(rows) == len({(row["query_id"], row["item_id"]) for row in rows}) == world.NUM_CONTEXTS * K
    assert {row["item_id"] for row in rows} <= kept
    seen = {name: set(day.history(one)) for one, name in enumerate(names)}
    assert not any(row["item_id"] in seen[row["query_id"]] for row in rows)


@pytest.mark.parametrize("left", [1, 2, K])
def test_few_items_give_short_lists(day: Published, left: int) -> None:
    few = day.items.where(F.col("product").isin(day.names[:left]))
    queries = day.queries([(day.names[0],), (day.names[100],)], "query_id string")
    found = day.ask(queries, "items", choice=Choice(few, "product"))
    assert len(found.get(day.names[0], [])) == left - 1
    assert len(found[day.names[100]]) == left


ID = "query_id string"
LIST = "query_id string, items array<string>"
VECTOR = "query_id string, embedding array<float>"
NAN = [float("nan"), *[0.0] * 15]


@pytest.mark.parametrize(
    ("by", "rows", "columns", "error", "message"),
    [
        ("items", [("p9999",), ("p0001",)], ID, InputError, r"1 unknown ids, e.g. \['p9999'\]"),
        ("contexts", [("p0001",)], ID, InputError, "must name contexts of the run"),
        ("items", [("p0001",), ("p0001",)], ID, InputError, "1 nulls or repeats in 2 rows"),
        ("items", [(None,)], ID, InputError, "1 nulls or repeats"),
        ("items", [(1.5,)], "query_id double", InputError, "string or integer id, got double"),
        ("items", [], ID, EmptyInputError, "queries must hold rows"),
        ("items", [("p0001",)], "item string", InputError, r"columns \['query_id'\] must exist"),
        ("histories", [("a",)], ID, InputError, r"columns \['items'\] must exist"),
        ("histories", [("a", ["p0001", "no"])], LIST, InputError, r"1 unknown ids, e.g. \['no'\]"),
        ("histories", [("a", None), ("b", [])], LIST, InputError, "no nulls, got some in 1 rows"),
        ("histories", [("a", [1.5])], "query_id string, items array<double>", InputError, "a list of ids"),
        ("vectors", [("a", [1.0, 2.0])], VECTOR, InputError, "must hold 16 numbers.*1 rows of other widths, e.g. 2"),
        ("vectors", [("a", None)], VECTOR, InputError, "must hold 16 numbers"),
        ("vectors", [("a", NAN), ("b", [1.0] * 16)], VECTOR, InputError, "finite, got 1 rows"),
        ("vectors", [("a", "x")], "query_id string, embedding string", InputError, "a list of numbers, got string"),
    ],
)  # fmt: skip
def test_queries_that_make_no_sense_are_refused(
    day: Published,
    by: By,
    rows: list[tuple[Any, ...]],
    columns: str,
    error: type[WalkbitsError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        day.ask(day.queries(rows, columns), by)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"k": 0}, ConfigError, "--k must be from 1 to 240"),
        ({"k": 241}, ConfigError, "--k must be from 1 to 240, the items of the run, got 241"),
        ({"where": "stock > 0"}, InputError, "--where.*stock"),
        ({"where": "price >"}, InputError, "--where"),
        ({"where": "price + 1"}, InputError, "--where"),
        ({"where": "price > 1e9"}, EmptyInputError, "got none where price > 1e9"),
        ({"spread_by": "colour"}, InputError, r"items: columns \['colour'\] must exist"),
        ({"spread_by": "brand", "at_most": 0}, ConfigError, "--at-most must be at least 1"),
        ({"at_most": 2}, ConfigError, "--at-most needs the column of --spread-by"),
        ({"at_most": 0}, ConfigError, "--at-most needs the column of --spread-by"),
        ({"item": "sku", "where": None}, ConfigError, "--item needs --items, --where or --spread-by"),
        ({"item": "sku"}, InputError, r"columns \['sku'\] must exist"),
        ({"items": "nowhere", "where": "true"}, InputError, "items.path must exist"),
        ({"queries": "nowhere"}, InputError, "queries.path must exist"),
    ],
)  # fmt: skip
def test_flags_that_make_no_sense_leave_no_output(
    day: Published, tmp_path: Path, changes: dict[str, Any], error: type[WalkbitsError], message: str
) -> None:
    queries, output = str(tmp_path / "queries"), tmp_path / "out"
    day.queries([("p0001",)], ID).write.parquet(queries)
    flags = {"queries": queries, "by": "items", "output": str(output), "where": "price > 1", "k": 3} | changes
    with pytest.raises(error, match=message):
        daily.find_nearest(day.spark, day.config, **flags)
    assert not output.exists()


@pytest.mark.parametrize("form", ["delta", "parquet"])
def test_the_job_writes_a_new_table(day: Published, tmp_path: Path, form: Any) -> None:
    queries, output = str(tmp_path / "queries"), str(tmp_path / "out")
    day.queries([("p0001",), ("p0002",)], ID).write.parquet(queries)
    daily.find_nearest(day.spark, day.config, queries=queries, by="items", output=output, format=form, k=3)
    lists = day.spark.read.format(form).load(output)
    assert lists.count() == 6
    with pytest.raises(ConfigError, match="--output must be a new folder"):
        daily.find_nearest(day.spark, day.config, queries=queries, by="items", output=output)


def test_codes_of_a_width_that_the_run_has_not_are_not_exported(day: Published, tmp_path: Path) -> None:
    index = day.config.index.model_copy(update={"lsh_bits": 192})
    config = day.config.model_copy(update={"index": index})
    with pytest.raises(ConfigError, match="index.lsh_bits must be a code width of run .*, got 192"):
        daily.export_index(day.spark, config, output=str(tmp_path / "out"), kind="binary")
    assert not (tmp_path / "out").exists()


def test_a_model_without_contexts_cannot_be_asked_by_them(
    day: Published, monkeypatch: pytest.MonkeyPatch
) -> None:

    card = stage.read_card(Path(day.config.root) / "_artifacts" / day.run_id / "model")
    network = PinSage(embedding_size=16).network(
        Shapes({"item": 240, "context": 400}, {"item": 8, "context": 8})
    )
    monkeypatch.setattr(stage, "read_card", lambda _: card.model_copy(update={"network": network}))
    with pytest.raises(ConfigError, match="embeds contexts, got pinsage; ask by histories"):
        day.ask(day.queries([("3",)], ID), "contexts")
