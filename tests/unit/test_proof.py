"""The proof without Spark: what tasks told, summed up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from walkbits.errors import WalkbitsError
from walkbits.inference.proof import ModelRows


def told(counts: dict[tuple[str, int, int], tuple[int, int | None]]) -> ModelRows:
    """A pass over nodes 0 to 3, of which tasks told so much."""
    spark: Any = SimpleNamespace(
        sparkContext=SimpleNamespace(accumulator=lambda *_: SimpleNamespace(value=counts))
    )
    return ModelRows(spark, {"pass": 4})


def test_each_node_once_is_proven() -> None:
    told({("pass", 0, 0): (2, 3), ("pass", 0, 1): (2, 3)}).check()
    told({("pass", 0, 0): (4, None)}).check()


@pytest.mark.parametrize(
    "counts", [(3, 6), (5, 6), (4, 7)], ids=["missing", "too many", "one doubled, one missing"]
)
def test_any_other_count_is_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(WalkbitsError, match="once per node and pass"):
        told({("pass", 0, 0): counts}).check()
