"""Configuration: bounds, unknown keys, overrides, and the sentences that errors make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from walkbits.config import Config
from walkbits.config_file import load_config
from walkbits.errors import ConfigError
from walkbits.models import architectures
from walkbits.settings import Section, config_hash

ROOT = Path(__file__).resolve().parents[2]
MINIMAL: dict[str, Any] = {"root": "r", "interactions": {"path": "a"}, "items": {"path": "b"}}


def write(tmp_path: Path, document: object) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def test_minimal_config_takes_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL))
    assert config.channel == "live"
    assert config.index.lsh_bits in config.index.code_bits


@pytest.mark.parametrize(
    ("change", "key", "value"),
    [
        ({"walks": {"num_walks": 0}}, "walks.num_walks", "0"),
        ({"walks": {"restart_probability": 1.0}}, "walks.restart_probability", "1.0"),
        ({"wolks": {}}, "wolks", ""),
        ({"walks": {"number": 3}}, "walks.number", "3"),
        ({"index": {"code_bits": [100]}}, "index.code_bits.0", "100"),
        (
            {"model": {"architecture": "hashgnn", "code_bits": 128}},
            "(top level)",
            "the 128 bits that 'hashgnn' learns, got 256; raise model.code_bits",
        ),
        ({"index": {"lsh_bits": 512}}, "index", "lsh_bits must be one of code_bits"),
        (
            {"index": {"wide_codes": "planes"}, "model": {"architecture": "lightgcn", "embedding_size": 64}},
            "(top level)",
            "at most the embedding's size 64 where index.wide_codes is planes, got 128; lower it",
        ),
        ({"interactions": {"path": "a", "table": "t"}}, "interactions", "exactly one of path and table"),
        (
            {"interactions": {"path": "a", "lookback_days": 3}},
            "interactions",
            "lookback_days needs timestamp",
        ),
    ],
)
def test_broken_key_is_named_with_rule_and_value(
    tmp_path: Path, change: dict[str, Any], key: str, value: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, MINIMAL | change))
    assert f"{key}: " in str(caught.value)
    assert value in str(caught.value)


def test_all_broken_keys_are_named_at_once(tmp_path: Path) -> None:
    broken = MINIMAL | {"walks": {"num_walks": -1}, "training": {"epochs": 0}}
    with pytest.raises(ConfigError, match=r"walks\.num_walks.*training\.epochs"):
        load_config(write(tmp_path, broken))


def test_overrides_reach_into_sections(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL), {"walks.num_walks": 7, "root": "other"})
    assert (config.walks.num_walks, config.root) == (7, "other")


def test_override_of_a_key_below_a_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'root' is a value"):
        load_config(write(tmp_path, MINIMAL), {"root.deeper": 1})


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "just words"])
def test_not_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="config"):
        load_config(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load_config(tmp_path / "nowhere.yaml")


def test_print_config_round_trips(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL | {"ingest": {"holdout": {"contexts": 3}}}))
    again = load_config(write(tmp_path, config.model_dump(mode="json")))
    assert again == config


def test_hash_depends_on_values_and_not_on_spelling(tmp_path: Path) -> None:
    one = load_config(write(tmp_path, MINIMAL))
    spelled_out = load_config(write(tmp_path, MINIMAL | {"walks": {"num_walks": one.walks.num_walks}}))
    other = load_config(write(tmp_path, MINIMAL | {"walks": {"num_walks": one.walks.num_walks + 1}}))
    assert config_hash(one.walks) == config_hash(spelled_out.walks)
    assert config_hash(one.walks) != config_hash(other.walks)


def sections(model: type[Section]) -> list[type[Section]]:
    found = [model]
    for field in model.model_fields.values():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found += sections(kind)
    return found


@pytest.mark.parametrize("section", sections(Config), ids=lambda s: s.__name__)
def test_every_field_says_what_it_is(section: type[Section]) -> None:
    nested = {
        n
        for n, f in section.model_fields.items()
        if isinstance(f.annotation, type) and issubclass(f.annotation, Section)
    }
    silent = [
        name for name, field in section.model_fields.items() if not field.description and name not in nested
    ]
    assert not silent


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_configs_are_valid(path: Path) -> None:
    assert load_config(path).root


MODEL_FILES = sorted((ROOT / "conf" / "models").glob("*.yaml"))


def test_every_model_has_a_file_and_every_file_a_model() -> None:
    assert [path.stem for path in MODEL_FILES] == [*architectures()]


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: path.stem)
def test_a_models_file_lies_over_the_config_and_under_the_flags(path: Path) -> None:
    config = load_config(ROOT / "conf" / "demo.yaml", {"training.epochs": 7}, path)
    assert config.model.architecture == path.stem
    assert config.training.epochs == 7
    assert config.interactions == load_config(ROOT / "conf" / "demo.yaml").interactions


def test_a_missing_models_file_names_the_flag() -> None:
    with pytest.raises(
        ConfigError, match="model must be a readable file, got 'none.yaml'.*pass --model FILE"
    ):
        load_config(ROOT / "conf" / "demo.yaml", {}, "none.yaml")


@pytest.mark.parametrize(
    ("text", "key", "lines"),
    [
        ("root: a\nseed: 1\nroot: b\n", "root", "1 and 3"),
        ("root: a\nwalks: {num_walks: 5}\nwalks:\n  walk_length: 3\n", "walks", "2 and 3"),
        ("root: a\nwalks:\n  num_walks: 5\n  walk_length: 3\n  num_walks: 7\n", "num_walks", "3 and 5"),
        ("walks: {num_walks: 5, num_walks: 5}\n", "num_walks", "1 and 1"),
    ],
)
def test_a_key_given_twice_is_refused_with_both_lines(
    tmp_path: Path, text: str, key: str, lines: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=f"key '{key}' must be given once, got it in lines {lines}"):
        load_config(path)


@pytest.mark.parametrize("key", ["root", "artifacts", "interactions.path", "items.path"])
@pytest.mark.parametrize(
    "place",
    [
        "", " ", "${HOME}/x", "$HOME/x", "file:/x", "~nobody-here/x", "C:\\x", "s3:/b/x", "/x ", "/x\n", "a\0b",
        "%USERPROFILE%/x", "/x/{{ ds }}", "/x/%(day)s",
    ],
)  # fmt: skip
def test_a_place_that_is_not_written_out_is_refused(tmp_path: Path, key: str, place: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: .*must be"):
        load_config(write(tmp_path, MINIMAL), {key: place})


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    config = load_config(write(tmp_path, MINIMAL), {"root": "~/x", "artifacts": "s3://bucket/x?region=y"})
    assert (config.root, config.artifacts) == ("/home/someone/x", "s3://bucket/x?region=y")


def test_a_weight_that_is_named_counts(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    weight = {"interactions.weight": "w"}
    assert not load_config(path).weighted
    assert load_config(path, weight).weighted
    assert not load_config(path, weight | {"ingest.weighted": False}).weighted


def test_items_are_optional_and_tables_of_nodes_share_their_settings(tmp_path: Path) -> None:
    bare = load_config(write(tmp_path, {"root": "r", "interactions": {"path": "a"}}))
    assert bare.node_tables == {"item": None, "context": None}
    users = {"path": "c", "context": "user", "text": ["bio"], "vectors": {"face": 8}}
    config = load_config(write(tmp_path, MINIMAL | {"contexts": users}))
    assert config.contexts is not None
    assert (config.contexts.id_column, config.contexts.feature_columns["vectors"]) == ("user", {"face": 8})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": {"path": "b", "vectors": {"degree": 3}}}, r"items: .*like other feature groups, got \['degree'\]"),
        ({"items": {"path": "b", "vectors": {"image": 0}}}, r"items\.vectors\.image: .*greater than or equal to 1, got 0"),
        ({"contexts": {"path": "b", "item": "x"}}, r"contexts\.item: .*not permitted"),
        ({"features": {"degree": ["user"]}}, r"features\.degree\.0: .*'item' or 'context', got 'user'"),
        ({"impressions": {"path": "b", "lookback_days": 2}}, "impressions: .*lookback_days needs timestamp"),
        ({"impressions": {"path": "b", "weight": "w"}}, r"impressions\.weight: .*not permitted"),
    ],
)  # fmt: skip
def test_broken_tables_of_features_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, MINIMAL | change))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"root: r\n# caf\xe9\n", "must be UTF-8"),
        ("root: r\n".encode("utf-16"), "must be UTF-8"),
        (b"root: 2026-13-31\n", "must be YAML: month must be in 1..12"),
        (b"root: r\n---\nroot: s\n", "single document"),
        (b"root: " + b"[" * 2000, "must be YAML"),
        (b'root: r\n"root": s\n', "key 'root' must be given once, got it in lines 1 and 2"),
        (b"root: !!python/name:os.system\n", "could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_yaml_is_one_sentence(tmp_path: Path, text: bytes, told: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=told) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_a_key_that_is_merged_may_be_given_again(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(b"\xef\xbb\xbfroot: r\ninteractions: &i {path: a}\nitems:\n  <<: *i\n  path: b\n")
    config = load_config(path)
    assert config.items is not None
    assert (config.interactions.path, config.items.path) == ("a", "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"csv": {"separator": ";"}}, "csv needs path and format: csv"),
        ({"format": "csv", "version": 3}, "version needs the path of a Delta table"),
        ({"path": None, "table": "t", "version": 3}, "version needs the path of a Delta table"),
        ({"timestamp_unit": "seconds"}, "timestamp_unit needs timestamp"),
        ({"format": "csv", "csv": {"columns": ["a", "a"]}}, "a name of its own"),
        ({"format": "csv", "csv": {"columns": []}}, "a name of its own"),
    ],
)
def test_a_setting_that_would_say_nothing_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, MINIMAL | {"interactions": {"path": "a"} | change}))
