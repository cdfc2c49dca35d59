"""The file of a feature space: what is saved is loaded, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save as safetensors_bytes
from walkbits.errors import ModelError
from walkbits.ingest.space import (
    SPACE_FILE,
    FeatureGroup,
    FeatureSpace,
    feature_schema_hash,
    layout_of,
    load_space,
    read_space,
    space_id,
    width_of,
)
from walkbits.input_settings import Contexts, Items, NodeTable
from walkbits.settings import Features

LAYOUT = (FeatureGroup(name="numeric", start=0, stop=2), FeatureGroup(name="degree", start=2, stop=3))
SPACE = FeatureSpace(
    7, {"item": LAYOUT}, {"idf": np.linspace(1, 2, 5), "means": np.array([1e300, -0.0]), "scales": np.ones(2)}
)

LEARNED = st.dictionaries(
    st.text("abcdef.", min_size=1, max_size=8),
    arrays(np.float64, st.integers(0, 5), elements=st.floats(allow_nan=False)),
    max_size=4,
)


@given(seed=st.integers(0, 2**80), learned=LEARNED)
def test_what_is_saved_is_loaded_bit_for_bit(seed: int, learned: dict[str, np.ndarray]) -> None:
    space = FeatureSpace(seed, {"item": LAYOUT, "context": ()}, learned)
    found = FeatureSpace.from_bytes(space.to_bytes())
    assert (found.seed, found.layouts) == (seed, space.layouts)
    assert {name: one.tobytes() for name, one in found.learned.items()} == {
        name: one.tobytes() for name, one in learned.items()
    }
    backwards = FeatureSpace(seed, space.layouts, dict(reversed([*learned.items()])))
    assert backwards.to_bytes() == space.to_bytes()


def test_a_space_is_known_by_its_bytes(tmp_path: Path) -> None:
    data = SPACE.to_bytes()
    (tmp_path / SPACE_FILE).write_bytes(data)
    assert load_space(tmp_path, space_id(data)).seed == 7
    with pytest.raises(ModelError, match="must have sha256 0000.*--retrain"):
        load_space(tmp_path, "0" * 64)
    (tmp_path / SPACE_FILE).write_bytes(data[:-1])
    with pytest.raises(ModelError, match="must have sha256"):
        load_space(tmp_path, space_id(data))


def test_a_missing_space_is_named_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"got '{tmp_path}/{SPACE_FILE}' .No such file.*--retrain"):
        read_space(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"\xff" * 40,
        safetensors_bytes({"idf": np.ones(2)}),
        safetensors_bytes({"idf": np.ones(2)}, {"space": "[]"}),
        safetensors_bytes({"idf": np.ones(2)}, {"space": '{"format": 2, "seed": 1}'}),
        safetensors_bytes({"idf": np.ones(2)}, {"space": '{"format": 1}'}),
        safetensors_bytes({"idf": np.ones(2, np.float32)}, {"space": '{"format": 1, "seed": 1}'}),
        SPACE.to_bytes()[:-3],
    ],
)
def test_another_file_is_refused_even_where_its_checksum_is_vouched_for(tmp_path: Path, data: bytes) -> None:
    (tmp_path / SPACE_FILE).write_bytes(data)
    with pytest.raises(ModelError, match="feature space .* must be one"):
        load_space(tmp_path, space_id(data))


COLUMNS = st.lists(st.text("abc", min_size=1, max_size=3), max_size=3, unique=True).map(tuple)


@given(
    text=COLUMNS, categorical=COLUMNS, numeric=COLUMNS,
    vectors=st.dictionaries(st.sampled_from(["image", "sound", "zip"]), st.integers(1, 9)), degree=st.booleans(),
)  # fmt: skip
def test_groups_fill_the_vector_without_gaps(
    text: tuple[str, ...],
    categorical: tuple[str, ...],
    numeric: tuple[str, ...],
    vectors: dict[str, int],
    degree: bool,
) -> None:
    table = Items(path="x", text=text, categorical=categorical, numeric=numeric, vectors=vectors)
    layout = layout_of(Features(width=8, degree=("item",) if degree else ("context",)), table, "item")
    widths = {
        "text": 8 * bool(text),
        "categorical": 8 * bool(categorical),
        "numeric": len(numeric),
        **vectors,
    }
    widths["degree"] = int(degree)
    assert [(one.name, one.width) for one in layout] == [pair for pair in widths.items() if pair[1]]
    assert [one.start for one in layout] == [0, *[one.stop for one in layout]][:-1] if layout else True
    assert width_of(layout) == sum(widths.values())


def test_the_schema_knows_columns_and_their_order() -> None:
    tables: list[dict[str, NodeTable | None]] = [
        {"item": None},
        {"item": Items(path="x")},
        {"item": Items(path="x", numeric=("a", "b"))},
        {"item": Items(path="x", numeric=("b", "a"))},
        {"item": Items(path="x", vectors={"a": 1, "b": 1})},
        {"item": Items(path="x", vectors={"b": 1, "a": 1})},
        {"context": Contexts(path="x", numeric=("a", "b"))},
    ]
    hashes = [feature_schema_hash(Features(), one) for one in tables]  # type: ignore[arg-type]
    assert len(set(hashes)) == len(tables)
    moved = {"item": Items(table="elsewhere", item="sku", name="title", numeric=("a", "b"))}
    assert feature_schema_hash(Features(), moved) == hashes[2]  # type: ignore[arg-type]
    assert feature_schema_hash(Features(degree=("item",)), moved) != hashes[2]  # type: ignore[arg-type]
