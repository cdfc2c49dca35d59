"""Weak AND's curve: what weights, thresholds and probes find of exact lists, and how much they look at."""

from __future__ import annotations

import numpy as np
import pytest
from reference.buckets import buckets_of, weak_and
from walkbits.index.buckets import direction_rows
from walkbits.index.codes import Coder, rotation
from walkbits.index.exact import top_k
from walkbits.settings import Index, Lsh

ITEMS, SIZE, K, BAND_BITS = 4000, 64, 20, 8


def generated() -> np.ndarray:
    """A mixture of 60 centres of Zipf popularity with noise .6, both of standard deviations i^-1/2."""
    random = np.random.default_rng(0)
    deviations = np.arange(1, SIZE + 1) ** -0.5
    centres = random.standard_normal((60, SIZE)) * deviations
    share = 1 / np.arange(1, 61)
    home = random.choice(60, ITEMS, p=share / share.sum())
    x = centres[home] + 0.6 * random.standard_normal((ITEMS, SIZE)) * deviations
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_probes_buy_recall_and_theta_saves_candidates() -> None:
    """The table of docs/performance.md."""
    x, directions = generated(), rotation(3, SIZE, 128)
    buckets = buckets_of(Coder(directions).encode(x, 128)[0], BAND_BITS)
    asked = np.random.default_rng(1).choice(ITEMS, 100, replace=False)
    exact, _ = top_k(x[asked], x, K, (np.arange(101), asked))

    def measured(theta: float, probes: int) -> tuple[float, float]:
        recall, looked_at = [], []
        for query, best in zip(asked.tolist(), exact.tolist(), strict=True):
            found = weak_and(query, buckets, np.abs(directions @ x[query]), BAND_BITS, theta, probes)
            recall.append(np.mean([item in found for item in best]))
            looked_at.append(len(found) / ITEMS)
        return float(np.mean(recall)), float(np.mean(looked_at))

    curve = {(theta, probes): measured(theta, probes) for theta in (5.0, 8.0, 12.0) for probes in (0, 1, 2)}
    for theta in (5.0, 8.0, 12.0):
        recalls, shares = zip(*(curve[theta, probes] for probes in (0, 1, 2)), strict=True)
        assert recalls == tuple(sorted(recalls))
        assert shares == tuple(sorted(shares))
    for probes in (0, 1, 2):
        shares = [curve[theta, probes][1] for theta in (5.0, 8.0, 12.0)]
        assert shares == sorted(shares, reverse=True)
    assert curve[8.0, 2] == pytest.approx((0.944, 0.0657), abs=0.002)
    assert curve[5.0, 0] == pytest.approx((0.7805, 0.0457), abs=0.002)
    # Fewer items are looked at for more recall: a probe is worth more than a lower threshold.
    assert curve[8.0, 1][0] > curve[5.0, 0][0]
    assert curve[8.0, 1][1] < curve[5.0, 0][1]


@pytest.mark.parametrize("learned", [False, True])
def test_directions_are_those_that_codes_are_the_signs_of(learned: bool) -> None:
    index = Index(code_bits=(64, 128), lsh_bits=64, lsh=Lsh(band_bits=16))
    x = np.random.default_rng(2).standard_normal((9, 128)).astype(np.float32)
    coder = Coder.of(index, 5, 128, learned=learned)
    rows = direction_rows(coder, 128, index)
    products = x.astype(np.float64) @ np.array([row["direction"] for row in rows]).T
    signs = np.packbits(products > 0, axis=1, bitorder="little").view("<i8")
    assert signs.tolist() == coder.encode(x, 128)[0].tolist()
    assert [(row["band"], row["place"]) for row in rows[:64]] == [divmod(bit, 16) for bit in range(64)]
    assert {(row["band"], row["place"]) for row in rows[64:]} == {(None, None)}
    assert [row["bit"] for row in rows] == list(range(128))
