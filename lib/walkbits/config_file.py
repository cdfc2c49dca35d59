"""A YAML file and dotted overrides, read into the settings of walkbits.config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from walkbits.config import Config
from walkbits.errors import ConfigError


def load_config(path: str | Path, overrides: dict[str, Any] | None = None) -> Config:
    """Read a YAML file and lay dotted overrides (`walks.num_walks`) over it.

    Raises:
        ConfigError: no such file, not YAML, or a key breaks a rule; all broken keys
            are named at once.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"config must be a readable file, got '{path}' ({error.strerror}); pass --config PATH"
        ) from error
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"config '{path}' must be YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"config '{path}' must be a mapping of keys, got {type(document).__name__}")
    for dotted, value in (overrides or {}).items():
        _set_dotted(document, dotted, value)
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        broken = "; ".join(_sentence(one) for one in error.errors())
        raise ConfigError(f"config '{path}': {broken}") from error


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
