"""The feature space: what was learned from one day's nodes, frozen for every day that reads it.

A model understands the vectors of the space it was trained in. So the space is a file of the model's folder,
named by its sha256 in the card, and a day that reuses the model computes its features in that space.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from pydantic import NonNegativeInt, PositiveInt
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors
from safetensors.numpy import save as safetensors_bytes

from walkbits.arrays.places import Place, read_bytes
from walkbits.errors import ModelError
from walkbits.input_settings import NodeTable
from walkbits.settings import Features, Section, config_hash
from walkbits.types import F64, NodeType

SPACE_FILE: Final = "feature_space.safetensors"

_MAX_BYTES: Final = 1 << 30
_META: Final = "space"
"""The one key of the file's metadata: several would be written in no fixed order."""


class FeatureGroup(Section):
    """Columns start, ..., stop - 1 of a feature vector."""

    name: str
    """text, categorical, numeric, degree, or the column of the vectors."""
    start: NonNegativeInt
    """First column."""
    stop: PositiveInt
    """Column after the last."""

    @property
    def width(self) -> int:
        """Columns of the group."""
        return self.stop - self.start


Layout = tuple[FeatureGroup, ...]
"""The groups of a node type's feature vector, in order and without gaps; empty where it has no features."""


def layout_of(features: Features, table: NodeTable | None, node_type: NodeType) -> Layout:
    """Where each group of a node type's features is stored in its vector."""
    widths = {}
    if table is not None:
        widths = {
            "text": features.width if table.text else 0,
            "categorical": features.width if table.categorical else 0,
            "numeric": len(table.numeric),
            **table.vectors,
        }
    widths["degree"] = int(node_type in features.degree)
    stops = itertools.accumulate(widths.values())
    placed = zip(widths.items(), stops, strict=True)
    return tuple(
        FeatureGroup(name=one, start=stop - width, stop=stop) for (one, width), stop in placed if width
    )


def width_of(layout: Layout) -> int:
    """Length of the feature vector."""
    return layout[-1].stop if layout else 0


def feature_schema_hash(features: Features, tables: Mapping[NodeType, NodeTable | None]) -> str:
    """Identifies columns and layout; a model only accepts vectors of the schema it was trained on."""
    columns = {one: table.feature_columns for one, table in tables.items() if table is not None}
    return config_hash(features, json.dumps(columns))  # unsorted: the order is the layout


class _Meta(Section):
    """What the file holds beside arrays."""

    format: Literal[1] = 1
    """Version of this layout."""
    seed: NonNegativeInt
    """See `FeatureSpace`."""
    layouts: dict[NodeType, Layout]
    """See `FeatureSpace`."""


@dataclass(frozen=True)
class FeatureSpace:
    """What turns a node's columns into its vector, beside the settings.

    Attributes:
        seed: Of the keyed signs that project tokens.
        layouts: Feature groups per node type.
        learned: fp64 arrays by `<node type>.<group>.<name>`: `idf` [text_buckets] of words or labels, `means`
            and `scales` [width of the group] of numbers.
    """

    seed: int
    layouts: dict[NodeType, Layout]
    learned: dict[str, F64]

    def to_bytes(self) -> bytes:
        """A safetensors file; equal spaces give equal bytes."""
        arrays = {name: np.ascontiguousarray(self.learned[name]) for name in sorted(self.learned)}
        return safetensors_bytes(
            arrays, {_META: _Meta(seed=self.seed, layouts=self.layouts).model_dump_json()}
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> FeatureSpace:
        """The inverse of `to_bytes`.

        Raises:
            ValueError: another or a damaged file.
        """
        try:
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            meta = _Meta.model_validate_json(header["__metadata__"][_META], strict=True)
            learned = parse_safetensors(data)
        except (SafetensorError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise ValueError(f"not a feature space ({error})") from error
        if any(one.dtype != np.float64 for one in learned.values()):
            raise ValueError("not a feature space (its arrays are not fp64)")
        return cls(meta.seed, meta.layouts, learned)


def space_id(data: bytes) -> str:
    """sha256 hex of the file's bytes: what the card calls the space."""
    return hashlib.sha256(data).hexdigest()


def read_space(folder: Place) -> bytes:
    """The bytes of the space in a folder.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    try:
        return read_bytes(folder / SPACE_FILE, _MAX_BYTES)
    except OSError as error:
        raise ModelError(
            f"feature space must be readable, got '{folder / SPACE_FILE}' ({error.strerror or error}); "
            "train the model again with --retrain"
        ) from error


def load_space(folder: Place, sha256: str) -> FeatureSpace:
    """The space in a model's folder.

    Args:
        sha256: As the card says it.

    Raises:
        ModelError: it is missing, damaged or another one.
    """
    data = read_space(folder)
    if space_id(data) != sha256:
        raise ModelError(
            f"feature space '{folder / SPACE_FILE}' must have sha256 {sha256}, got {space_id(data)}; "
            "restore the file that belongs to the card, or train again with --retrain"
        )
    try:
        return FeatureSpace.from_bytes(data)
    except ValueError as error:
        raise ModelError(
            f"feature space '{folder / SPACE_FILE}' must be one: {error}; train again with --retrain"
        ) from error
