"""Names of types that several rooms share: node types, relations and arrays."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

NodeType = Literal["item", "context"]
Relation = Literal["item_from_item", "item_from_context", "context_from_item"]
"""`<target>_from_<source>`: whose neighborhoods hold whom."""

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
Bools = NDArray[np.bool_]


def target_of(relation: Relation) -> NodeType:
    """Node type that gets the neighborhoods."""
    return "item" if relation.startswith("item_") else "context"


def source_of(relation: Relation) -> NodeType:
    """Node type that the neighbors are of."""
    return "item" if relation.endswith("_item") else "context"


def size_text(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"
