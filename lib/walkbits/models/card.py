"""The model card: a network and where its weights came from.

Weights are safetensors, which cannot carry code; nothing here unpickles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import Field, FiniteFloat, StringConstraints, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors
from safetensors.numpy import save as safetensors_bytes

from walkbits.arrays.mapped import open_array, open_file, save_array
from walkbits.arrays.places import Place, exists, read_bytes, write_bytes
from walkbits.errors import ModelError
from walkbits.ingest.space import SPACE_FILE, space_id
from walkbits.network.declaration import TABLE, Network, NewNodes
from walkbits.settings import Section
from walkbits.types import F32, I64, NodeType

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

CARD_FILE: Final = "card.json"
WEIGHTS_FILE: Final = "weights.safetensors"

_MAX_CARD_BYTES: Final = 1 << 20
_HEADER_BYTES: Final = 1 << 20
"""Room for the safetensors header, beyond the tensors that the card declares."""


class TableFiles(Section):
    """Checksums of a table of ids."""

    rows_sha256: Sha256
    """`inputs.<node type>.npy`, fp32 [count, width]."""
    keys_sha256: Sha256
    """`inputs.<node type>.keys.npy`, int64 [count]: `node_key` of each row, ascending."""


class Card(Section):
    """A network and where its weights came from."""

    format: Literal[1] = 1
    """Version of this layout."""
    network: Network
    """What the engine runs."""
    feature_schema: Sha256
    """Hash of the layout of the feature vectors; inference must read the same one."""
    feature_space: Sha256 | None = None
    """sha256 of the folder's feature space (ingest.space); None where the model was trained without one."""
    config_hash: Sha256
    """Hash of the settings the model was trained with."""
    data_run: str = Field(max_length=64)
    """Run whose graph it was trained on."""
    metrics: dict[str, FiniteFloat]
    """Figures of the training."""
    weights_sha256: Sha256
    """sha256 of the weights file."""
    tables: dict[NodeType, TableFiles] = Field(default_factory=dict)
    """Of each node type whose input has ids."""
    new_nodes: dict[NodeType, NewNodes]
    """What gives nodes that training never saw an embedding, by type. Where it is empty they are left out:
    their embedding is the zero vector."""

    @model_validator(mode="after")
    def _new_nodes_are_the_networks(self) -> Card:
        expected = new_nodes_of(self.network)
        if self.new_nodes != expected:
            raise ValueError(f"new_nodes must be what the network gives, {expected}, got {self.new_nodes}")
        return self

    @property
    def model_version(self) -> str:
        """First 12 hex digits of a sha256 over the weights and tables."""
        if not self.tables:
            return self.weights_sha256[:12]
        parts = [self.weights_sha256]
        for _, one in sorted(self.tables.items()):
            parts += [one.rows_sha256, one.keys_sha256]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:12]


def new_nodes_of(network: Network) -> dict[NodeType, NewNodes]:
    """`Network.new_nodes` of every type with an embedding."""
    return {one: network.new_nodes(one) for one in sorted(network.outputs)}


@dataclass(frozen=True)
class Table:
    """A row per node, by key. Files that grow with the graph: mapped, never read whole.

    Attributes:
        rows: fp32 [count, width].
        keys: int64 [count], ascending.
    """

    rows: Place
    keys: Place

    @classmethod
    def below(cls, folder: Place, node_type: NodeType) -> Table:
        """The files of a node type in a model's folder."""
        return cls(folder / f"{TABLE}{node_type}.npy", folder / f"{TABLE}{node_type}.keys.npy")


@dataclass(frozen=True)
class LoadedModel:
    """A card, its weights as plain arrays, fp32 of exactly the declared shapes, and the tables of ids."""

    card: Card
    weights: dict[str, F32]
    tables: dict[NodeType, Table] = field(default_factory=dict)


def save_model(
    folder: Place,
    network: Network,
    weights: Mapping[str, F32],
    *,
    feature_schema: str,
    feature_space: bytes | None = None,
    config_hash: str,
    data_run: str,
    metrics: Mapping[str, float],
    keys: Mapping[NodeType, I64] | None = None,
) -> Card:
    """Write tables of ids, weights and feature space, then `card.json`: a folder with a card is complete.

    Equal weights give equal bytes and so an equal model version.

    Args:
        feature_space: Its file, as `ingest.space` makes it.
        weights: By tensor name, tables included.
        keys: int64 [rows] per node type with a table: `node_key` of each of its rows.

    Raises:
        ModelError: weights that do not fit the network, or are not finite.
    """
    checked = _check_weights(network, weights, "weights")
    tables: dict[NodeType, TableFiles] = {}
    for one, declared in network.inputs.items():
        if declared.count is not None:
            tables[one] = _save_table(
                Table.below(folder, one), checked.pop(f"{TABLE}{one}"), (keys or {})[one]
            )
    data = safetensors_bytes({name: checked[name] for name in sorted(checked)})
    card = Card(
        network=network,
        feature_schema=feature_schema,
        feature_space=None if feature_space is None else space_id(feature_space),
        config_hash=config_hash,
        data_run=data_run,
        metrics=dict(metrics),
        weights_sha256=hashlib.sha256(data).hexdigest(),
        tables=tables,
        new_nodes=new_nodes_of(network),
    )
    write_bytes(folder / WEIGHTS_FILE, data)
    if feature_space is not None:
        write_bytes(folder / SPACE_FILE, feature_space)
    write_bytes(folder / CARD_FILE, (card.model_dump_json(indent=2) + "\n").encode())
    return card


def _save_table(table: Table, rows: F32, keys: I64) -> TableFiles:
    order = np.argsort(keys, kind="stable")
    if keys.shape != (len(rows),) or (np.diff(keys[order]) == 0).any():
        raise ModelError(
            f"a table of {len(rows)} rows must have a different node_key for each, got {keys.shape}"
        )
    save_array(table.keys, keys[order].astype(np.int64))
    save_array(table.rows, rows[order])
    return TableFiles(rows_sha256=_sha256(table.rows), keys_sha256=_sha256(table.keys))


def _sha256(array: Place) -> str:
    with open_file(array) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def copy_model(source: Place, target: Place) -> None:
    """Put a model's files into another folder, the card last.

    Raises:
        ModelError: no valid card.
        OSError: a file is missing.
    """
    card = read_card(source)
    for one in card.tables:
        ours, theirs = Table.below(target, one), Table.below(source, one)
        for to, of in ((ours.keys, theirs.keys), (ours.rows, theirs.rows)):
            save_array(to, open_array(of))
    space = [SPACE_FILE] if exists(source / SPACE_FILE) else []
    for name in (WEIGHTS_FILE, *space, CARD_FILE):
        write_bytes(target / name, read_bytes(source / name))


def read_card(folder: Place) -> Card:
    """The card alone; the weights are neither read nor checked.

    Raises:
        ModelError: there is no card, or it has unknown or wrong keys.
    """
    card_bytes = _read_capped(folder / CARD_FILE, _MAX_CARD_BYTES)
    try:
        return Card.model_validate_json(card_bytes, strict=True)
    except ValidationError as error:
        broken = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'card'}: {one['msg']}" for one in error.errors()
        )
        raise ModelError(
            f"model card '{folder / CARD_FILE}' is not valid: {broken}; retrain the model"
        ) from error


def load_model(folder: Place) -> LoadedModel:
    """Read a model folder and refuse whatever the card does not declare.

    Raises:
        ModelError: no card or weights, an unknown key, another sha256, a truncated file,
            or tensors of other names, types or shapes. Nothing in the folder is executed.
    """
    card = read_card(folder)
    small = {name: shape for name, shape in card.network.tensors().items() if not name.startswith(TABLE)}
    size = 4 * sum(int(np.prod(shape)) for shape in small.values())
    path = folder / WEIGHTS_FILE
    data = _read_capped(path, size + _HEADER_BYTES)
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != card.weights_sha256:
        raise ModelError(
            f"weights '{path}' must have sha256 {card.weights_sha256}, got {sha256}; "
            "restore the file that belongs to the card or retrain the model"
        )
    try:
        tensors = parse_safetensors(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelError(
            f"weights '{path}' must be a whole safetensors file: {error}; retrain the model"
        ) from error
    with_ids = {one for one, declared in card.network.inputs.items() if declared.count is not None}
    if card.tables.keys() != with_ids:
        raise ModelError(f"model '{folder}': tables must be of {sorted(with_ids)}, got {sorted(card.tables)}")
    tables = {one: _check_table(folder, one, card) for one in card.tables}
    return LoadedModel(card, _check_tensors(small, tensors, str(path)), tables)


def _check_table(folder: Place, node_type: NodeType, card: Card) -> Table:
    table, files = Table.below(folder, node_type), card.tables[node_type]
    rows, width = card.network.tensors()[f"{TABLE}{node_type}"]
    for path, expected, shape, dtype in (
        (table.rows, files.rows_sha256, (rows, width), np.dtype("<f4")),
        (table.keys, files.keys_sha256, (rows,), np.dtype("<i8")),
    ):
        try:
            found, array = _sha256(path), open_array(path)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"model file '{path}' must be a readable array: {error}; retrain the model"
            ) from error
        if found != expected:
            raise ModelError(
                f"model file '{path}' must have sha256 {expected}, got {found}; "
                "restore the file that belongs to the card or retrain the model"
            )
        if array.shape != shape or array.dtype != dtype:
            raise ModelError(
                f"model file '{path}' must hold {dtype} {[*shape]}, got {array.dtype} {[*array.shape]}; "
                "retrain the model"
            )
    return table


def _check_weights(network: Network, weights: Mapping[str, F32], where: str) -> dict[str, F32]:
    return _check_tensors(network.tensors(), weights, where)


def _check_tensors(
    declared: Mapping[str, tuple[int, ...]], weights: Mapping[str, F32], where: str
) -> dict[str, F32]:
    if weights.keys() != declared.keys():
        unknown, missing = sorted(weights.keys() - declared), sorted(declared.keys() - weights.keys())
        raise ModelError(f"{where}: tensors must be those of the card; unknown {unknown}, missing {missing}")
    for name, shape in declared.items():
        tensor = weights[name]
        if tensor.dtype != np.float32 or tensor.shape != shape:
            raise ModelError(
                f"{where}: {name} must be float32 {list(shape)}, got {tensor.dtype} {list(tensor.shape)}; "
                "use the weights that belong to the card"
            )
        if not np.isfinite(tensor).all():
            raise ModelError(f"{where}: {name} must be finite, got NaN or infinity; retrain the model")
    return {name: np.ascontiguousarray(weights[name]) for name in declared}


def _read_capped(path: Place, limit: int) -> bytes:
    try:
        data = read_bytes(path, limit + 1)
    except OSError as error:
        raise ModelError(
            f"model file must be readable, got '{path}' ({error.strerror or error}); "
            "run the train_model stage"
        ) from error
    if len(data) > limit:
        raise ModelError(
            f"model file '{path}' must hold at most {limit} bytes; it is not what its card declares"
        )
    return data
