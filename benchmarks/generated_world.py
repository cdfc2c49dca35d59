"""A generated world as input files: items with text, brand and price, and a log of interactions.

Items and contexts belong to 200 topics of Zipf sizes. Four of five interactions of a context are with its
own topic's items; within a topic, items follow a power law, and so do the sizes of contexts. All draws are
keyed, so the same size is the same world anywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from walkbits.rng import draw, uniform

TOPICS: Final = 200
WORDS_PER_TOPIC, COMMON_WORDS, BRANDS = 60, 400, 2000
INTERACTIONS_PER_ITEM, ITEMS_PER_CONTEXT = 11, 5
ITEM_EXPONENT, CONTEXT_EXPONENT, TOPIC_EXPONENT = 0.6, 0.5, 0.5
_CHUNK: Final = 1 << 20
(_ITEM_TOPIC, _CONTEXT_TOPIC, _CONTEXT, _ITEM, _OWN, _OTHER, _TIME, _WORD, _COMMON, _BRAND, _PRICE) = range(
    11
)

I64 = NDArray[np.int64]


def write_world(folder: Path, num_items: int) -> None:
    """Write items.parquet and interactions.parquet: 11 interactions per item, one context per 5 items."""
    folder.mkdir(parents=True)
    topic = _power(uniform(draw(_ITEM_TOPIC, np.arange(num_items))), TOPICS, TOPIC_EXPONENT)
    pq.write_table(_items(topic), folder / "items.parquet")
    # items by topic; an item's place in its topic is its rank there
    order = np.argsort(topic, kind="stable")
    starts = np.searchsorted(topic[order], np.arange(TOPICS + 1))
    count = INTERACTIONS_PER_ITEM * num_items
    with pq.ParquetWriter(folder / "interactions.parquet", _interactions(order, starts, 0, 1).schema) as file:
        for low in range(0, count, _CHUNK):
            file.write_table(_interactions(order, starts, low, min(count, low + _CHUNK)))


def _items(topic: I64) -> pa.Table:
    index = np.arange(len(topic))
    own = [topic * WORDS_PER_TOPIC + _power(_u(_WORD, index, i), WORDS_PER_TOPIC, 0.5) for i in range(3)]
    common = [_power(_u(_COMMON, index, i), COMMON_WORDS, 0.5) for i in range(2)]
    words = [_named("w", one, TOPICS * WORDS_PER_TOPIC) for one in own]
    words += [_named("c", one, COMMON_WORDS) for one in common]
    brand = (topic * 7 + _power(_u(_BRAND, index), BRANDS // 10, 0.5)) % BRANDS
    return pa.table(
        {
            "item": _named("item-", index, len(topic)),
            "title": pc.binary_join_element_wise(*words, " "),
            "brand": _named("brand-", brand, BRANDS),
            "price": np.round(np.exp(1 + 1.5 * _u(_PRICE, index)), 2),
        }
    )


def _interactions(order: I64, starts: I64, low: int, high: int) -> pa.Table:
    num_items = len(order)
    event = np.arange(low, high)
    num_contexts = max(1, num_items // ITEMS_PER_CONTEXT)
    context = _power(_u(_CONTEXT, event), num_contexts, CONTEXT_EXPONENT)
    own = _power(uniform(draw(_CONTEXT_TOPIC, context)), TOPICS, TOPIC_EXPONENT)
    other = _power(_u(_OTHER, event), TOPICS, TOPIC_EXPONENT)
    topic = np.where(_u(_OWN, event) < 0.8, own, other)
    sizes = starts[topic + 1] - starts[topic]
    rank = (sizes * _u(_ITEM, event) ** (1 / (1 - ITEM_EXPONENT))).astype(np.int64)
    item = order[np.minimum(starts[topic] + rank, num_items - 1)]
    seconds = (30 * 86_400 * _u(_TIME, event)).astype(np.int64) + 1_700_000_000
    return pa.table(
        {
            "item": _named("item-", item, num_items),
            "context": _named("context-", context, num_contexts),
            "time": pa.array(seconds * 1_000_000, pa.timestamp("us", "UTC")),
        }
    )


def _u(kind: int, *keys: object) -> NDArray[np.float64]:
    return np.asarray(uniform(draw(kind, *keys)))  # type: ignore[arg-type]


def _power(u: NDArray[np.float64], count: int, exponent: float) -> I64:
    """Ranks 0 to count - 1 whose density falls as rank^-exponent."""
    return np.asarray(count * u ** (1.0 / (1.0 - exponent)), np.int64)


def _named(prefix: str, index: I64, count: int) -> pa.Array:
    digits = pc.utf8_lpad(pc.cast(pa.array(index), pa.string()), len(str(count)), "0")
    return pc.binary_join_element_wise(prefix, digits, "")
