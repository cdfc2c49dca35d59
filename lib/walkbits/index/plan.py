"""How a batch of queries is searched: the choice between scan and cells, and what it is expected to give.

A search by cells has one free number, the gap (`cells.gaps_of`). On a keyed sample of queries the curve says
what each gap finds and what it scores; the least gap that reaches the target is taken. Choice and curve are
published as table `index_card`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from walkbits import settings
from walkbits.index.cells import num_cells
from walkbits.types import F64, I64

CELLS: Final = (64, 256)
"""Nearest cells that are listed per query, and where they hold too little of the exact lists."""
_SCAN_PAIRS: Final = 1 << 30
"""Pairs that are scanned in about two seconds of a core: cells would take as long to be made."""
_CELL_COST: Final = 4
"""What a pair scored by cells costs beside one that is scanned: small products, scattered rows."""
_SCAN_SECONDS: Final = 5e-9
_CELL_SECONDS: Final = 11e-9
_ASSIGN_SECONDS: Final = 9e-9
"""Of one core, per pair of 128-d vectors: scanned, scored by cells, compared with a centroid."""


@dataclass(frozen=True)
class Plan:
    """One way to search a batch, and what to expect of it.

    Attributes:
        gap: which cells a query scores; None scans all items.
        recall: share of the exact lists that the plan finds, on the sample.
        error: standard error of `recall`; 0 where the sample is all queries.
        scored: items scored per query.
        cells: cells scored per query; 0 of a scan.
        curve: the ways that were measured before this one was chosen, by gap.
    """

    gap: float | None
    recall: float = 1.0
    error: float = 0.0
    scored: float = 0.0
    cells: float = 0.0
    curve: tuple[Plan, ...] = ()


def scan_of(num_items: int) -> Plan:
    """The plan that scores everything."""
    return Plan(None, scored=float(num_items))


def tries_cells(num_queries: int, num_items: int, rules: settings.Index) -> bool:
    """Whether cells are made at all, to be measured."""
    large = rules.exact == "never" or num_queries * num_items > _SCAN_PAIRS
    return rules.exact != "always" and large and num_items > 1


def curve_of(lists: Sequence[F64], gaps: F64, sizes: I64, whole: bool) -> tuple[Plan, ...]:
    """What each gap finds and scores, from the least to one that scores every listed cell.

    Args:
        lists: of each sampled query with an exact list, the gap at which each item of it is scored.
        gaps: fp64 [queries, listed], of each query's nearest cells.
        sizes: int64 [queries, listed], items of those cells.
        whole: whether the sample is all queries.
    """
    tried = np.append(np.unique(np.quantile(gaps, np.linspace(0, 1, 100)).astype(np.float32)), 4.0)
    return tuple(_measured(gap, lists, gaps, sizes, whole) for gap in tried.tolist())


def _measured(gap: float, lists: Sequence[F64], gaps: F64, sizes: I64, whole: bool) -> Plan:
    shares = np.array([(one <= gap).mean() for one in lists]) if lists else np.ones(1)
    error = 0.0 if whole else shares.std() / np.sqrt(len(shares))
    probed = gaps <= gap
    return Plan(
        gap=gap,
        recall=float(shares.mean()),
        error=float(error),
        scored=float((sizes * probed).sum(axis=1).mean()),
        cells=float(probed.sum(axis=1).mean()),
    )


def reaching(curve: Sequence[Plan], target: float) -> Plan | None:
    """The cheapest plan whose recall is above the target by its standard error."""
    return next((one for one in curve if one.recall - one.error >= target), None)


def choose(curve: tuple[Plan, ...], num_items: int, rules: settings.Index) -> Plan:
    """The cheapest plan that reaches `target_recall`; a scan where none does, or where cells cost as much."""
    best = reaching(curve, rules.target_recall)
    if best is None or (rules.exact == "auto" and _dear(best.scored, num_items)):
        best = scan_of(num_items)
    return replace(best, curve=curve)


def _dear(scored: float, num_items: int) -> bool:
    return _CELL_COST * (scored + num_cells(num_items)) >= num_items


def card_rows(product: str, plan: Plan, num_items: int) -> list[dict[str, Any]]:
    """A product's rows of table `index_card`: the curve, a scan, and which of them was taken."""
    return [
        {
            "product": product,
            "gap": one.gap,
            "cells": one.cells,
            "recall": one.recall,
            "recall_error": one.error,
            "items_scored": one.scored,
            "share_scored": one.scored / num_items,
            "chosen": one.gap == plan.gap,
        }
        for one in (*plan.curve, scan_of(num_items))
    ]


Before = tuple[str, float | None, float]
"""An earlier run's id, the gap that it chose, and the share of its items that it scored."""


@dataclass(frozen=True)
class Forecast:
    """What a batch will take, before anything is built.

    Attributes:
        product: table that the lists are for.
        num_queries, num_items, width, k: of the batch.
        how: scan or cells.
        scored: items scored per query.
        basis: where `scored` comes from.
        scratch_bytes: matrices, and for cells their layout and lists.
        core_seconds: of one core.
    """

    product: str
    num_queries: int
    num_items: int
    width: int
    k: int
    how: str
    scored: float
    basis: str
    scratch_bytes: int
    core_seconds: float

    def explain(self, cores: int) -> str:
        """The forecast as text, one figure per line."""
        return "\n".join(
            [
                f"{self.product}: {self.how}, {self.basis}",
                f"  queries            {self.num_queries:>20,}",
                f"  candidates a query {self.scored:>20,.0f} of {self.num_items:,} items",
                f"  pairs scored       {self.num_queries * self.scored:>20,.0f}",
                f"  scratch            {self.scratch_bytes:>20,} bytes",
                f"  rows written       {self.num_queries * self.k:>20,} at most",
                f"  {f'on {cores} cores, about':<18} {self.core_seconds / cores:>20,.0f} seconds",
            ]
        )


def forecast(
    product: str, num_queries: int, num_items: int, width: int, k: int, rules: settings.Index,
    before: Before | None, shared: bool,
) -> Forecast:  # fmt: skip
    """What `nearest.nearest` will take; which plan it takes, it measures only then.

    Args:
        before: what an earlier run chose.
        shared: whether the queries are the items' own rows.
    """
    count, listed = num_cells(num_items), min(CELLS[0], num_cells(num_items))
    scored, basis = num_items * listed / count, f"at most its {listed} nearest cells of {count:,}"
    by_cells = tries_cells(num_queries, num_items, rules)
    if by_cells and before is not None and (before[1] is not None or rules.exact == "auto"):
        run_id, gap, share = before
        scored, basis, by_cells = share * num_items, f"as in run {run_id}", gap is not None
    elif by_cells and rules.exact == "auto" and _dear(scored, num_items):
        by_cells, basis = False, "unless fewer cells reach index.target_recall"
    elif not by_cells:
        basis = "every item"
    matrices = 4 * width * (num_items if shared else num_items + num_queries)
    pair = width / 128
    if not by_cells:
        seconds = num_queries * num_items * _SCAN_SECONDS * pair
        return Forecast(
            product, num_queries, num_items, width, k, "scan", float(num_items), basis, matrices, seconds
        )
    rows = num_queries if shared else num_items + num_queries
    seconds = (num_queries * scored * _CELL_SECONDS + rows * count * _ASSIGN_SECONDS) * pair
    scratch = matrices + 4 * width * num_items + 8 * (listed + k) * num_queries + 24 * rows
    return Forecast(product, num_queries, num_items, width, k, "cells", scored, basis, scratch, seconds)
