"""The byte budget: who is cached, what is shuffled at most, and what `--explain` says."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference.plain import packed
from walkbits.arrays.mapped import create_matrix
from walkbits.inference.plan import explained, plan_updates
from walkbits.inference.references import (
    CountReferences,
    LandReferences,
    References,
    open_slots,
    rank,
    words_of,
)
from walkbits.models.base import Shapes
from walkbits.models.pinsage import PinSage
from walkbits.settings import Inference

NETWORK = PinSage(hidden_size=8, embedding_size=5).network(Shapes({"item": 1}, {"item": 7}))


@pytest.mark.parametrize(("budget", "cached"), [(None, 100), (10_000, 100), (1600, 50), (31, 0), (0, 0)])
def test_the_budget_decides_how_many_rows_are_cached(budget: int | None, cached: int) -> None:
    plans = plan_updates(NETWORK, {"item": 100}, Inference(cache_bytes=budget), 2)
    assert [(plan.layer, plan.cached_rows) for plan in plans] == [(1, cached), (2, cached)]
    assert all(plan.cached_bytes <= (budget if budget is not None else 3200) for plan in plans)
    assert all(plan.whole == (cached == 100) for plan in plans)


def test_shuffled_bytes_never_exceed_the_naive_plan_and_vanish_with_a_whole_cache() -> None:
    for budget, dtype, most in ((0, "fp32", 1.0), (1600, "fp32", 0.5), (0, "fp16", 0.5), (None, "fp32", 0.0)):
        inference = Inference(cache_bytes=budget, message_dtype=dtype)
        for plan in plan_updates(NETWORK, {"item": 100}, inference, 2):
            for references in (0, 100, 5000):
                assert plan.shuffled_bytes(references) <= most * plan.naive_bytes(references)


def test_explain_prints_layers_and_bytes() -> None:
    plans = plan_updates(NETWORK, {"item": 1_000_000}, Inference(cache_bytes="16MB"), 2)
    assert explained(plans, {"item_from_item": 50_000_000}, 2).splitlines() == [
        "layer  relation                      cached          of   shuffled at most       naive",
        "    1  item_from_item              16.00 MB    32.00 MB           64.00 MB     1.60 GB",
        "    2  item_from_item              16.00 MB    32.00 MB           64.00 MB     1.60 GB",
        "largest layer: 16.00 MB mapped once per host, shared by its workers",
        "2 workers at once, each with partial sums of 8.00 MB",
    ]


@given(seed=st.integers(0, 1000), num_blocks=st.sampled_from([1, 4, 32, 33, 70]), cached=st.integers(0, 30))
def test_the_most_referenced_are_cached_and_blocks_are_known(
    tmp_path_factory: pytest.TempPathFactory, seed: int, num_blocks: int, cached: int
) -> None:
    folder, rng, targets, sources = tmp_path_factory.mktemp("r"), np.random.default_rng(seed), 90, 30
    rows = [rng.permutation(sources)[: rng.integers(0, 6)].astype(np.int32).tolist() for _ in range(targets)]
    batch = pa.RecordBatch.from_arrays(
        [pa.array(range(targets), pa.int32()), pa.array(map(packed, rows), pa.binary())],
        names=["node", "neighbors"],
    )
    create_matrix(folder / "r.npy", sources * words_of(num_blocks), 2, "<i4")
    count = CountReferences(num_blocks, targets)
    list(LandReferences(folder / "r.npy").run(count.run(iter([batch]))))
    references = References(folder / "r.npy", sources)
    wanted = np.bincount([v for row in rows for v in row], minlength=sources)
    np.testing.assert_array_equal(references.counts(slice(0, sources)), wanted)
    offsets, blocks = references.blocks(np.arange(sources, dtype=np.int32))
    for v in range(sources):
        expected = sorted({u * num_blocks // targets for u in range(targets) if v in rows[u]})
        assert blocks[offsets[v] : offsets[v + 1]].tolist() == expected
    rank(references, sources, cached, folder / "s.npy")
    slots = open_slots(folder / "s.npy")
    hottest = sorted(range(sources), key=lambda v: (-wanted[v], v))[:cached]
    assert {v: slots[v] for v in sorted(hottest)} == {v: i for i, v in enumerate(sorted(hottest))}
    assert (slots >= 0).sum() == cached
