"""The choice between scan and cells, its rows in index_card, and the forecast of --explain."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from walkbits.index.plan import Plan, card_rows, choose, curve_of, forecast, reaching
from walkbits.runs.recall import below_target
from walkbits.settings import Index

GAPS = np.array([[0.0, 0.1, 0.4], [0.0, 0.0, 0.3]])
SIZES = np.array([[5, 7, 11], [2, 3, 13]])
LISTS = [np.array([0.0, 0.1, 0.4, np.inf]), np.array([0.0, 0.3])]


def test_the_curve_is_what_each_gap_finds_and_scores() -> None:
    curve = curve_of(LISTS, GAPS, SIZES, whole=True)
    for point in curve:
        assert point.gap is not None
        probed = np.float32(GAPS) <= np.float32(point.gap)
        assert point.cells == probed.sum() / 2
        assert point.scored == (SIZES * probed).sum() / 2
        assert point.error == 0
    assert (curve[0].gap, curve[0].recall) == (0.0, np.mean([1 / 4, 1 / 2]))
    assert curve[-1].recall == np.mean([3 / 4, 1])
    gaps = [point.gap for point in curve]
    assert gaps == sorted(gaps)  # type: ignore[type-var]
    assert curve_of(LISTS, GAPS, SIZES, whole=False)[0].error == pytest.approx(0.125 / np.sqrt(2))


CURVE = (Plan(0.0, 0.5, 0.01, 10, 1.5), Plan(0.1, 0.905, 0.01, 30, 4), Plan(4.0, 0.99, 0.01, 60, 9))


def test_the_cheapest_that_reaches_the_target_is_taken() -> None:
    assert reaching(CURVE, 0.89) == CURVE[1]
    assert reaching(CURVE, 0.9) == CURVE[2]  # less its error, .895
    assert reaching(CURVE, 0.999) is None
    few = Index(exact="auto", target_recall=0.4)
    assert choose(CURVE, 10_000, few).gap == 0.0
    assert choose(CURVE, 100, few).gap is None  # a scan costs no more
    assert choose(CURVE, 100, few.model_copy(update={"exact": "never"})).gap == 0.0


@pytest.mark.parametrize(("target", "gap"), [(0.4, 0.0), (0.89, 0.1), (0.999, None)])
def test_a_card_has_the_curve_and_one_choice(target: float, gap: float | None) -> None:
    plan = choose(CURVE, 10_000, Index(target_recall=target))
    rows = card_rows("related", plan, 10_000)
    assert [row["gap"] for row in rows] == [0.0, 0.1, 4.0, None]
    assert [row["gap"] for row in rows if row["chosen"]] == [gap]
    assert [row["share_scored"] for row in rows] == [0.001, 0.003, 0.006, 1.0]
    assert rows[-1]["recall"] == 1


@pytest.mark.parametrize(
    ("num_items", "exact", "before", "how", "scored", "basis"),
    [
        (10_000, "auto", None, "scan", 10_000, "every item"),
        (1_000_000, "always", None, "scan", 1_000_000, "every item"),
        (1_000_000, "auto", None, "cells", 16_000, "at most its 64 nearest cells of 4,000"),
        (1_000_000, "auto", ("r1", 0.2, 0.011), "cells", 11_000, "as in run r1"),
        (1_000_000, "auto", ("r1", None, 1.0), "scan", 1_000_000, "as in run r1"),
        (1_000_000, "never", ("r1", None, 1.0), "cells", 16_000, "at most its 64 nearest cells of 4,000"),
    ],
)
def test_a_forecast_says_what_it_rests_on(
    num_items: int, exact: Literal["auto", "always", "never"], before: tuple[str, float | None, float] | None,
    how: str, scored: float, basis: str,
) -> None:  # fmt: skip
    found = forecast(
        "related", num_items, num_items, 128, 100, Index(exact=exact), before, shared=True
    )  # fmt: skip
    assert (found.how, found.scored, found.basis) == (how, scored, basis)
    assert found.scratch_bytes >= num_items * 512
    text = found.explain(cores=2)
    assert text.startswith(f"related: {how}, {basis}\n")
    assert f"{found.core_seconds / 2:,.0f} seconds" in text


def test_the_target_is_missed_by_more_than_chance_or_by_nan() -> None:
    assert not [*below_target("related", (0.96, 0.01, 200), 0.97)]
    (sentence,) = below_target("related", (0.93, 0.01, 200), 0.97)
    assert sentence == (
        "index.target_recall: related must hold at least 0.97 of the exact lists, got 0.9300 of 200 lists"
    )
    assert [*below_target("related", (float("nan"), 0.0, 200), 0.97)]
