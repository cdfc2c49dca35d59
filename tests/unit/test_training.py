"""Training: subgraphs are exact, draws are keyed, and the network learns."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.network import random_world
from reference.plain import random_graph
from reference.walks import random_graph as bipartite_graph
from walkbits import rng
from walkbits.errors import EmptyInputError, InputError, TrainingError
from walkbits.models import parse_model
from walkbits.models.base import Sgd, Shapes, ThroughSign
from walkbits.models.pinsage import PinSage
from walkbits.network.declaration import Input, Network, Output, Update
from walkbits.network.module import Module
from walkbits.network.subgraphs import Neighborhoods, SubgraphBuilder
from walkbits.settings import HardNegatives, Training
from walkbits.training.arrays import TrainingData
from walkbits.training.embed import embed as embed_all
from walkbits.training.examples import Examples
from walkbits.training.feeders import _ORDER_TAG, Feeder
from walkbits.training.loop import Trained, train
from walkbits.training.objectives import (
    Embedded,
    cross_rank,
    loss_of,
    max_margin,
    own_rank,
    positive_rank,
    through_sign,
)

COMMUNITIES, PER_COMMUNITY, WIDTH = 20, 20, 16
ITEMS = COMMUNITIES * PER_COMMUNITY
SMALL = PinSage(hidden_size=32, embedding_size=32)
SHORT = Training(epochs=2, batch_size=128, num_negatives=50, train_neighbors=5)


def planted(seed: int) -> tuple[np.ndarray, Neighborhoods, np.ndarray]:
    """Items of communities: weak features, neighborhoods with strangers, pairs within a community."""
    rng = np.random.default_rng(seed)
    community = np.arange(ITEMS) % COMMUNITIES
    centres = rng.standard_normal((COMMUNITIES, WIDTH))
    features = (0.3 * centres[community] + rng.standard_normal((ITEMS, WIDTH))).astype(np.float32)
    neighbors = np.empty((ITEMS, 8), np.int32)
    for u in range(ITEMS):
        mates = np.setdiff1d(np.flatnonzero(community == community[u]), [u])
        strangers = np.setdiff1d(np.arange(ITEMS), [u, *mates])
        neighbors[u] = [*rng.choice(mates, 4, replace=False), *rng.choice(strangers, 4, replace=False)]
    visits = np.tile(np.arange(8, 0, -1, dtype=np.int32), ITEMS)
    graph = Neighborhoods(np.arange(0, 8 * ITEMS + 1, 8), neighbors.reshape(-1), visits)
    query = rng.integers(0, ITEMS, 4000)
    positive = rng.integers(0, PER_COMMUNITY, 4000) * COMMUNITIES + community[query]
    pairs = np.stack([query, positive], axis=1)
    return features, graph, pairs[query != positive].astype(np.int32)


def data_of(features: np.ndarray, graph: Neighborhoods, pairs: np.ndarray) -> TrainingData:
    return TrainingData(
        {"item": len(features)}, {"item": features}, {}, {"item_from_item": graph}, Examples.of_pairs(pairs)
    )


def embed(weights: dict[str, np.ndarray], features: np.ndarray, graph: Neighborhoods) -> np.ndarray:
    data = data_of(features, graph, np.empty((0, 2), np.int32))
    network = SMALL.network(Shapes(data.num_nodes, {"item": WIDTH}))
    return embed_all(network, weights, data, torch.device("cpu"))["item"]


def hit_rate(embeddings: np.ndarray, pairs: np.ndarray, k: int) -> float:
    """Share of pairs whose positive is in the query's top k (PinSage, section 4.1)."""
    scores = embeddings @ embeddings.T
    np.fill_diagonal(scores, -np.inf)
    wanted = scores[pairs[:, 0], pairs[:, 1]]
    return float(((scores[pairs[:, 0]] > wanted[:, None]).sum(axis=1) < k).mean())


def trained(
    seed: int = 0, lines: list[str] | None = None, line_seconds: float = 10.0, **changes: Any
) -> Trained:
    features, graph, pairs = planted(1)
    settings = Training(**(SHORT.model_dump() | changes))
    progress = ([] if lines is None else lines).append
    return train(SMALL, settings, data_of(features, graph, pairs), seed, progress, line_seconds=line_seconds)


def test_the_network_learns_held_out_pairs() -> None:
    features, graph, pairs = planted(1)
    held_out, rest = pairs[:500], pairs[500:]
    seen = {(int(q), int(p)) for q, p in rest}
    held_out = np.array([pair for pair in held_out if tuple(pair) not in seen])
    settings = Training(epochs=20, batch_size=256, num_negatives=100, train_neighbors=8, learning_rate=3e-3)
    result = train(SMALL, settings, data_of(features, graph, rest), 0, lambda line: None)
    start = Module(result.network, 0, torch.device("cpu")).weights
    first = {name: tensor.detach().numpy() for name, tensor in start.items()}
    before = hit_rate(embed(first, features, graph), held_out, PER_COMMUNITY)
    after = hit_rate(embed(result.weights, features, graph), held_out, PER_COMMUNITY)
    assert before < 0.35
    assert after > 0.8


def test_the_same_seed_gives_the_same_bits_and_another_one_others() -> None:
    first, again, other = trained(seed=3), trained(seed=3), trained(seed=4)
    assert first.metrics == again.metrics
    for name, array in first.weights.items():
        np.testing.assert_array_equal(array.view(np.uint32), again.weights[name].view(np.uint32))
    assert any((array != other.weights[name]).any() for name, array in first.weights.items())


def test_one_line_per_epoch() -> None:
    lines: list[str] = []
    result = trained(lines=lines)
    assert len(lines) == 2
    assert lines[0].startswith("epoch 1/2 loss=0.")
    assert "examples/s=" in lines[0]
    assert lines[1].endswith("left=0s")
    assert f"loss={result.metrics['loss']:.5f}" in lines[1]


def test_long_epochs_have_lines_between() -> None:
    lines: list[str] = []
    trained(lines=lines, line_seconds=0.0)
    steps = [line for line in lines if " step " in line]
    assert len(steps) == len(lines) - 2 > 2
    assert steps[0].startswith("epoch 1/2 step 1/")
    assert all("loss=0." in line and "examples/s=" in line and " left=" in line for line in steps)


def test_curves_and_ranks_are_figures() -> None:
    result = trained(epochs=3)
    metrics = result.metrics
    losses = [metrics[f"loss[{number}]"] for number in (1, 2, 3)]
    assert losses[2] == metrics["loss"] < losses[0]
    ranks = [metrics[f"positive_rank[{number}]"] for number in (1, 2, 3)]
    assert SHORT.num_negatives + 1 > ranks[0] > ranks[2] >= 1
    assert result.timings["examples_per_second"] > 0
    assert 0 <= result.timings["waiting_for_batches"] <= 1
    softmax = trained(epochs=1, objective="softmax")
    assert not [name for name in softmax.metrics if "rank" in name]


def test_the_best_epoch_of_a_validated_training_is_kept() -> None:
    """Rows of ids learn random edges by heart: the loss of edges that are not trained on rises again."""
    model = parse_model({"architecture": "item_pool", "embedding_size": 6})
    data = random_world(5, 40, 60).data(model)

    def fitted(**changes: Any) -> Trained:
        settings = Training(batch_size=32, learning_rate=0.05, **changes)
        return train(model, settings, data, 0, lambda line: None)

    stopped = fitted(epochs=40, validation_fraction=0.2, patience=2)
    best, epochs = int(stopped.metrics["best_epoch"]), int(stopped.metrics["epochs"])
    assert epochs == best + 2 < 40
    curve = [stopped.metrics[f"validation_loss[{number}]"] for number in range(1, epochs + 1)]
    assert min(curve) == curve[best - 1]
    short = fitted(epochs=best, validation_fraction=0.2, patience=2)
    assert short.metrics["validation_loss[1]"] == curve[0]
    for name, array in stopped.weights.items():
        np.testing.assert_array_equal(array.view(np.uint32), short.weights[name].view(np.uint32))
    total = stopped.metrics["examples"] + stopped.metrics["validation_examples"]
    assert total == len(data.examples.query) == fitted(epochs=1).metrics["examples"]


@given(seed=st.integers(0, 10_000), alike=st.booleans(), fraction=st.sampled_from([0.05, 0.2, 0.5]))
@settings(deadline=None)
def test_a_validation_split_is_keyed_and_keeps_equal_examples_together(
    seed: int, alike: bool, fraction: float
) -> None:
    query, positive = np.random.default_rng(seed).integers(0, 30, (2, 2000)).astype(np.int32)
    every = Examples(query, positive)
    kept, held = every.split(fraction, seed, alike)
    rows = lambda one: list(zip(one.query.tolist(), one.positive.tolist(), strict=True))  # noqa: E731
    assert sorted(rows(kept) + rows(held)) == sorted(rows(every))
    name = (lambda pair: tuple(sorted(pair))) if alike else (lambda pair: pair)
    assert not {name(one) for one in rows(kept)} & {name(one) for one in rows(held)}
    assert abs(len(held.query) / 2000 - fraction) < 0.15
    turned = Examples(query[::-1], positive[::-1]).split(fraction, seed, alike)
    assert sorted(rows(turned[1])) == sorted(rows(held))
    assert rows(every.split(0.0, seed, alike)[0]) == rows(every)
    single = Examples(query[:1], positive[:1])
    assert len(single.split(0.5, seed, alike)[0].query) == 1


def test_ranks_are_counted_as_plain_loops_count_them() -> None:
    rng = np.random.default_rng(3)
    q, p, n, hard = (rng.standard_normal((*size, 4)) for size in ((6,), (6,), (5,), (6, 2)))
    allowed = rng.random((6, 7)) < 0.7
    batch = Embedded(*(torch.from_numpy(x) for x in (q, p, n, hard, allowed)))
    against = [[*n, *hard[a]] for a in range(6)]
    above = [sum(allowed[a, b] and q[a] @ against[a][b] >= q[a] @ p[a] for b in range(7)) for a in range(6)]
    assert positive_rank(batch) == pytest.approx(1 + np.mean(above))
    harder = [
        1 + sum(allowed[a, b] and q[a] @ n[b] > q[a] @ hard[a, h] for b in range(5))
        for a in range(6)
        for h in range(2)
        if allowed[a, 5 + h]
    ]
    assert own_rank(batch) == pytest.approx(np.mean(harder))
    assert own_rank(replace(batch, own=batch.own[:, :0], allowed=batch.allowed[:, :5])) is None


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_other_poolings_train_too(pooling: Any) -> None:
    features, graph, pairs = planted(1)
    model = SMALL.model_copy(update={"pooling": pooling})
    result = train(model, SHORT, data_of(features, graph, pairs), 0, lambda line: None)
    start = Module(result.network, 0, torch.device("cpu")).weights
    assert all((result.weights[name] != tensor.detach().numpy()).any() for name, tensor in start.items())


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    features, graph, pairs = planted(1)
    features[7, 3] = np.inf
    with pytest.raises(TrainingError, match="training loss must stay finite, got nan in epoch 1, step"):
        train(SMALL, SHORT, data_of(features, graph, pairs), 0, lambda line: None)


def test_torch_is_left_as_it_was_found() -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    trained()
    assert not torch.are_deterministic_algorithms_enabled()


def test_kernels_leave_torch_the_threads_it_was_given() -> None:
    """In a process of its own: OpenMP is started once."""
    code = (
        "import torch, test_training; test_training.trained(epochs=1); "
        "raise SystemExit(torch.get_num_threads())"
    )
    threads = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    path = os.pathsep.join([os.environ["PYTHONPATH"], str(Path(__file__).parent)])
    run = subprocess.run([sys.executable, "-c", code], env={**os.environ, **threads, "PYTHONPATH": path})
    assert run.returncode == 1


def test_a_tiny_graph_without_pairs_keeps_the_first_weights() -> None:
    features, graph, pairs = planted(1)
    told: list[str] = []
    kept = train(SMALL, SHORT, data_of(features, graph, pairs[:0]), 0, told.append, tiny=ITEMS + 1)
    assert told == ["no pairs to train on: the first weights are kept"]
    assert kept.metrics == {"examples": 0.0}
    harder = SHORT.model_copy(update={"hard_negatives": HardNegatives()})
    without = train(SMALL, harder, data_of(features, graph, pairs[:0]), 0, told.append, tiny=ITEMS + 1)
    assert without.metrics == kept.metrics  # nobody asks for their negatives
    moved = train(SMALL, SHORT, data_of(features, graph, pairs), 0, lambda line: None)
    assert kept.weights.keys() == moved.weights.keys()
    assert all(np.isfinite(one).all() for one in kept.weights.values())


def test_inputs_that_do_not_belong_together_are_refused() -> None:
    features, graph, pairs = planted(1)
    wrong = [
        (
            EmptyInputError,
            r"at least one pair .* name a column that groups items in",
            data_of(features, graph, pairs[:0]),
        ),
        (InputError, "row per item", data_of(features[:-1], graph, pairs[(pairs < ITEMS - 1).all(axis=1)])),
        (
            InputError,
            "queries must hold indices below 400, got 400",
            data_of(features, graph, np.int32([[ITEMS, 0]])),
        ),
        (InputError, "must be float32", data_of(features.astype(np.float64), graph, pairs)),
    ]
    for error, message, data in wrong:
        with pytest.raises(error, match=message):
            train(SMALL, SHORT, data, 0, print)


@given(
    seed=st.integers(0, 10_000), nodes=st.integers(2, 40), largest=st.integers(0, 9), layers=st.integers(1, 3)
)
@settings(deadline=None)
def test_a_subgraph_holds_each_needed_node_once(seed: int, nodes: int, largest: int, layers: int) -> None:
    graph = random_graph(seed, nodes, 2, largest)
    asked = np.random.default_rng(seed).integers(0, nodes, 6).astype(np.int32)
    update = Update(relation="item_from_item", pool="importance", combine="pooled")
    network = Network(
        architecture="toy",
        inputs={"item": Input(source="features", width=2)},
        layers=((update,),) * layers,
        outputs={"item": Output()},
    )
    builder = SubgraphBuilder(network, {"item_from_item": graph.arrays}, {"item": nodes})
    builder.build({"item": asked[::-1].copy()})  # a builder keeps nothing of the batch before
    subgraph, found = builder.build({"item": asked})
    rows, sources = found["item"], subgraph.nodes["item"]
    needed = set(asked.tolist())
    assert sources[: subgraph.sizes[-1]["item"]].tolist() == list(dict.fromkeys(asked.tolist()))
    np.testing.assert_array_equal(sources[rows], asked)
    for hops, size in zip(reversed(subgraph.layers), reversed(subgraph.sizes[1:]), strict=True):
        hop, targets = hops["item"], size["item"]
        assert set(sources[:targets].tolist()) == needed
        for row, u in enumerate(sources[:targets].tolist()):
            span = slice(hop.indptr[row], hop.indptr[row + 1])
            neighbors, visits = graph.rows[u]
            assert sources[hop.neighbors[span]].tolist() == neighbors
            np.testing.assert_allclose(hop.weights[span], np.divide(visits, max(sum(visits), 1)), rtol=1e-6)
            needed |= set(neighbors)
    assert sorted(sources.tolist()) == sorted(needed)


def test_heaviest_keeps_the_first_neighbors() -> None:
    graph = Neighborhoods(np.array([0, 3, 3, 4]), np.int32([2, 1, 0, 1]), np.int32([5, 4, 1, 2]))
    cut = graph.heaviest(2)
    assert cut.indptr.tolist() == [0, 2, 2, 3]
    assert cut.neighbors.tolist() == [2, 1, 1]
    assert cut.visits.tolist() == [5, 4, 2]


def test_the_loss_is_the_papers() -> None:
    rng = np.random.default_rng(0)
    q, p, n, hard = (rng.standard_normal((*size, 4)) for size in ((3,), (3,), (5,), (3, 2)))
    allowed = rng.random((3, 7)) < 0.7
    against = [[*n, *hard[a]] for a in range(3)]
    terms = [
        max(0.0, float(q[a] @ against[a][b] - q[a] @ p[a] + 0.3))
        for a in range(3)
        for b in range(7)
        if allowed[a, b]
    ]
    loss = max_margin(Embedded(*(torch.from_numpy(x) for x in (q, p, n, hard, allowed))), margin=0.3)
    assert float(loss) == pytest.approx(np.mean(terms))
    plain = max_margin(
        Embedded(*(torch.from_numpy(x) for x in (q, p, n, hard[:, :0], allowed[:, :5]))), margin=0.3
    )
    easy = [
        max(0.0, float(q[a] @ n[b] - q[a] @ p[a] + 0.3)) for a in range(3) for b in range(5) if allowed[a, b]
    ]
    assert float(plain) == pytest.approx(np.mean(easy))


def unit_batch(rows: int, width: int) -> tuple[torch.Tensor, Embedded]:
    z = torch.from_numpy(np.random.default_rng(0).standard_normal((rows, width)).astype(np.float32))
    z = (z / z.norm(dim=1, keepdim=True)).requires_grad_()
    allowed = ~torch.eye(rows, dtype=torch.bool)
    return z, Embedded(z, z[:rows], z, torch.zeros(rows, 0, width), allowed)


def signs_of(z: torch.Tensor) -> torch.Tensor:
    return torch.where(z > 0, 1.0, -1.0) / z.shape[1] ** 0.5


def test_the_guided_estimator_sees_values_first_and_signs_last() -> None:
    z, batch = unit_batch(200, 4)
    guided = ThroughSign("guided", 0.8)

    def seen(progress: float) -> tuple[torch.Tensor, torch.Tensor]:
        found = through_sign(batch, guided, progress, 7, 3)
        return found.query, found.positive

    torch.testing.assert_close(seen(0.0)[0], z)
    for progress in (0.8, 1.0):
        torch.testing.assert_close(seen(progress)[0], signs_of(z))
    half, mate = seen(0.4)
    kept = (half == z).all(dim=1)
    assert 0.35 < float(kept.float().mean()) < 0.65
    assert torch.equal(half, mate)  # a query and its positive share the draw
    torch.testing.assert_close(half[~kept], signs_of(z)[~kept])
    half.sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z))  # straight through
    assert torch.equal(seen(0.4)[0], half)
    plain = through_sign(batch, replace(guided, estimator="ste"), 0.0, 7, 3)
    torch.testing.assert_close(plain.query, signs_of(z))
    assert through_sign(batch, replace(guided, estimator="continuous"), 0.9, 7, 3) is batch


def test_the_bounded_gradient_falls_with_the_value() -> None:
    z, batch = unit_batch(30, 8)
    found = through_sign(batch, ThroughSign("bounded"), 0.5, 7, 3).query
    torch.testing.assert_close(found, signs_of(z))
    (gradient,) = torch.autograd.grad(found.sum(), z)
    u = 8**0.5 * z.detach().double()
    torch.testing.assert_close(gradient.double(), torch.exp(-(u**2) / 2), rtol=1e-5, atol=1e-6)


def test_hashnet_grows_steeper_and_gumbel_draws_bits_by_their_values() -> None:
    z = torch.tensor([[-0.8, -0.1, 0.3, 0.5]]).repeat(20_000, 1).requires_grad_()
    batch = Embedded(z, z, z[:1], z[:1, None], torch.ones(len(z), 2, dtype=torch.bool))
    hashnet = ThroughSign("hashnet")
    for progress, steep in ((0.0, 1), (1.0, 10)):
        found = through_sign(batch, hashnet, progress, 7, 3).query
        torch.testing.assert_close(found, torch.tanh(steep * 2 * z) / 2)
    drawn = through_sign(batch, replace(hashnet, estimator="gumbel"), 1.0, 7, 3)
    # The log-odds of a positive bit are twice the value times sqrt(K).
    share = (drawn.query > 0).double().mean(dim=0)
    torch.testing.assert_close(share, torch.sigmoid(4 * z[0].double()), atol=0.015, rtol=0)
    (gradient,) = torch.autograd.grad(drawn.query.sum(), z)
    assert (gradient >= 0).all()
    assert gradient.sum() > 0


def test_vectors_and_codes_are_learned_by_one_loss_each() -> None:
    """Each with its temperature, both corrected for the candidates' chances."""
    z, batch = unit_batch(12, 8)
    log_q = torch.log_softmax(torch.linspace(0, 3, 12), dim=0)
    batch = replace(batch, log_q=log_q, positive_log_q=log_q)
    sign = ThroughSign("ste", temperature=0.3, float_weight=0.7)
    fit = Sgd(examples="edges", objective="softmax", negative_sampling="in_batch", sign=sign)

    def plainly(x: np.ndarray, temperature: float, chance: np.ndarray) -> float:
        scores = x @ x.T / temperature - chance
        return float(np.mean(np.log(np.exp(scores).sum(axis=1)) - np.diag(scores)))

    values = z.detach().double().numpy()
    of_signs = plainly(signs_of(z.detach()).double().numpy(), 0.3, log_q.double().numpy())
    of_values = plainly(values, 0.1, log_q.double().numpy())
    found = loss_of(fit, Training(logq_correction="standard"), 0.1, 0)(batch, 0.5, 0).detach()
    assert float(found) == pytest.approx(of_signs + 0.7 * of_values, rel=1e-5)


def test_the_ranking_loss_is_the_papers() -> None:
    rng = np.random.default_rng(1)
    q, p, n = (rng.standard_normal((count, 4)) for count in (3, 3, 5))
    allowed = rng.random((3, 5)) < 0.7
    probability = lambda a, b: 1 / (1 + np.exp(-(a @ b) / 0.5))  # noqa: E731
    pairs = [(a, b) for a in range(3) for b in range(5) if allowed[a, b]]
    cross = -np.mean([np.log(probability(q[a], p[a])) for a in range(3)])
    cross -= np.mean([np.log(1 - probability(q[a], n[b])) for a, b in pairs])
    rank = np.mean([max(0.0, probability(q[a], n[b]) - probability(q[a], p[a]) + 0.2) for a, b in pairs])
    batch = Embedded(*(torch.from_numpy(x) for x in (q, p, n, np.zeros((3, 0, 4)), allowed)))
    assert float(cross_rank(batch, 0.5, 0.5, 0.2)) == pytest.approx(cross + 0.5 * rank)


@given(st.integers(0, 1000), st.sampled_from(["in_batch", "uniform", "mixed"]), st.booleans())
@settings(max_examples=20, deadline=None)
def test_no_item_of_a_querys_context_is_its_negative(seed: int, sampling: Any, removed: bool) -> None:
    world = bipartite_graph(30, 12, 90, seed, weighted=False).csr()
    model = parse_model({"architecture": "item_pool", "embedding_size": 8})
    network = model.network(Shapes({"item": 30, "context": 12}, {}))
    side, keys = world.context, {"item": world.item.keys, "context": world.context.keys}
    edges = Neighborhoods(side.indptr.astype(np.int64), side.indices, np.ones(len(side.indices), np.int32))
    near = Neighborhoods(np.zeros(31, np.int64), np.empty(0, np.int32), np.empty(0, np.int32))
    relations = {"item_from_item": near, "context_from_item.edges": edges}
    examples = Examples.of_edges(world, 1.0, seed)
    training = Training(
        batch_size=16, negative_sampling=sampling, num_negatives=9, remove_accidental_hits=removed
    )
    data = TrainingData({"item": 30, "context": 12}, {}, keys, relations, examples)
    held = [set(side.indices[low:high].tolist()) for low, high in pairwise(side.indptr.tolist())]
    contexts = {(context, item) for context, items in enumerate(held) for item in items}
    feeder = Feeder(network, data, model.fit(), training, seed, torch.device("cpu"))
    order = np.argsort(rng.draw(seed ^ _ORDER_TAG, np.arange(len(examples.query)), 0), kind="stable")
    for step, batch in enumerate(feeder.epoch(0)):
        chosen = order[step * 16 : (step + 1) * 16]
        nodes = batch.nodes["item"]
        for row, example in enumerate(chosen.tolist()):
            context, positive = int(examples.query[example]), int(examples.positive[example])
            assert nodes[batch.positive[row]] == positive
            for column, candidate in enumerate(nodes[batch.shared].tolist()):
                itself = sampling != "uniform" and column == row
                expected = not itself if not removed else (context, candidate) not in contexts
                assert bool(batch.allowed[row, column]) == expected
