"""Models: what they are made of, how they are trained, what they are saved as."""

from __future__ import annotations

from walkbits.settings import Model
from walkbits.types import Relation

_RELATIONS: dict[str, tuple[Relation, ...]] = {"pinsage": ("item_from_item",)}


def relations_of(model: Model) -> tuple[Relation, ...]:
    """The neighborhoods that an architecture's layers read."""
    return _RELATIONS[model.architecture]
