"""The model card: a network and where its weights came from.

Weights are safetensors, which cannot carry code; nothing here unpickles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import Field, FiniteFloat, StringConstraints, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as parse_safetensors
from safetensors.numpy import save as safetensors_bytes

from walkbits.arrays.places import Place, exists, read_bytes, write_bytes
from walkbits.errors import ModelError
from walkbits.ingest.space import SPACE_FILE, space_id
from walkbits.network.declaration import Network
from walkbits.settings import Section
from walkbits.types import F32

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

CARD_FILE: Final = "card.json"
WEIGHTS_FILE: Final = "weights.safetensors"

_MAX_CARD_BYTES: Final = 1 << 20
_HEADER_BYTES: Final = 1 << 20
"""Room for the safetensors header, beyond the tensors that the card declares."""


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
    """sha256 of the weights file; its first 12 digits are the model's version."""

    @property
    def model_version(self) -> str:
        """First 12 hex digits of the weights' sha256."""
        return self.weights_sha256[:12]


@dataclass(frozen=True)
class LoadedModel:
    """A card and its weights as plain arrays, fp32 of exactly the declared shapes."""

    card: Card
    weights: dict[str, F32]


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
) -> Card:
    """Write weights and feature space, then `card.json`: a folder with a card is complete.

    Equal weights give equal bytes and so an equal model version.

    Args:
        feature_space: Its file, as `ingest.space` makes it.

    Raises:
        ModelError: weights that do not fit the network, or are not finite.
    """
    checked = _check_weights(network, weights, "weights")
    data = safetensors_bytes({name: checked[name] for name in sorted(checked)})
    card = Card(
        network=network,
        feature_schema=feature_schema,
        feature_space=None if feature_space is None else space_id(feature_space),
        config_hash=config_hash,
        data_run=data_run,
        metrics=dict(metrics),
        weights_sha256=hashlib.sha256(data).hexdigest(),
    )
    write_bytes(folder / WEIGHTS_FILE, data)
    if feature_space is not None:
        write_bytes(folder / SPACE_FILE, feature_space)
    write_bytes(folder / CARD_FILE, (card.model_dump_json(indent=2) + "\n").encode())
    return card


def copy_model(source: Place, target: Place) -> None:
    """Put a model's files into another folder, the card last.

    Raises:
        OSError: a file is missing.
    """
    space = [SPACE_FILE] if exists(source / SPACE_FILE) else []
    for name in (WEIGHTS_FILE, *space, CARD_FILE):
        write_bytes(target / name, read_bytes(source / name))


def load_model(folder: Place) -> LoadedModel:
    """Read a model folder and refuse whatever the card does not declare.

    Raises:
        ModelError: no card or weights, an unknown key, another sha256, a truncated file,
            or tensors of other names, types or shapes. Nothing in the folder is executed.
    """
    card_bytes = _read_capped(folder / CARD_FILE, _MAX_CARD_BYTES)
    try:
        card = Card.model_validate_json(card_bytes, strict=True)
    except ValidationError as error:
        broken = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'card'}: {one['msg']}" for one in error.errors()
        )
        raise ModelError(
            f"model card '{folder / CARD_FILE}' is not valid: {broken}; retrain the model"
        ) from error
    declared = card.network.tensors()
    size = 4 * sum(int(np.prod(shape)) for shape in declared.values())
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
    return LoadedModel(card, _check_weights(card.network, tensors, str(path)))


def _check_weights(network: Network, weights: Mapping[str, F32], where: str) -> dict[str, F32]:
    declared = network.tensors()
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
