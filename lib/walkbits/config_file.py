"""A YAML file and dotted overrides, read into the settings of walkbits.config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from walkbits.config import Config
from walkbits.errors import ConfigError


def load_config(
    path: str | Path, overrides: dict[str, Any] | None = None, model: str | Path | None = None
) -> Config:
    """Read a YAML file, lay a model's file over it, and dotted overrides (`walks.num_walks`) over both.

    Args:
        model: A file such as conf/models/item_pool.yaml. Its section `model` replaces that of the config; of
            its other sections the keys do.

    Raises:
        ConfigError: no such file, not YAML, or a key breaks a rule; all broken keys
            are named at once.
    """
    document = _read(path, "config")
    if model is not None:
        _merge(document, _read(model, "model"))
    for dotted, value in (overrides or {}).items():
        _set_dotted(document, dotted, value)
    where = f"config '{path}'" + (f" with model '{model}'" if model is not None else "")
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        broken = "; ".join(_sentence(one) for one in error.errors())
        raise ConfigError(f"{where}: {broken}") from error


def _read(path: str | Path, flag: str) -> dict[str, Any]:
    """The mapping in a YAML file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeError as error:
        raise ConfigError(f"{flag} '{path}' must be UTF-8, got {error}; save it in that encoding") from error
    except OSError as error:
        raise ConfigError(
            f"{flag} must be a readable file, got '{path}' ({error.strerror}); pass --{flag} FILE"
        ) from error
    try:
        document = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{flag} '{path}' must be YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{flag} '{path}' must be a mapping of keys, got {type(document).__name__}")
    return document


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice: YAML would keep the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in lines:
                raise yaml.YAMLError(
                    f"key '{key.value}' must be given once, got it in lines {lines[name]} and {line}"
                )
            lines[name] = line
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """Plain YAML values.

    Raises:
        ValueError: text that is no YAML, a key that is given twice, a day that no calendar has.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - derived from SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _merge(document: dict[str, Any], model: dict[str, Any]) -> None:
    """Lay the keys of a model's file over a config's."""
    for section, keys in model.items():
        under = document.get(section)
        if not isinstance(under, dict) or not isinstance(keys, dict) or section == "model":
            document[section] = keys
        else:
            document[section] = under | keys


def _sentence(error: Any) -> str:
    """Key, rule and value of one pydantic error."""
    key = ".".join(str(part) for part in error["loc"]) or "(top level)"
    seen = error["input"]
    value = "" if isinstance(seen, dict) else f", got {seen!r}"
    return f"{key}: {error['msg'][0].lower()}{error['msg'][1:]}{value}"


def _set_dotted(document: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, leaf = dotted.split(".")
    for parent in parents:
        document = document.setdefault(parent, {})
        if not isinstance(document, dict):
            raise ConfigError(f"override '{dotted}' must name a key inside sections; '{parent}' is a value")
    document[leaf] = value
