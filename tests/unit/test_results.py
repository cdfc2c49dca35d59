"""`make results`: the settings that quality.yaml holds, a trained contender on a small world, the summary."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from walkbits.evaluation.protocol import evaluate
from walkbits.evaluation.rankers import Popularity
from walkbits.evaluation.splits import Edges, Split


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
    import contenders

    return contenders


@pytest.fixture(scope="module")
def communities() -> Split:
    """Contexts of ten items of one of six groups: what is held out lies in the group."""
    random = np.random.default_rng(3)
    group = np.arange(240) % 6
    item = np.concatenate([6 * random.choice(20, 10, replace=False) + one for one in group])
    edges = Edges(np.repeat(np.arange(240), 10), item, 240, 120)
    return Split.leave_one_out(edges, 1)


def test_settings_of_every_trained_contender_are_valid(benchmark: ModuleType) -> None:
    trained = [one for one in benchmark.CONTENDERS if one.build.__class__.__name__ == "partial"]
    assert {"item_pool", "lightgcn", "two_tower"} <= {one.name for one in trained}
    for one in trained:
        assert one.data.keys() <= benchmark.DATA_SETS.keys()
        for changes in one.data.values():
            benchmark.trained.settings_of(one.build.args[1], changes)


@pytest.mark.parametrize("file", ["item_pool", "two_tower", "lightgcn", "pinsage"])
def test_trained_contenders_learn_the_groups_and_repeat_their_bits(
    benchmark: ModuleType, communities: Split, file: str
) -> None:
    features = np.eye(6, dtype=np.float32)[np.arange(120) % 6]
    data = benchmark.DataSet("small", "", communities, communities, features)
    changes = {
        "model.embedding_size": 16, "training.epochs": 10, "training.batch_size": 256,
        "training.learning_rate": 0.01, "walks.num_walks": 50,
    }  # fmt: skip
    first, again = (benchmark.trained.fit("model", file, data, changes, 1) for _ in range(2))
    np.testing.assert_array_equal(first.items, again.items)
    recall = {
        one.model: one.value for one in evaluate(communities, [first, Popularity()], (20,), ("recall",))
    }
    assert recall["model"] > 0.9  # the group's other eleven items fit into the list
    assert recall["popularity"] < 0.4
    assert not np.array_equal(first.items, benchmark.trained.fit("model", file, data, changes, 2).items)
