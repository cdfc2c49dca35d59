"""The layer engine: every node's representation once per layer, from a card (PinSage, 3.4).

For each layer the source nodes are projected once and land in one matrix file, which every
host maps; the target nodes then stream past it with their neighborhoods, pool, combine and
leave as rows of the next layer. Nothing is shuffled, unless the matrix exceeds the host's
budget: then the most referenced rows are mapped, and the others are shuffled once to each block
of targets that references them. Nothing that grows with the graph reaches the driver's memory.
The engine reads declarations only: it knows no architecture.

A task computes in blocks of one fixed height, in which a node's place is congruent to its index, so
the bits of a row depend neither on the rows beside it nor on partitions and batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from walkbits import settings
from walkbits.arrays.mapped import create_matrix
from walkbits.arrays.places import Place, remove
from walkbits.errors import InputError
from walkbits.inference.convolving import Convolve, ConvolveBlock, Embed, Finish
from walkbits.inference.inputs import input_rows
from walkbits.inference.landing import Land, Projection, Send, land
from walkbits.inference.plan import UpdatePlan, plan_updates
from walkbits.inference.proof import ModelRows
from walkbits.inference.references import (
    CountReferences,
    LandReferences,
    References,
    block_of,
    rank,
    words_of,
)
from walkbits.models.card import LoadedModel, Table
from walkbits.network.declaration import Input, Network, Update
from walkbits.schemas import EMBEDDINGS, REPRESENTATIONS
from walkbits.tables.rows import Rows
from walkbits.types import NodeType


class Layers(Protocol):
    """Where inner layers are committed, as rows (node_type, node, representation)."""

    def finished(self) -> int:
        """Layers 1 to this one stand from an earlier attempt."""

    def write(self, parts: Sequence[Rows], layer: int) -> None:
        """Commit a layer, of one part for each node type."""

    def finish(self, layer: int) -> None:
        """The committed layer is proven: a later attempt may keep it."""

    def read(self, layer: int, node_type: NodeType) -> Rows:
        """(node, representation) of a committed layer."""


_KEY = [REPRESENTATIONS.schema["node_type"], REPRESENTATIONS.schema["node"]]
_LAYER_ROWS: Final = StructType([*_KEY, REPRESENTATIONS.schema["representation"]])
_EMBEDDING_ROWS: Final = StructType([*_KEY, EMBEDDINGS.schema["embedding"]])


@dataclass(frozen=True)
class Inferred:
    """What `infer` gives.

    Attributes:
        parts: (node_type STRING, node INT, embedding ARRAY<FLOAT>), for each node type. Write them once,
            before the engine's folder is removed.
        model_rows: Proof of one model row per node and pass, once `parts` are written.
    """

    parts: Sequence[Rows]
    model_rows: ModelRows


def infer(
    spark: SparkSession,
    model: LoadedModel,
    features: Mapping[NodeType, Rows],
    num_nodes: Mapping[NodeType, int],
    neighborhoods: Callable[[Update], Rows],
    inference: settings.Inference,
    folder: Place,
    layers: Layers,
    node_keys: Callable[[NodeType], Rows] | None = None,
) -> Inferred:
    """Run a model over the whole graph, from its first unfinished layer on.

    Args:
        spark: The session.
        model: Card and weights.
        features: Per node type whose input is `features`: (node INT or BIGINT, features BINARY), each
            index below `num_nodes` once, little-endian fp32 [width of the input].
        num_nodes: Nodes of each type.
        neighborhoods: Gives (node INT, neighbors BINARY, visits BINARY) of what an update reads, as in the
            table, each target node once.
        inference: Block size, byte budget and message type.
        folder: Empty scratch space on storage that all hosts reach, for the matrices that tasks write
            and hosts map (see arrays.mapped). To be removed after the parts are written.
        layers: Where inner layers are committed, and kept from an earlier attempt.
        node_keys: Gives (node INT or BIGINT, node_key BIGINT) of all nodes of a type; needed where a type's
            input has ids.

    Raises:
        InputError: a node type without features, with nodes missing or doubled, or with vectors
            of another width than the card's.
    """
    network = model.card.network
    kept = min(layers.finished(), max(0, len(network.layers) - 1))
    engine = _Engine(spark, model, num_nodes, neighborhoods, inference, folder, kept)
    for node_type, one in network.inputs.items():
        if one.feature_width is not None and node_type not in features:
            raise InputError(f"features of {node_type} must be given for this model, got {sorted(features)}")
        engine.start(
            node_type, one, model.tables.get(node_type), node_keys and node_keys(node_type),
            features.get(node_type),
        )  # fmt: skip
    finished: dict[NodeType, Rows] = {}
    for number, updates in enumerate(network.layers, start=1):
        engine.land(number)
        if number < len(network.layers):
            if number > kept:
                layers.write([engine.update(number, update) for update in updates], number)
                engine.model_rows.check(_passes_of(number, updates))
                layers.finish(number)
            engine.advance(number, partial(layers.read, number))
        else:
            finished = {update.target: engine.update(number, update) for update in updates}
    for node_type in sorted(network.outputs.keys() - finished.keys()):
        finished[node_type] = engine.embed(node_type)
    return Inferred([finished[node_type] for node_type in sorted(network.outputs)], engine.model_rows)


def model_rows_of(network: Network, num_nodes: Mapping[NodeType, int], kept: int = 0) -> dict[str, int]:
    """Rows that each pass after the `kept` layers must compute: the number of its nodes."""
    rows: dict[str, int] = {}
    for number, updates in enumerate(network.layers[kept:], start=kept + 1):
        rows |= {label: num_nodes[one] for label, one in _passes_of(number, updates).items()}
    last = {update.target for update in network.layers[-1]} if network.layers else set()
    return rows | {_embed_label(one): num_nodes[one] for one in network.outputs if one not in last}


def _passes_of(number: int, updates: Sequence[Update]) -> dict[str, NodeType]:
    """Passes of a layer, and the type of the nodes that each computes."""
    passes: dict[str, NodeType] = {}
    for update in updates:
        if not update.project.identity:
            passes[_land_label(number, update)] = update.source
        passes[_update_label(number, update.target)] = update.target
    return passes


def _land_label(number: int, update: Update) -> str:
    return f"layer {number}: project {update.reads}"


def _update_label(number: int, target: NodeType) -> str:
    return f"layer {number}: convolve {target}"


def _embed_label(node_type: NodeType) -> str:
    return f"embed {node_type}"


class _Engine:
    """The driver's side: each node type's newest rows, and the matrices that hosts have mapped.

    Matrices are named `<node type>.<layer>` (representations), `<reads>.<layer>` (what an update
    pools), `<reads>.<layer>.slots` and `<reads>.references` (see `Update.reads`).
    """

    def __init__(
        self,
        spark: SparkSession,
        model: LoadedModel,
        num_nodes: Mapping[NodeType, int],
        neighborhoods: Callable[[Update], Rows],
        inference: settings.Inference,
        folder: Place,
        kept: int,
    ) -> None:
        self._spark, self._num_nodes, self._neighborhoods = spark, num_nodes, neighborhoods
        self._network, self._block_size, self._folder = model.card.network, inference.block_size, folder
        self._dtype = {"fp32": "<f4", "fp16": "<f2"}[inference.message_dtype]
        plans = plan_updates(self._network, num_nodes, inference, spark.sparkContext.defaultParallelism)
        self._plans = {(plan.layer, plan.update.reads): plan for plan in plans}
        self.model_rows = ModelRows(spark, model_rows_of(self._network, num_nodes, kept))
        self._weights = spark.sparkContext.broadcast(model.weights)
        self._widths = self._network.widths()
        self._newest: dict[NodeType, Rows] = {}
        self._version = dict.fromkeys(num_nodes, 0)
        self._mapped: dict[str, Place] = {}
        self._projections: dict[tuple[int, str], Projection] = {}
        self._kept = kept

    def start(
        self,
        node_type: NodeType,
        declared: Input,
        table: Table | None,
        keys: Rows | None,
        features: Rows | None,
    ) -> None:
        """From `input_rows`."""
        nodes, scratch = self._num_nodes[node_type], self._folder / f"{node_type}.ids.npy"
        common = self._common()
        self._newest[node_type] = input_rows(
            node_type, declared, table, keys, features, nodes, scratch, common
        )

    def land(self, number: int) -> None:
        """Write and map what a layer, and outputs after it, read of the newest rows.

        A layer that is kept from an earlier attempt reads nothing.
        """
        updates = self._network.layers[number - 1] if number > self._kept else ()
        for update in updates:
            if update.degree_exponents or not self._plan(number, update).whole:
                self._land_references(number, update)
        own = {update.target for update in updates if update.combine != "pooled"}
        own |= {update.source for update in updates if self._pools_own(number, update)}
        own |= {one for one, output in self._network.outputs.items() if output.layers != "last"}
        for node_type in sorted(self._newest):
            name, width = f"{node_type}.{self._version[node_type]}", self._widths[number - 1][node_type]
            wanted = node_type in own and name not in self._mapped
            projected = (
                one for one in updates if one.source == node_type and not self._pools_own(number, one)
            )
            task = Land(
                **self._common(),
                width=width,
                own=self._create(name, self._num_nodes[node_type], width) if wanted else None,
                projections=tuple(self._projection(number, one) for one in projected),
            )
            if task.own or task.projections:
                self._land(node_type, task)

    def update(self, number: int, update: Update) -> Rows:
        """Rows of one node type after a layer; its embeddings after the last layer."""
        last = number == len(self._network.layers)
        reads, plan = update.reads, self._plan(number, update)
        source = f"{update.source}.{self._version[update.source]}"
        own = f"{update.target}.{self._version[update.target]}"
        convolve: dict[str, Any] = {
            **self._common(),
            "label": _update_label(number, update.target),
            "update": update,
            "pooled": self._mapped[source if self._pools_own(number, update) else f"{reads}.{number}"],
            "own": None if update.combine == "pooled" else self._mapped[own],
            "references": self._mapped[f"{reads}.references"] if update.degree_exponents else None,
            "sources": self._num_nodes[update.source],
            "finish": self._finish(update.target) if last else None,
        }
        rows = self._neighborhoods(update)
        task = Convolve(**convolve)
        if not plan.whole:
            slots = self._mapped[f"{reads}.{number}.slots"]
            task = ConvolveBlock(**convolve, slots=slots, width=plan.width, dtype=self._dtype)
            rows = Rows.of(self._blocks(number, plan, rows.to_frame()))
        return rows.then(task.run, _EMBEDDING_ROWS if last else _LAYER_ROWS)

    def _blocks(self, number: int, plan: UpdatePlan, rows: DataFrame) -> DataFrame:
        """One partition per destination block: its targets, then the cold sources they reference."""
        update = plan.update
        projection = self._projections[number, update.reads]
        assert projection.slots is not None
        send = Send(
            **self._common(),
            width=self._widths[number - 1][update.source],
            projection=projection,
            slots=projection.slots,
            references=self._mapped[f"{update.reads}.references"],
            dtype=self._dtype,
        )
        absent = F.lit(None).cast("binary")
        sent = self._newest[update.source].then(send.run, Send.schema).to_frame()
        messages = sent.select(
            F.explode("blocks").alias("block"), F.lit(True).alias("message"), "node", "vector",
            absent.alias("neighbors"), absent.alias("visits"),
        )  # fmt: skip
        targets = rows.select(
            block_of("node", plan.num_blocks, plan.targets).alias("block"), F.lit(False).alias("message"),
            "node", F.lit(None).cast("binary").alias("vector"), "neighbors", "visits",
        )  # fmt: skip
        both = targets.unionAll(messages).repartitionById(plan.num_blocks, "block").drop("block")
        return both.sortWithinPartitions("message", "node")

    def _plan(self, number: int, update: Update) -> UpdatePlan:
        return self._plans[number, update.reads]

    def _pools_own(self, number: int, update: Update) -> bool:
        """Whether representations are pooled as they are, from the one matrix of them all."""
        return update.project.identity and self._plan(number, update).whole

    def advance(self, number: int, committed: Callable[[NodeType], Rows]) -> None:
        """The committed rows are the newest ones; drop the matrices that no later layer reads."""
        for update in self._network.layers[number - 1]:
            target = update.target
            self._newest[target] = committed(target)
            self._drop(f"{update.reads}.{number}")
            self._drop(f"{update.reads}.{number}.slots")
            output = self._network.outputs.get(target)
            if output is None or output.layers == "last":
                self._drop(f"{target}.{self._version[target]}")
            self._version[target] = number

    def embed(self, node_type: NodeType) -> Rows:
        """Embeddings of a node type that the last layer does not update."""
        task = Embed(
            **self._common(),
            label=_embed_label(node_type),
            node_type=node_type,
            width=self._widths[-1][node_type],
            finish=self._finish(node_type),
            leave_out=not self._network.new_nodes(node_type),
        )
        return self._newest[node_type].then(task.run, _EMBEDDING_ROWS)

    def _finish(self, node_type: NodeType) -> Finish:
        output = self._network.outputs[node_type]
        versions = self._network.steps(node_type)[:-1] if output.layers != "last" else []
        earlier = tuple(self._mapped[f"{node_type}.{version}"] for version in versions)
        return Finish(output, earlier, self._network.output_width(node_type))

    def _projection(self, number: int, update: Update) -> Projection:
        """New files for what an update pools."""
        plan, name = self._plan(number, update), f"{update.reads}.{number}"
        slots = None
        if not plan.whole:
            references = References(self._mapped[f"{update.reads}.references"], plan.sources)
            slots = self._mapped[f"{name}.slots"] = self._folder / f"{name}.slots.npy"
            rank(references, plan.sources, plan.cached_rows, slots)
        label = None if update.project.identity else _land_label(number, update)
        matrix = self._create(name, plan.cached_rows, plan.width)
        self._projections[number, update.reads] = Projection(label, update.project, slots, matrix)
        return self._projections[number, update.reads]

    def _land(self, node_type: NodeType, task: Land) -> None:
        land(self._newest[node_type], task, node_type, self._num_nodes[node_type])

    def _land_references(self, number: int, update: Update) -> None:
        name = f"{update.reads}.references"
        if name in self._mapped:
            return
        plan = self._plan(number, update)
        count = CountReferences(plan.num_blocks, plan.targets)
        path = self._create(name, plan.sources * words_of(plan.num_blocks), 2, "<i4")
        counts = (
            self._neighborhoods(update)
            .then(count.run, CountReferences.schema)
            .to_frame()
            .groupBy("place")
            .agg(F.sum("references").cast("int"), F.bit_or("blocks"))
        )
        counts.mapInArrow(LandReferences(path).run, "rows bigint").collect()

    def _common(self) -> dict[str, Any]:
        return {
            "weights": self._weights,
            "block_size": self._block_size,
            "model_rows": self.model_rows,
        }

    def _create(self, name: str, rows: int, width: int, dtype: str = "<f4") -> Place:
        path = self._folder / f"{name}.npy"
        create_matrix(path, rows, width, dtype)
        self._mapped[name] = path
        return path

    def _drop(self, name: str) -> None:
        if path := self._mapped.pop(name, None):
            remove(path)
