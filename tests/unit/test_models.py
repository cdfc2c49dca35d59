"""One battery for every model: what is declared is what trains, and any seed and order gives the same bits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from reference.network import MODELS, World, embeddings, neighborhoods, random_weights, random_world
from walkbits.errors import ModelError
from walkbits.inference.inputs import LookUp
from walkbits.models import parse_model, walked_relations
from walkbits.models.base import ModelSettings
from walkbits.models.card import load_model, save_model
from walkbits.network.declaration import Network
from walkbits.network.module import Module, first_rows, hops_of
from walkbits.network.subgraphs import SubgraphBuilder
from walkbits.settings import Training
from walkbits.training.embed import embed
from walkbits.training.learner import Learner
from walkbits.training.loop import train
from walkbits.types import NodeType

CPU = torch.device("cpu")
SHORT = Training(epochs=2, batch_size=16, num_negatives=7, train_neighbors=4, context_fraction=1.0)

GCN = parse_model({"architecture": "hashgnn", "encoder": "gcn", "embedding_size": 6, "code_bits": 64})

each_model = pytest.mark.parametrize(
    "model", [*MODELS, GCN], ids=lambda one: "gcn" if one is GCN else one.architecture
)


def by_minibatch(
    network: Network, weights: dict[str, np.ndarray], world: World, wanted: dict[NodeType, np.ndarray]
) -> dict[NodeType, np.ndarray]:
    """The trainer's module on the subgraph below some nodes."""
    reads = {update.reads for updates in network.layers for update in updates}
    builder = SubgraphBuilder(
        network, {name: neighborhoods(world.rows[name]) for name in reads}, world.num_nodes
    )
    builder.build(
        {one: nodes[::-1].copy() for one, nodes in wanted.items()}
    )  # keeps nothing of the batch before
    subgraph, rows = builder.build(wanted)
    module = Module(network, 0, CPU)
    module.weights = {name: torch.from_numpy(weights[name]) for name in module.weights}
    inputs = {
        one: {
            "features": torch.from_numpy(world.features[one][nodes]),
            "ids": torch.from_numpy(
                weights.get(f"inputs.{one}", np.zeros((max(nodes, default=0) + 1, 1), np.float32))[nodes]
            ),
        }
        for one, nodes in subgraph.nodes.items()
    }
    with torch.no_grad():
        z = module(inputs, hops_of(network, subgraph, CPU), subgraph.sizes)
    return {one: z[one].numpy()[rows[one]] for one in wanted}


@each_model
@pytest.mark.parametrize("seed", range(3))
def test_minibatch_whole_graph_and_plain_loops_agree(model: ModelSettings, seed: int) -> None:
    world = random_world(seed, 23, 11)
    network = model.network(world.shapes)
    weights = random_weights(network, seed)
    plain = embeddings(network, weights, world)
    rng = np.random.default_rng(seed)
    wanted = {one: rng.integers(0, world.num_nodes[one], 9).astype(np.int32) for one in network.outputs}
    small = by_minibatch(network, weights, world, wanted)
    whole = embed(network, weights, world.data(model), CPU)
    for one, nodes in wanted.items():
        np.testing.assert_allclose(whole[one], plain[one], rtol=0, atol=2e-6)
        np.testing.assert_allclose(small[one], plain[one][nodes], rtol=0, atol=2e-6)


@each_model
def test_the_same_seed_gives_the_same_bits_and_another_one_others(model: ModelSettings) -> None:
    world = random_world(4, 40, 30)
    first, again, other = (
        train(model, SHORT, world.data(model), seed, lambda line: None) for seed in (3, 3, 4)
    )
    assert first.metrics == again.metrics
    for name, array in first.weights.items():
        np.testing.assert_array_equal(array.view(np.uint32), again.weights[name].view(np.uint32))
    assert any((array != other.weights[name]).any() for name, array in first.weights.items())


@each_model
def test_training_lowers_the_loss(model: ModelSettings) -> None:
    world = random_world(5, 40, 60)
    lines: list[str] = []
    longer = SHORT.model_copy(update={"epochs": 12, "learning_rate": 0.01})
    trained = train(model, longer, world.data(model), 0, lines.append)
    assert len(lines) == 12
    first = float(lines[0].split("loss=")[1].split()[0])
    assert trained.metrics["loss"] < first


@each_model
def test_a_card_carries_the_model_over(model: ModelSettings, tmp_path: Path) -> None:
    world = random_world(6, 12, 9)
    trained = train(model, SHORT, world.data(model), 0, lambda line: None)
    about = {"feature_schema": "a" * 64, "config_hash": "b" * 64, "data_run": "20260101-0a0b0c0d-a1"}
    card = save_model(
        tmp_path, trained.network, trained.weights, metrics=trained.metrics, keys=trained.keys, **about
    )
    loaded = load_model(tmp_path)
    assert loaded.card == card
    assert loaded.card.network == model.network(world.shapes)
    for name, array in loaded.weights.items():
        np.testing.assert_array_equal(array, trained.weights[name])
    for one, table in loaded.tables.items():
        keys, rows = np.load(str(table.keys)), np.load(str(table.rows))
        assert (np.diff(keys) > 0).all()
        order = np.argsort(world.keys[one])
        np.testing.assert_array_equal(keys, world.keys[one][order])
        np.testing.assert_array_equal(rows, trained.weights[f"inputs.{one}"][order])


NEW = {
    "hashgnn": {"item": ("neighbors",), "context": ("neighbors",)},
    "item_pool": {"item": ("features", "neighbors"), "context": ("neighbors",)},
    "lightgcn": {"item": ("neighbors",), "context": ("neighbors",)},
    "pinsage": {"item": ("features", "neighbors")},
    "two_tower": {"item": ("features",), "context": ("neighbors",)},
}
"""What embeds new nodes, of the models of the battery."""
BY_IDS_ALONE = [
    parse_model({"architecture": "item_pool", "embedding_size": 6}),
    parse_model({"architecture": "two_tower", "embedding_size": 5, "hidden_size": 7}),
]


def cut(world: World, items: int, contexts: int) -> World:
    """The world of some days before: its first items and contexts, and the edges between them."""
    counts: dict[NodeType, int] = {"item": items, "context": contexts}
    rows = {}
    for name, listed in world.rows.items():
        target, source = name.split(".")[0].split("_from_")
        rows[name] = [
            (
                [v for v in neighbors if v < counts[source]],
                [n for v, n in zip(neighbors, visits, strict=True) if v < counts[source]],
            )
            for neighbors, visits in listed[: counts[target]]
        ]
    known = (world.edges[:, 0] < contexts) & (world.edges[:, 1] < items)
    return World(
        {one: x[: counts[one]] for one, x in world.features.items()},
        rows,
        {one: keys[: counts[one]] for one, keys in world.keys.items()},
        world.edges[known],
        counts,
    )


@pytest.mark.parametrize("model", MODELS + BY_IDS_ALONE, ids=lambda one: one.architecture)
def test_new_items_and_contexts_are_embedded_or_left_out_as_the_card_says(
    model: ModelSettings, tmp_path: Path
) -> None:
    """Trained on yesterday's nodes, embedded with today's: rows of ids follow the keys, as the engine's do."""
    later = random_world(8, 50, 40)
    earlier = cut(later, 40, 30)
    trained = train(model, SHORT, earlier.data(model), 0, lambda line: None)
    about = {"feature_schema": "a" * 64, "config_hash": "b" * 64, "data_run": "20260101-0a0b0c0d-a1"}
    card = save_model(
        tmp_path, trained.network, trained.weights, metrics=trained.metrics, keys=trained.keys, **about
    )
    weights = dict(trained.weights)
    for one in card.tables:
        table = load_model(tmp_path).tables[one]
        (batch,) = LookUp(table, weights[f"inputs.{one}"].shape[1]).run(
            iter([pa.record_batch({"node": np.arange(later.num_nodes[one]), "key": later.keys[one]})])
        )
        rows = [np.frombuffer(row, "<f4") for row in batch.column(1).to_pylist()]
        weights[f"inputs.{one}"] = np.stack(rows)
        np.testing.assert_array_equal(weights[f"inputs.{one}"][earlier.num_nodes[one] :], 0)
    network = model.network(later.shapes)
    z = embed(network, weights, later.data(model), CPU)
    plain = embeddings(network, weights, later)
    if model in MODELS and model.architecture in NEW:
        assert card.new_nodes == NEW[model.architecture]
    for one, ways in card.new_nodes.items():
        np.testing.assert_allclose(z[one], plain[one], rtol=0, atol=2e-6)
        new = z[one][earlier.num_nodes[one] :]
        reached = new.any(axis=1)
        if "features" in ways:
            assert reached.all()
        elif ways:
            assert reached.mean() > 0.5  # some have no neighbors that were known
        else:
            assert not reached.any()
        # vectors of their own, but for those of nothing known and of dead units
        assert len(np.unique(new[reached], axis=0)) >= reached.sum() / 2


def test_dropped_rows_are_drawn_by_key_and_step_and_learn_nothing() -> None:
    world = random_world(4, 400, 300)
    named = {"architecture": "item_pool", "embedding_size": 6, "content": True}
    changed, kept = [], []
    for share in (0.0, 0.5):
        model = parse_model(named | {"id_dropout": share})
        network, fit, data = model.network(world.shapes), model.fit(), world.data(model)
        learner = Learner(network, fit, SHORT.model_copy(update={"batch_size": 256}), data, 3, CPU)
        before = learner.tables["item"].rows.copy()
        batch = next(learner.feeder.epoch(0))
        learner.step(batch, 0, 0)
        nodes = batch.nodes["item"]
        changed.append((learner.tables["item"].rows != before)[nodes].any(axis=1))
        kept.append(learner._kept("item", nodes, 0)[:, 0].numpy())
        examples = data.examples
        assert learner.mean_loss(examples, 1) == learner.mean_loss(examples, 1)  # drops nothing
    assert kept[0].all()
    assert 0.4 < kept[1].mean() < 0.6
    assert not changed[1][kept[1] == 0].any()
    assert changed[1][kept[1] == 1].mean() > 0.9 * changed[0].mean() > 0.5
    assert (learner._kept("item", nodes, 1)[:, 0].numpy() != kept[1]).any()
    np.testing.assert_array_equal(learner._kept("item", nodes[::-1].copy(), 0)[:, 0].numpy(), kept[1][::-1])


@each_model
def test_rows_that_no_step_has_changed_are_counted(model: ModelSettings) -> None:
    world = random_world(4, 40, 30)
    in_batch = SHORT.model_copy(update={"negative_sampling": "in_batch"})
    trained = train(model, in_batch, world.data(model), 0, lambda line: None)
    assert {name for name in trained.metrics if "unmet" in name} == {f"unmet[{one}]" for one in trained.keys}
    for one, keys in trained.keys.items():
        first = first_rows(keys, trained.weights[f"inputs.{one}"].shape[1], 0)
        same = (trained.weights[f"inputs.{one}"] == first).all(axis=1)
        assert trained.metrics[f"unmet[{one}]"] == same.sum() < len(keys)


def test_a_card_that_says_otherwise_is_refused(tmp_path: Path) -> None:
    world = random_world(6, 12, 9)
    model = BY_IDS_ALONE[1]
    trained = train(model, SHORT, world.data(model), 0, lambda line: None)
    about = {"feature_schema": "a" * 64, "config_hash": "b" * 64, "data_run": "20260101-0a0b0c0d-a1"}
    save_model(tmp_path, trained.network, trained.weights, metrics={}, keys=trained.keys, **about)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["new_nodes"] == {"context": ["neighbors"], "item": []}
    card["new_nodes"]["item"] = ["features"]
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match="new_nodes must be what the network gives"):
        load_model(tmp_path)


def test_walked_relations_are_those_of_the_layers() -> None:
    found = {model.architecture: walked_relations(model) for model in MODELS}
    assert found["pinsage"] == found["item_pool"] == found["hashgnn"] == ("item_from_item",)
    assert found["lightgcn"] == found["two_tower"] == ()


def test_an_unknown_model_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"architecture must be one of \['hashgnn', .*\], got 'pinsgae'"):
        parse_model({"architecture": "pinsgae"})
