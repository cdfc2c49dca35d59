"""A small synthetic world: items and contexts in planted communities, written as input files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from walkbits.config import Config
from walkbits.config_file import load_config
from walkbits.rng import draw

KINDS = ("apple", "bread", "cheese", "dates", "eggs", "fish", "grapes", "honey")
NUM_ITEMS, NUM_CONTEXTS, COMMUNITIES, PER_CONTEXT = 240, 400, 8, 6


def interactions() -> pa.Table:
    """PER_CONTEXT draws per context, mostly from the context's own community."""
    context = np.repeat(np.arange(NUM_CONTEXTS), PER_CONTEXT)
    place = np.tile(np.arange(PER_CONTEXT), NUM_CONTEXTS)
    u = draw(7, context, place).astype(object)
    community = [
        int(c) % COMMUNITIES if int(x) % 10 else int(x >> 8) % COMMUNITIES
        for c, x in zip(context, u, strict=True)
    ]
    member = [int(x >> 32) % (NUM_ITEMS // COMMUNITIES - 1) for x in u]
    item = np.array(member) * COMMUNITIES + np.array(community)
    return pa.table(
        {
            "product": pa.array([f"p{i:04d}" for i in item]),
            "basket": pa.array(context, pa.int64()),
            "amount": pa.array((place % 3 + 1).astype(np.float64)),
        }
    )


def items() -> pa.Table:
    """All items, some never touched; the words say the community, with noise."""
    index = np.arange(NUM_ITEMS)
    return pa.table(
        {
            "product": pa.array([f"p{i:04d}" for i in index]),
            "title": pa.array([f"{KINDS[i % COMMUNITIES]} no. {i}" for i in index]),
            "brand": pa.array([None if i % 11 == 0 else f"b{i % 5}" for i in index]),
            "price": pa.array([None if i % 13 == 0 else float(i % 17) for i in index]),
        }
    )


def write_inputs(folder: Path, **tables: pa.Table) -> None:
    """Write interactions.parquet and items.parquet; `tables` replaces one or both."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in (("interactions", interactions), ("items", items)):
        pq.write_table(tables[name] if name in tables else make(), folder / f"{name}.parquet")


CONFIG = """
root: {root}
seed: 11
interactions: {{path: {inputs}/interactions.parquet, item: product, context: basket, weight: amount}}
items:
  path: {inputs}/items.parquet
  item: product
  name: title
  text: [title]
  categorical: [brand]
  numeric: [price]
ingest: {{weighted: false}}
features: {{text_buckets: 4096, width: 16, degree: [item]}}
walks: {{num_walks: 40, walk_length: 4, num_neighbors: 10, block_size: 64}}
model: {{architecture: pinsage, hidden_size: 16, embedding_size: 16}}
training: {{context_fraction: 1.0, epochs: 12, learning_rate: 0.01, margin: 0.3, batch_size: 256, num_negatives: 32, train_neighbors: 5}}
inference: {{block_size: 64}}
index: {{code_bits: [64, 128], lsh_bits: 64, num_related: 5}}
evaluation: {{holdout: {{contexts: 100, min_items: 4}}, ks: [10], num_neighbors: 20}}
"""


def write_config(folder: Path, inputs: Path, root: Path) -> Path:
    """A config file for the world's inputs."""
    path = folder / "config.yaml"
    path.write_text(CONFIG.format(root=root, inputs=inputs), encoding="utf-8")
    return path


def world_config(tmp_path: Path, overrides: dict[str, Any] | None = None) -> Config:
    """Inputs and config of a fresh world under `tmp_path`."""
    write_inputs(tmp_path / "inputs")
    return load_config(write_config(tmp_path, tmp_path / "inputs", tmp_path / "root"), overrides)
