"""faiss files for a server: an index, the external ids of its rows, and a card that says how to query.

    index.faiss   the vectors or codes, row i of item i
    ids.json      external ids, in that order
    card.json     kind, score, width, run, sha256 of the other files

Score `item` (item to items): unit vectors times n / (n + support), for an item of n contexts and the support
of the model's card, so that an inner product with a query of unit length is the score between items. Score
`context` (context to items): each vector has the item's prior as one more coordinate, and a query a 1. Kind
`binary` holds codes and compares them by Hamming distance.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from walkbits.arrays.places import Place, write_bytes
from walkbits.index.cells import num_cells
from walkbits.types import F32, I64

Kind = Literal["flat", "ivf", "hnsw", "binary"]
Score = Literal["item", "context"]
KINDS: Final[tuple[Kind, ...]] = ("flat", "ivf", "hnsw", "binary")
SCORES: Final[tuple[Score, ...]] = ("item", "context")

QUERIES: Final = {
    (
        "float",
        "item",
    ): "inner product with a query of unit length: cosine x n / (n + support)",
    ("float", "context"): "inner product with (context's embedding, 1): inner product + the item's prior",
    ("binary", "item"): "Hamming distance to the query's code, bytes of little-endian 64-bit words",
}

_PROBES: Final = 16
_LINKS: Final = 32
_EFFORT: Final = 200


def faiss_index(kind: Kind, vectors: F32) -> Any:
    """An index of fp32 [n, d] vectors by inner product; ivf and hnsw are approximate.

    ivf has `cells.num_cells` lists, of which a search reads 16 (`nprobe`); hnsw has 32 links a vector and
    looks at 200 candidates (`efSearch`).
    """
    import faiss  # loads for seconds, and only an export needs it

    count, width = vectors.shape
    index: Any
    if kind == "ivf":
        lists = num_cells(count)
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.min_points_per_centroid = 1  # of a small catalogue faiss would warn
        index.train(vectors)
        index.nprobe = min(_PROBES, lists)
    elif kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, _LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = index.hnsw.efSearch = _EFFORT
    else:
        index = faiss.IndexFlatIP(width)
    index.add(vectors)
    return index


def faiss_codes(codes: I64) -> Any:
    """An index of int64 [n, words] codes by Hamming distance."""
    import faiss

    octets = np.ascontiguousarray(codes, "<i8").view(np.uint8)
    index = faiss.IndexBinaryFlat(8 * octets.shape[1])
    index.add(octets)
    return index


def write_export(folder: Place, index: Any, ids: Sequence[str], about: dict[str, Any]) -> dict[str, Any]:
    """Write the three files, the card last; returns the card."""
    import faiss

    write = faiss.write_index_binary if isinstance(index, faiss.IndexBinary) else faiss.write_index
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "index.faiss"
        write(index, str(file))
        contents = {"index.faiss": file.read_bytes()}
    contents["ids.json"] = json.dumps(list(ids), ensure_ascii=False).encode()
    for name, data in contents.items():
        write_bytes(folder / name, data)
    card = {
        **about,
        "count": len(ids),
        "width": index.d,
        "library": f"faiss {faiss.__version__}",
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
    }
    write_bytes(folder / "card.json", (json.dumps(card, indent=2) + "\n").encode())
    return card
