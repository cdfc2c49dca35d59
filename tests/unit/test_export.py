"""Exported indexes load and answer in a process without Spark, by the example of docs/serving.md."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from walkbits.errors import MissingDependencyError
from walkbits.index.codes import pack_bits, unpack_bits
from walkbits.index.exact import top_k
from walkbits.index.export import (
    KINDS,
    SCORES,
    Kind,
    faiss_codes,
    faiss_index,
    index_of,
    write_export,
)
from walkbits.index.matrices import unit_rows

ROOT = Path(__file__).resolve().parents[2]
COUNT, K = 300, 8
IDS = [f'it"ém {i}' for i in range(COUNT)]
RANDOM = np.random.default_rng(4)
CENTRES = RANDOM.standard_normal((20, 64))
X = unit_rows((CENTRES[np.arange(COUNT) % 20] + RANDOM.standard_normal((COUNT, 64)) / 2).astype(np.float32))
NO_SPARK = "import sys; sys.modules['pyspark'] = None\n"


def serve(folder: Path, item: int) -> list[tuple[str, float]]:
    """What the documented program prints, run where pyspark cannot be imported."""
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    programs = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    library = json.loads((folder / "card.json").read_text())["library"].split()[0]
    (program,) = [one for one in programs if f"import {library}" in one or f"from {library}" in one]
    done = subprocess.run(
        [sys.executable, "-c", NO_SPARK + program, str(folder), IDS[item], str(K)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [tuple(pair) for pair in json.loads(done.stdout)]


def test_kinds_are_all_listed() -> None:
    assert set(KINDS) == set(get_args(Kind))
    assert SCORES == ("item", "context")


@pytest.mark.parametrize(
    ("kind", "least"), [("flat", 1.0), ("ivf", 0.9), ("hnsw", 0.9), ("hnswlib", 0.9), ("usearch", 0.9)]
)
def test_a_server_answers_as_the_exact_search(tmp_path: Path, kind: Kind, least: float) -> None:
    if kind in ("hnswlib", "usearch"):
        pytest.importorskip(kind)
    write_export(tmp_path, index_of(kind, X), IDS, {"kind": kind, "score": "item"})
    exact, scores = top_k(X[:3], X, K, (np.arange(4), np.arange(3)))
    hits = 0
    for item in range(3):
        served = dict(serve(tmp_path, item))
        expected = {
            IDS[other]: score for other, score in zip(exact[item], scores[item].tolist(), strict=True)
        }
        common = served.keys() & expected.keys()
        assert {one: served[one] for one in common} == pytest.approx({one: expected[one] for one in common})
        hits += len(common)
    assert hits / (3 * K) >= least


def test_codes_are_served_by_hamming_distance(tmp_path: Path) -> None:
    code = pack_bits(X)
    write_export(tmp_path, faiss_codes(code), IDS, {"kind": "binary", "score": "item"})
    bits = unpack_bits(code)
    distance = {IDS[other]: int((bits[2] != bits[other]).sum()) for other in range(COUNT) if other != 2}
    served = serve(tmp_path, 2)
    assert [pair[1] for pair in served] == sorted(distance.values())[:K]
    assert all(distance[one] == found for one, found in served)


@pytest.mark.parametrize("kind", ["hnswlib", "usearch"])
def test_a_library_that_is_not_installed_is_named(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, kind, None)
    monkeypatch.delitem(sys.modules, f"{kind}.index", raising=False)
    with pytest.raises(MissingDependencyError, match=f"--kind {kind} needs the package {kind}, got none"):
        index_of(kind, X)


@pytest.mark.parametrize("kind", ["flat", "hnswlib", "usearch"])
def test_the_prior_is_one_more_coordinate(tmp_path: Path, kind: Kind) -> None:
    if kind != "flat":
        pytest.importorskip(kind)
    prior = np.linspace(0, -3, COUNT, dtype=np.float32)
    vectors = np.column_stack([X, prior])
    write_export(tmp_path, index_of(kind, vectors), IDS, {"kind": kind, "score": "context"})
    scores = X @ X[5] + prior
    scores[5] = -np.inf
    best = np.argsort(-scores)[:K]
    assert [pair[0] for pair in serve(tmp_path, 5)] == [IDS[other] for other in best]


def test_the_card_counts_and_checks(tmp_path: Path) -> None:
    about: dict[str, Any] = {"kind": "flat", "score": "item", "run_id": "r"}
    card = write_export(tmp_path, faiss_index("flat", X), IDS, about)
    assert (card["count"], card["width"], card["run_id"]) == (COUNT, 64, "r")
    for name, digest in card["sha256"].items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    (tmp_path / "ids.json").write_text("[]")
    with pytest.raises(AssertionError, match=r"ids\.json: not the file"):
        serve(tmp_path, 0)
