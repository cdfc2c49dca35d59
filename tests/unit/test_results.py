"""`make results`: the settings that quality.yaml holds, a trained contender on a small world, the summary."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from walkbits.evaluation.protocol import evaluate
from walkbits.evaluation.rankers import Embedding, Popularity
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


@pytest.mark.parametrize("file", ["item_pool", "two_tower", "lightgcn", "pinsage", "hashgnn"])
def test_trained_contenders_learn_the_groups_and_repeat_their_bits(
    benchmark: ModuleType, communities: Split, file: str
) -> None:
    features = np.eye(6, dtype=np.float32)[np.arange(120) % 6]
    data = benchmark.DataSet("small", "", communities, communities, features)
    changes = {
        "model.embedding_size": 16, "training.epochs": 10, "training.batch_size": 256,
        "training.learning_rate": 0.01, "walks.num_walks": 50,
    }  # fmt: skip
    if file == "hashgnn":
        changes |= {"model.embedding_size": 64, "model.code_bits": 64}
    first, again = (benchmark.trained.fit("model", file, data, changes, 1) for _ in range(2))
    np.testing.assert_array_equal(first.items, again.items)
    recall = {
        one.model: one.value for one in evaluate(communities, [first, Popularity()], (20,), ("recall",))
    }
    assert recall["model"] > 0.9  # the group's other eleven items fit into the list
    assert recall["popularity"] < 0.4
    assert not np.array_equal(first.items, benchmark.trained.fit("model", file, data, changes, 2).items)


@pytest.mark.parametrize("learned", [False, True])
def test_codes_are_compared_with_the_float_ranking_of_the_same_vectors(
    benchmark: ModuleType, communities: Split, learned: bool
) -> None:
    import quality_codes

    random = np.random.default_rng(3)
    centre = random.standard_normal((6, 128))
    items, contexts = (
        (centre[np.arange(count) % 6] + 0.5 * random.standard_normal((count, 128))).astype(np.float32)
        for count in (120, 240)
    )
    prior = np.log(communities.popularity + 1.0).astype(np.float32)
    ways = quality_codes.measured(
        communities, Embedding("e", items, contexts, prior=prior), 1, learned=learned
    )
    widths = (64, 128) if learned else quality_codes.WIDTHS
    expected = {f"{way}_{bits}" for way in quality_codes.SHOWN for bits in widths} - {"hamming_prior_64"}
    assert set(ways) == {"float", *expected}
    assert ways["float"]["exact_50"] == 1
    assert ways["hamming500_float_64"] == ways["float"]  # of 120 items, all
    for bits in widths:
        assert quality_codes.of_float(ways, f"asymmetric_{bits}") > 0.95
        assert 0 < ways[f"hamming_{bits}"]["exact_50"] < 1


def test_figures_of_codes_are_shares_and_differences_by_seed(benchmark: ModuleType) -> None:
    import quality_codes

    def row(**by_way: float) -> dict[str, dict[str, float]]:
        metrics = ("recall_at_20", "ndcg_at_20", "exact_50")
        return {way: dict.fromkeys(metrics, value) for way, value in by_way.items()}

    ways = ("asymmetric_256", "hamming_256", "hamming_prior_256", "hamming500_float_256")

    def rows(*hamming: float) -> dict[str, dict[str, dict[str, dict[str, dict[str, dict[str, float]]]]]]:
        by_seed = {
            str(seed): {"codes": row(float=0.2, **(dict.fromkeys(ways, 0.19) | {"hamming_prior_256": one}))}
            for seed, one in enumerate(hamming, 1)
        }
        return {"by_seed": by_seed}

    gowalla = {"hashgnn": rows(0.16, 0.18), "item_pool_codes": rows(0.1), "ease": {}}
    baskets = {"hashgnn": rows(0.15, 0.14), "hashgnn_ste": rows(0.12)}
    found = quality_codes.summary({"baskets": baskets, "gowalla": gowalla})
    assert found["codes"]["hamming_256_of_float"]["way"] == "hamming_256"
    assert found["codes"]["hamming_256_of_float"]["value"] == 0.95
    assert found["codes"]["hamming_prior_256_of_float"] == {
        "value": 0.85, "seeds": 2, "spread": 0.1, "data": "gowalla", "model": "hashgnn", "way": "hamming_prior_256",
    }  # fmt: skip
    assert found["codes"]["hamming500_float_of_float"]["value"] == 0.95
    assert found["hashgnn"] == {
        "guided_minus_plain": {"value": 0.03, "seeds": 1, "spread": 0.0, "data": "baskets"},
        "guided_minus_lsh": {"value": 0.06, "seeds": 1, "spread": 0.0, "data": "gowalla"},
    }
    assert quality_codes.page({"gowalla": {"ease": {}}}) == []
    page = "\n".join(quality_codes.page({"gowalla": {"hashgnn": rows(0.16, 0.18)}}))
    assert "| hashgnn | 2 | 0.2000 | hamming_prior | - | - | 0.850 / 0.850 / 0.170 | - |" in page
