"""The peer: DGL's PinSAGESampler on the same graph, in the peer's own environment.

    .cache/bench-dgl/bin/python benchmarks/dgl_walks.py GRAPH_FOLDER NUM_WALKS WALK_LENGTH NUM_NEIGHBORS NODES

Prints one JSON line: nodes per second by batch size, the median of three passes after a warm-up.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import dgl
import numpy as np
import torch

BATCH_SIZES = (1_000, 5_000, 20_000)


def main() -> None:
    """Load, sample, report."""
    folder = Path(sys.argv[1])
    num_walks, walk_length, num_neighbors, num_nodes = map(int, sys.argv[2:])
    meta = json.loads((folder / "meta.json").read_text())
    indptr = np.load(folder / "item_indptr.npy").astype(np.int64)
    context = torch.from_numpy(np.load(folder / "item_indices.npy").astype(np.int64))
    item = torch.from_numpy(np.repeat(np.arange(meta["num_items"]), np.diff(indptr)))
    graph = dgl.heterograph(
        {("item", "in", "context"): (item, context), ("context", "has", "item"): (context, item)},
        {"item": meta["num_items"], "context": meta["num_contexts"]},
    )
    sampler = dgl.sampling.PinSAGESampler(
        graph, "item", "context", walk_length, 0.0, num_walks, num_neighbors
    )
    starts = torch.from_numpy(np.random.default_rng(0).permutation(meta["num_items"])[:num_nodes])
    sampler(starts[:2_000])
    rates = {}
    for size in BATCH_SIZES:
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            for batch in torch.split(starts, size):
                sampler(batch)
            seconds.append(time.perf_counter() - began)
        rates[size] = len(starts) / statistics.median(seconds)
    sys.stdout.write(json.dumps(rates) + "\n")


if __name__ == "__main__":
    main()
