"""Model folders: what is saved is loaded, and nothing else is."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import save as safetensors_bytes
from walkbits.arrays.places import place_of
from walkbits.errors import InputError
from walkbits.models.card import LoadedModel, copy_model, load_model, save_model
from walkbits.network.declaration import Dense, Input, Linear, Network, Output, Update

CONVOLVE = Update(
    relation="item_from_item",
    project=Dense(linear=Linear(name="project", size=3), activation="relu"),
    pool="importance",
    combine="concat",
    linear=Linear(name="combine", size=2),
)


def network(**changes: Any) -> Network:
    fields: dict[str, Any] = {
        "architecture": "toy",
        "inputs": {"item": Input(source="features", width=4)},
        "layers": ((CONVOLVE,),),
        "outputs": {"item": Output()},
    }
    return Network(**(fields | changes))


def weights_of(declared: Network) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in declared.tensors().items()}


def save(folder: Path, declared: Network | None = None, **changes: Any) -> dict[str, np.ndarray]:
    declared = declared or network()
    weights = weights_of(declared)
    settings = {"feature_schema": "a" * 64, "config_hash": "b" * 64, "data_run": "20260101-0a0b0c0d-a1"}
    save_model(folder, declared, weights, metrics={"loss": 0.25}, **(settings | changes))
    return weights


def edit_card(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    card = json.loads((folder / "card.json").read_text())
    edit(card)
    (folder / "card.json").write_text(json.dumps(card))


def replace_weights(folder: Path, data: bytes) -> None:
    """Other bytes under a card that vouches for them: the checks behind the checksum must hold too."""
    (folder / "weights.safetensors").write_bytes(data)
    edit_card(folder, lambda card: card.update(weights_sha256=hashlib.sha256(data).hexdigest()))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    weights = save(tmp_path)
    model = load_model(tmp_path)
    assert isinstance(model, LoadedModel)
    assert model.card.network == network()
    assert model.card.metrics == {"loss": 0.25}
    assert model.card.model_version == model.card.weights_sha256[:12]
    assert model.weights.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(model.weights[name], array)
    far = place_of((tmp_path / "far").as_uri())
    copy_model(tmp_path, far)
    assert load_model(far).card == model.card


def test_equal_weights_have_equal_versions(tmp_path: Path) -> None:
    save(tmp_path / "a")
    save(tmp_path / "b", data_run="another")
    assert load_model(tmp_path / "a").card.model_version == load_model(tmp_path / "b").card.model_version


class Payload:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("vouched", [False, True])
def test_a_pickle_is_refused_and_not_executed(tmp_path: Path, vouched: bool) -> None:
    save(tmp_path / "model")
    executed = tmp_path / "executed"
    data = pickle.dumps(Payload(executed))
    pickle.loads(data)  # noqa: S301  (the payload must be live)
    assert executed.exists()
    executed.unlink()
    if vouched:
        replace_weights(tmp_path / "model", data)
    else:
        (tmp_path / "model" / "weights.safetensors").write_bytes(data)
    with pytest.raises(InputError, match="safetensors"):
        load_model(tmp_path / "model")
    assert not executed.exists()


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    data = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(data[:-5])
    with pytest.raises(InputError, match="must have sha256"):
        load_model(tmp_path)
    for length in (0, 5, len(data) // 2, len(data) - 5):
        replace_weights(tmp_path, data[:length])
        with pytest.raises(InputError, match="whole safetensors file"):
            load_model(tmp_path)


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    data = bytearray((tmp_path / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "weights.safetensors").write_bytes(bytes(data))
    with pytest.raises(InputError, match="must have sha256"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {**w, "extra": w["combine.bias"]}, r"unknown \['extra'\]"),
        (lambda w: {k: v for k, v in w.items() if k != "combine.bias"}, r"missing \['combine.bias'\]"),
        (
            lambda w: {**w, "combine.bias": w["combine.bias"][:1]},
            r"combine.bias must be float32 \[2\], got float32 \[1\]",
        ),
        (
            lambda w: {**w, "project.weight": w["project.weight"].T},
            r"must be float32 \[3, 4\], got float32 \[4, 3\]",
        ),
        (lambda w: {**w, "combine.bias": w["combine.bias"].astype(np.float16)}, "got float16"),
        (lambda w: {**w, "combine.bias": np.float32([1, np.nan])}, "must be finite"),
    ],
)
def test_tensors_the_card_does_not_declare_are_refused(
    tmp_path: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], message: str
) -> None:
    changed = {name: np.ascontiguousarray(array) for name, array in change(save(tmp_path)).items()}
    replace_weights(tmp_path, safetensors_bytes(changed))
    with pytest.raises(InputError, match=message):
        load_model(tmp_path)
    with pytest.raises(InputError, match=message):
        save_model(
            tmp_path,
            network(),
            changed,
            feature_schema="a" * 64,
            config_hash="b" * 64,
            data_run="r",
            metrics={},
        )


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda card: card.update(code="import os"), "code: Extra inputs"),
        (lambda card: card["network"].update(script="x"), "network.script: Extra inputs"),
        (lambda card: card["network"]["layers"][0][0].update(pool="exec"), "pool"),
        (lambda card: card["network"]["layers"][0][0]["linear"].update(name="../../etc"), "linear.name"),
        (lambda card: card.update(format=2), "format"),
        (lambda card: card.pop("weights_sha256"), "weights_sha256: Field required"),
        (lambda card: card["network"]["layers"][0][0]["linear"].update(size=5), "weights|tensor|must"),
    ],
)
def test_a_card_with_unknown_or_wrong_keys_is_refused(
    tmp_path: Path, edit: Callable[[dict[str, Any]], None], message: str
) -> None:
    save(tmp_path)
    edit_card(tmp_path, edit)
    with pytest.raises(InputError, match=message):
        load_model(tmp_path)


def test_oversized_files_are_not_read(tmp_path: Path) -> None:
    save(tmp_path)
    with (tmp_path / "weights.safetensors").open("ab") as file:
        file.truncate(1 << 30)
    with pytest.raises(InputError, match="at most"):
        load_model(tmp_path)
    with (tmp_path / "card.json").open("ab") as file:
        file.truncate(1 << 30)
    with pytest.raises(InputError, match="at most"):
        load_model(tmp_path)


def test_a_missing_model_names_the_stage_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run the train_model stage"):
        load_model(tmp_path / "nowhere")


def test_a_save_that_was_cut_off_leaves_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced: list[str] = []

    def replace_once(self: Path, target: Path) -> None:
        if replaced:
            raise OSError("killed")
        replaced.append(target.name)
        self.rename(target)

    monkeypatch.setattr(Path, "replace", replace_once)
    with pytest.raises(OSError, match="killed"):
        save(tmp_path)
    assert replaced == ["weights.safetensors"]
    with pytest.raises(InputError, match="must be readable"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outputs": {"context": Output()}}, "last layer updates item, which has no output"),
        ({"layers": (), "outputs": {"context": Output()}}, "no representation of context"),
        (
            {"layers": ((CONVOLVE.model_copy(update={"relation": "item_from_context"}),),)},
            "no representation of context exists yet",
        ),
        ({"layers": ((CONVOLVE, CONVOLVE),)}, "one per node type"),
        ({"layers": ((CONVOLVE,), (CONVOLVE,))}, "tensor project is declared|project.weight is declared"),
        ({"outputs": {"item": Output(layers="mean")}}, "layers of one width"),
    ],
)
def test_a_network_whose_parts_do_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        network(**changes)


def test_pool_and_combine_must_fit() -> None:
    fields = CONVOLVE.model_dump()
    with pytest.raises(ValidationError, match="degree_exponents needs pool 'sum'"):
        Update(**(fields | {"degree_exponents": (0.5, 0.5)}))
    with pytest.raises(ValidationError, match="needs a plain pool 'sum'"):
        Update(**(fields | {"combine": "average"}))
    with pytest.raises(ValidationError, match="count must be given"):
        Input(source="ids", width=3)


def test_the_feature_space_travels_with_the_model(tmp_path: Path) -> None:
    save(tmp_path / "a", feature_space=b"a space")
    copy_model(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "feature_space.safetensors").read_bytes() == b"a space"
    assert load_model(tmp_path / "b").card.feature_space == hashlib.sha256(b"a space").hexdigest()
    save(tmp_path / "c")
    copy_model(tmp_path / "c", tmp_path / "d")
    assert load_model(tmp_path / "d").card.feature_space is None
    assert not (tmp_path / "d" / "feature_space.safetensors").exists()
