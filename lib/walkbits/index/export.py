"""Files for a server: an index, the external ids of its rows, and a card that says how to query.

    index.faiss   the vectors or codes, row i of item i; or index.hnswlib, index.usearch
    ids.json      external ids, in that order
    card.json     kind, score, width, run, sha256 of the other files

Score `item` (item to items): unit vectors times n / (n + support), for an item of n contexts and the support
of the model's card, so that an inner product with a query of unit length is the score between items. Score
`context` (context to items): each vector has the item's prior as one more coordinate, and a query a 1. Kind
`binary` holds codes and compares them by Hamming distance. The other kinds hold vectors: three of faiss, and
one each of hnswlib and usearch, which need not be installed for the rest.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from walkbits.arrays.places import Place, write_bytes
from walkbits.errors import MissingDependencyError
from walkbits.index.cells import num_cells
from walkbits.types import F32, I64

Kind = Literal["flat", "ivf", "hnsw", "binary", "hnswlib", "usearch"]
Score = Literal["item", "context"]
KINDS: Final[tuple[Kind, ...]] = ("flat", "ivf", "hnsw", "binary", "hnswlib", "usearch")
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


def index_of(kind: Kind, vectors: F32) -> Any:
    """An index of fp32 [n, d] vectors by inner product, of the library that the kind names, else of faiss.

    Raises:
        MissingDependencyError: the library is not installed.
    """
    if kind == "hnswlib":
        index = _library("hnswlib").Index("ip", vectors.shape[1])
        index.init_index(len(vectors), M=_LINKS, ef_construction=_EFFORT)
        index.add_items(vectors, np.arange(len(vectors)))
        index.set_ef(_EFFORT)
        return index
    if kind == "usearch":
        index = _library("usearch.index").Index(
            ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=_LINKS,
            expansion_add=_EFFORT, expansion_search=_EFFORT,
        )  # fmt: skip
        index.add(np.arange(len(vectors)), vectors)
        return index
    return faiss_index(kind, vectors)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise MissingDependencyError(
            f"--kind {package} needs the package {package}, got none; `pip install {package}`, or take hnsw"
        ) from error


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
    library = type(index).__module__.split(".")[0]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / f"index.{library}"
        width = _save(index, library, str(file))
        contents = {file.name: file.read_bytes()}
    contents["ids.json"] = json.dumps(list(ids), ensure_ascii=False).encode()
    for name, data in contents.items():
        write_bytes(folder / name, data)
    card = {
        **about,
        "count": len(ids),
        "width": width,
        "library": f"{library} {version('faiss-cpu' if library == 'faiss' else library)}",
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()},
    }
    write_bytes(folder / "card.json", (json.dumps(card, indent=2) + "\n").encode())
    return card


def _save(index: Any, library: str, file: str) -> int:
    """Write an index as its library does; its width."""
    if library == "hnswlib":
        index.save_index(file)
        return int(index.dim)
    if library == "usearch":
        index.save(file)
        return int(index.ndim)
    import faiss

    write = faiss.write_index_binary if isinstance(index, faiss.IndexBinary) else faiss.write_index
    write(index, file)
    return int(index.d)
