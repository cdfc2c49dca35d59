"""The bipartite graph as two compressed adjacencies in plain, memory-mapped files.

`item` rows list the contexts of each item, `context` rows the items of each context,
ascending. Each is three arrays: `indptr` (where a row starts), `indices` (its entries)
and, when edges are weighted, `cumulative` (running sum of the row's fixed-point weights,
inclusive), so that an edge is drawn by one binary search. `keys` hold the node's stable
64-bit key, from which its draws come.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from walkbits.arrays.mapped import open_array, save_array
from walkbits.arrays.places import Place, read_bytes, write_bytes
from walkbits.errors import InputError
from walkbits.schemas import CONTEXT, ITEM
from walkbits.types import I32, I64, Relation, target_of

SIDES: Final = (ITEM, CONTEXT)
META: Final = "meta.json"


@dataclass(frozen=True)
class Adjacency:
    """Rows of one side. All arrays are read-only.

    Attributes:
        indptr: [nodes + 1], int32 where the edges fit, else int64; row r is
            indices[indptr[r]:indptr[r + 1]].
        indices: int32 [edges], nodes of the other side, ascending within a row.
        cumulative: int64 [edges], inclusive running weight within a row; empty when unweighted.
        keys: int64 [nodes], stable key of each node.
    """

    indptr: I32 | I64
    indices: I32
    cumulative: I64
    keys: I64

    def __post_init__(self) -> None:
        for name in ("indptr", "indices", "cumulative", "keys"):
            # Plain views: compiled code sees one type, whether mapped or in memory.
            array = np.asarray(getattr(self, name)).view()
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @property
    def num_nodes(self) -> int:
        return len(self.indptr) - 1

    @cached_property
    def max_degree(self) -> int:
        """Edges of the node that has most."""
        return int(np.diff(self.indptr).max(initial=0))


@dataclass(frozen=True)
class BipartiteCsr:
    """Both sides of a bipartite graph; `item.indices` are contexts and the reverse."""

    item: Adjacency
    context: Adjacency
    weighted: bool

    @property
    def num_edges(self) -> int:
        return len(self.item.indices)

    def sides(self, relation: Relation) -> tuple[Adjacency, Adjacency]:
        """(side of the target nodes, the other side) of a relation."""
        if target_of(relation) == ITEM:
            return self.item, self.context
        return self.context, self.item

    @classmethod
    def from_edges(
        cls,
        item: I32,
        context: I32,
        weight: I64 | None,
        num_items: int,
        num_contexts: int,
        item_keys: I64,
        context_keys: I64,
    ) -> BipartiteCsr:
        """Build in memory, from edges in any order.

        Args:
            item: int [edges], index of each edge's item.
            context: int [edges], index of each edge's context.
            weight: int64 [edges], fixed-point weight > 0, or None for equal edges.
            num_items: Number of items.
            num_contexts: Number of contexts.
            item_keys: int64 [num_items].
            context_keys: int64 [num_contexts].

        Raises:
            InputError: an index is out of range, an edge repeats, a weight is not positive.
        """
        for name, values, size in (("item", item, num_items), ("context", context, num_contexts)):
            if len(values) and (values.min() < 0 or values.max() >= size):
                seen = f"{values.min()}..{values.max()}"
                raise InputError(f"{name} must be an index in 0..{size - 1}, got {seen}; rerun ingest")
        if weight is not None and len(weight) and weight.min() <= 0:
            raise InputError(f"weight must be > 0, got {weight.min()}; drop such edges at ingest")
        return cls(
            _adjacency(item, context, weight, num_items, num_contexts, item_keys),
            _adjacency(context, item, weight, num_contexts, num_items, context_keys),
            weight is not None,
        )

    def save(self, folder: Place) -> None:
        """Write the folder that `open` maps."""
        for name, array in self._arrays().items():
            save_array(folder / name, array)
        write_meta(folder, self.item.num_nodes, self.context.num_nodes, self.num_edges, self.weighted)

    @classmethod
    def open(cls, folder: Place) -> BipartiteCsr:
        """Map the folder read-only; pages are shared by all workers of the host.

        Raises:
            InputError: a file is missing, or its length disagrees with meta.json.
        """
        meta = read_meta(folder)
        expected = lengths_of(**meta)
        arrays: dict[str, NDArray[Any]] = {}
        for name, length in expected.items():
            try:
                arrays[name] = open_array(folder / name)
            except (OSError, ValueError) as error:
                raise InputError(
                    f"graph file '{folder / name}' must be a readable .npy array: {error}; rebuild the graph"
                ) from error
            array, dtype = arrays[name], dtype_of(name, meta["num_edges"])
            if array.shape != (length,) or array.dtype != dtype:
                raise InputError(
                    f"graph file '{folder / name}' must hold {length} values of {dtype}, "
                    f"got {array.shape} of {array.dtype}; rebuild the graph"
                )
        none = np.empty(0, np.int64)
        item, context = (
            Adjacency(
                arrays[f"{side}_indptr.npy"],
                arrays[f"{side}_indices.npy"],
                arrays.get(f"{side}_cumulative.npy", none),
                arrays[f"{side}_keys.npy"],
            )
            for side in SIDES
        )
        return cls(item, context, bool(meta["weighted"]))

    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {}
        for side, rows in zip(SIDES, (self.item, self.context), strict=True):
            arrays[f"{side}_indptr.npy"] = rows.indptr
            arrays[f"{side}_indices.npy"] = rows.indices
            arrays[f"{side}_keys.npy"] = rows.keys
            if self.weighted:
                arrays[f"{side}_cumulative.npy"] = rows.cumulative
        return arrays


def read_meta(folder: Place) -> dict[str, Any]:
    """num_items, num_contexts, num_edges and weighted of a finished graph folder.

    Raises:
        InputError: there is no finished graph in the folder.
    """
    try:
        meta = json.loads(read_bytes(folder / META))
        return {key: meta[key] for key in ("num_items", "num_contexts", "num_edges", "weighted")}
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"graph '{folder}' must hold a finished {META}: {error!r}; build the graph"
        ) from error


def _adjacency(
    node: I32, neighbor: I32, weight: I64 | None, num_nodes: int, num_neighbors: int, keys: I64
) -> Adjacency:
    pair = node.astype(np.int64) * num_neighbors + neighbor
    order = np.argsort(pair)
    if len(pair) and not np.diff(pair[order]).all():
        raise InputError("edges must be unique (item, context) pairs, got a repeated one; aggregate first")
    indptr = np.zeros(num_nodes + 1, np.int64)
    np.cumsum(np.bincount(node, minlength=num_nodes), out=indptr[1:])
    cumulative = np.empty(0, np.int64)
    if weight is not None:
        total = np.cumsum(weight[order], dtype=np.int64)
        before_row = np.concatenate([[0], total])[indptr[:-1]]
        cumulative = total - np.repeat(before_row, np.diff(indptr))
    indptr = indptr.astype(_pointer_type(len(pair)))
    return Adjacency(indptr, neighbor[order].astype(np.int32), cumulative, np.asarray(keys, np.int64))


def _pointer_type(num_edges: int) -> np.dtype[Any]:
    """Half the bytes are half the cache: int32 for fewer than 2^31 edges."""
    return np.dtype(np.int32 if num_edges <= np.iinfo(np.int32).max else np.int64)


def dtype_of(name: str, num_edges: int) -> np.dtype[Any]:
    """Type of the values of one file of the folder."""
    if name.endswith("_indptr.npy"):
        return _pointer_type(num_edges)
    return np.dtype(np.int32 if name.endswith("_indices.npy") else np.int64)


def lengths_of(num_items: int, num_contexts: int, num_edges: int, weighted: bool) -> dict[str, int]:
    """Values per file of the folder."""
    lengths: dict[str, int] = {}
    for side, nodes in zip(SIDES, (num_items, num_contexts), strict=True):
        lengths |= {f"{side}_indptr.npy": nodes + 1, f"{side}_indices.npy": num_edges}
        lengths |= {f"{side}_keys.npy": nodes}
        if weighted:
            lengths[f"{side}_cumulative.npy"] = num_edges
    return lengths


def write_meta(folder: Place, num_items: int, num_contexts: int, num_edges: int, weighted: bool) -> None:
    """What `read_meta` reads; written last, it makes the folder a finished graph."""
    meta = {
        "num_items": num_items,
        "num_contexts": num_contexts,
        "num_edges": num_edges,
        "weighted": weighted,
    }
    write_bytes(folder / META, (json.dumps(meta) + "\n").encode())
