"""One file per model. A subclass of `ModelSettings` in this package is found by its `architecture`."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any, Final, get_args

from walkbits.models.base import NO_SHAPES, ModelSettings
from walkbits.types import NodeType, Relation

DEFAULT: Final = "item_pool"


@cache
def architectures() -> dict[str, type[ModelSettings]]:
    """Every model by its name, in the order of names."""
    for module in pkgutil.iter_modules(__path__, f"{__name__}."):
        importlib.import_module(module.name)
    found = {get_args(one.model_fields["architecture"].annotation)[0]: one for one in _models(ModelSettings)}
    return dict(sorted(found.items()))


def _models(base: type[ModelSettings]) -> list[type[ModelSettings]]:
    return [one for child in base.__subclasses__() for one in (child, *_models(child))]


def parse_model(value: Any) -> Any:
    """The section `model` of a config as the settings of its architecture.

    Raises:
        ValueError: no model has that name.
    """
    if not isinstance(value, dict):
        return value
    name = value.get("architecture", DEFAULT)
    if name not in architectures():
        raise ValueError(f"architecture must be one of {[*architectures()]}, got {name!r}")
    return architectures()[name].model_validate(value)


def walked_relations(model: ModelSettings) -> tuple[Relation, ...]:
    """Relations whose neighborhoods come from walks, each once, in the order in which layers read them."""
    layers = model.network(NO_SHAPES).layers
    walked = (one.relation for updates in layers for one in updates if one.neighbors == "walks")
    return tuple(dict.fromkeys(walked))


def features_of(model: ModelSettings) -> tuple[NodeType, ...]:
    """Node types whose features the model reads."""
    inputs = model.network(NO_SHAPES).inputs
    return tuple(one for one, declared in inputs.items() if declared.feature_width is not None)
