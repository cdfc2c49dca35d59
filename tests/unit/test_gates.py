"""Thresholds of the audit: each broken one is a sentence, and NaN breaks all."""

import pytest
from walkbits.runs.audit import gates
from walkbits.runs.cost import SparkStage, cost, line
from walkbits.settings import Audit

GOOD = {"cosine[item]": (0.9, "ratio"), "bits_flipped[item]": (0.1, "ratio"), "bucket_recall": (0.8, "ratio")}


def test_good_figures_pass_and_absent_ones_are_not_judged() -> None:
    assert not [*gates(GOOD, 0.9, Audit())]
    assert not [*gates({}, None, Audit(min_recall=1.0))]


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("cosine[item]", 0.4, "min_cosine"),
        ("cosine[item]", float("nan"), "min_cosine"),
        ("bits_flipped[item]", 0.3, "max_bits_flipped"),
        ("bits_flipped[item]", float("nan"), "max_bits_flipped"),
        ("bucket_recall", 0.5, "max_recall_drop"),
        ("zero_vectors[item]", 0.3, "max_zero_vectors"),
        ("distinct_vectors[item]", 0.05, "min_distinct_vectors"),
        ("random_cosine[item]", 0.95, "max_random_cosine"),
        ("random_cosine[item]", float("nan"), "max_random_cosine"),
        ("constant_bits[item]", 0.3, "max_constant_bits"),
    ],
)
def test_a_broken_threshold_is_named(name: str, value: float, rule: str) -> None:
    (sentence,) = gates(GOOD | {name: (value, "ratio")}, 0.9, Audit())
    assert sentence.startswith(f"audit.{rule}: {name}")


def test_recall_has_a_floor_of_its_own() -> None:
    (sentence,) = gates(GOOD, None, Audit(min_recall=0.85))
    assert "bucket_recall must be at least 0.85, got 0.800" in sentence


def test_walk_neighbors_must_be_nearer_than_random_pairs() -> None:
    pairs = {"neighbor_cosine[item]": (0.2, "ratio"), "random_cosine[item]": (0.3, "ratio")}
    (sentence,) = gates(pairs, None, Audit())
    assert sentence.startswith("audit.min_neighbor_lift: neighbor_cosine[item]")
    assert not [*gates(pairs, None, Audit(min_neighbor_lift=-0.2))]


def stage(**changes: object) -> SparkStage:
    values = {
        "tasks": 4, "done": 1, "failed": 0, "active": True, "rows": 100, "read": 10, "shuffled": 20, "spilled": 0,
        "run_seconds": 2.0, "median_seconds": 0.5, "max_seconds": 1.0,
    }  # fmt: skip
    return SparkStage(**(values | changes))  # type: ignore[arg-type]


def test_a_line_tells_tasks_rows_rate_and_time_left() -> None:
    assert line([stage(), stage(active=False)], 5.0) == "tasks=1/4 rows=100 rows_per_second=20 left=15s"
    assert line([stage(done=0, rows=0)], 5.0) == "tasks=0/4 left=unknown"
    assert line([stage(active=False)], 5.0) is None


def test_cost_sums_and_takes_the_spread_that_weighs_most() -> None:
    figures = cost([stage(done=4), stage(done=4, failed=1, max_seconds=9.0, median_seconds=1.0)])
    assert figures["tasks"] == (8.0, "tasks")
    assert figures["failed_tasks"] == (1.0, "tasks")
    assert figures["longest_task_seconds"] == (9.0, "seconds")
    assert "longest_task_seconds" not in cost([])
