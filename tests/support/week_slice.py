"""A few days of Complete Journey, cut small: what the DAG's real run works on.

python -m support.week_slice FOLDER    writes baskets.parquet, products.parquet and config.yaml
"""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from walkbits.tools.demo import prepare

FIRST, SECOND = date(2017, 12, 29), date(2017, 12, 30)
NUM_PRODUCTS = 150

CONFIG = """
root: {folder}/tables
seed: 3
interactions:
  path: {folder}/baskets.parquet
  item: product_id
  context: basket_id
  timestamp: transaction_timestamp
  lookback_days: 7
items:
  path: {folder}/products.parquet
  item: product_id
  name: name
  text: [product_category, product_type]
  categorical: [department, brand]
features: {{text_buckets: 1024, width: 16}}
walks: {{num_walks: 200, walk_length: 3, num_neighbors: 10, block_size: 64, popularity_penalty: 0.3}}
model: {{architecture: item_pool, embedding_size: 16}}
training: {{context_fraction: 1.0, epochs: 1, batch_size: 256, num_negatives: 32, train_neighbors: 5}}
retrain: {{every_days: 7, below_cosine: 0.5}}
inference: {{block_size: 64}}
index: {{code_bits: [64], lsh_bits: 64, num_related: 5}}
# So few purchases: a quarter of the bits differs from one day to the next.
audit: {{max_bits_flipped: 0.4}}
maintenance: {{keep_published: 2}}
"""


def cut(baskets: pa.Table, products: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The products bought most in the week up to SECOND, and the purchases of them."""
    day = pc.cast(baskets["transaction_timestamp"], pa.date32())
    week = baskets.filter(
        pc.and_(pc.greater(day, pa.scalar(date(2017, 12, 22))), pc.less_equal(day, pa.scalar(SECOND)))
    )
    counted = week.group_by("product_id").aggregate([("basket_id", "count")])
    known = counted.filter(pc.is_in(counted["product_id"], products["product_id"]))
    order = [("basket_id_count", "descending"), ("product_id", "ascending")]
    kept = known.sort_by(order)["product_id"][:NUM_PRODUCTS]
    return (
        week.filter(pc.is_in(week["product_id"], kept)),
        products.filter(pc.is_in(products["product_id"], kept)),
    )


def write(folder: Path) -> None:
    """Inputs and config under `folder`."""
    raw = folder / "raw"
    prepare(raw / "baskets.parquet", raw / "products.parquet")
    tables = cut(pq.read_table(raw / "baskets.parquet"), pq.read_table(raw / "products.parquet"))
    for name, table in zip(("baskets", "products"), tables, strict=True):
        pq.write_table(table.replace_schema_metadata(None), folder / f"{name}.parquet")
    (folder / "config.yaml").write_text(CONFIG.format(folder=folder), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]).resolve())
