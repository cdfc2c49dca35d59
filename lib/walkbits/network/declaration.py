"""The declaration of a network: inputs, layers and outputs, so that an engine can run it.

The trainer and the layer engine read nothing else of a model: the declaration fixes every
tensor's name and shape, so that weights which do not fit are refused before any use.

One update of a layer, for a target node u with neighborhood N(u) (PinSage, algorithm 1):

    q_v = activation(project(h_v))                       once per source node
    n_u = pool over v in N(u) of q_v                     zeros where N(u) is empty
    h_u' = activation(linear(combine(h_u, n_u)))         then divided by its length
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import (
    Field,
    FiniteFloat,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    model_validator,
)

from walkbits.settings import Section
from walkbits.types import NodeType, Relation, source_of, target_of

Activation = Literal["none", "relu", "tanh"]
Pool = Literal["importance", "mean", "max", "sum"]
Combine = Literal["concat", "average", "add", "pooled"]
TensorName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)*$", max_length=128)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


NewNodes = tuple[Literal["features", "neighbors"], ...]
"""What gives a node without a row of its own a vector; nothing where there is no way."""

TABLE = "inputs."
"""Prefix of the tensors that hold a row per node; they are mapped, never broadcast."""


class Linear(Section):
    """`x W^T + b` with tensors `<name>.weight` fp32 [size, width of x] and `<name>.bias` fp32 [size]."""

    name: TensorName
    """Prefix of the tensors, e.g. `layers.0.project`."""
    size: PositiveInt
    """Width of the result."""
    bias: bool = True
    """Whether there is a b."""


class Dense(Section):
    """A linear map, or none, and an activation."""

    linear: Linear | None = None
    """Absent: the vector passes as it is."""
    activation: Activation = "none"
    """Applied to every coordinate."""

    @property
    def identity(self) -> bool:
        """Whether nothing is done."""
        return self.linear is None and self.activation == "none"


class Input(Section):
    """h^0 of a node type: its feature vector, its learned row, or the sum of both."""

    source: Literal["features", "ids", "both"]
    """`features`: the table of vectors handed to the engine. `ids`: the table `inputs.<node type>`
    fp32 [count, width], a learned row for each `node_key`; a node it does not know starts at zeros.
    `both`: that row plus `tower` of the node's features, so that an unknown node starts there."""
    width: PositiveInt
    """Columns of h^0."""
    count: PositiveInt | None = None
    """Rows of the table; only with ids."""
    features: PositiveInt | None = None
    """Columns of the feature vector where a tower reads it; only with `both`."""
    tower: tuple[Dense, ...] = ()
    """Dense layers on the feature vector, first one first; only with `both`."""

    @model_validator(mode="after")
    def _parts_belong_to_the_source(self) -> Input:
        if (self.source == "features") == (self.count is not None):
            raise ValueError("count must be given with source 'ids' or 'both' and only there")
        if (self.source == "both") != (self.features is not None):
            raise ValueError("features must be given with source 'both' and only there")
        if self.tower and self.source != "both":
            raise ValueError("tower needs source 'both'")
        return self

    @property
    def feature_width(self) -> int | None:
        """Columns of the feature vectors that are read; None where none are."""
        return self.width if self.source == "features" else self.features


class Update(Section):
    """How one node type gets its next representation. All updates of a layer read the previous layer."""

    relation: Relation
    """`<target>_from_<source>`: whose neighborhoods are read."""
    neighbors: Literal["walks", "edges"] = "walks"
    """`walks`: the neighborhoods table. `edges`: all of the node's edges, each with one visit (GCN)."""
    project: Dense = Dense()
    """Applied to each source node, once."""
    pool: Pool
    """`importance`: mean weighted by visits. `mean`, `max`, `sum`: over the neighborhood's set."""
    degree_exponents: tuple[NonNegativeFloat, NonNegativeFloat] | None = None
    """(a, b): divide each term by |N(u)|^a * (times v is referenced)^b; only with pool `sum`. (.5, .5) is
    LightGCN's."""
    combine: Combine
    """`concat`: [h_u ; n_u]. `average`: (h_u + n_u) / (1 + |N(u)|), only with pool `sum`.
    `add`: h_u + pooled_weight * n_u. `pooled`: n_u."""
    pooled_weight: PositiveFloat = 1.0
    """Factor of n_u; only with combine `add`."""
    linear: Linear | None = None
    """Applied to what was combined."""
    activation: Activation = "none"
    """Applied after `linear`."""
    normalise: bool = False
    """Divide by the L2 norm; a zero vector stays zero."""

    @property
    def target(self) -> NodeType:
        """The node type that is updated."""
        return target_of(self.relation)

    @property
    def source(self) -> NodeType:
        """The node type whose representations are pooled."""
        return source_of(self.relation)

    @property
    def reads(self) -> str:
        """Name of the neighborhoods it reads: the relation, and whether they are edges."""
        return self.relation if self.neighbors == "walks" else f"{self.relation}.edges"

    @model_validator(mode="after")
    def _pool_fits(self) -> Update:
        if self.degree_exponents and self.pool != "sum":
            raise ValueError(f"degree_exponents needs pool 'sum', got '{self.pool}'")
        if self.combine == "average" and (self.pool != "sum" or self.degree_exponents):
            raise ValueError(f"combine 'average' needs a plain pool 'sum', got '{self.pool}'")
        if self.combine != "add" and self.pooled_weight != 1.0:
            raise ValueError(f"pooled_weight needs combine 'add', got '{self.combine}'")
        if self.neighbors == "edges" and source_of(self.relation) == target_of(self.relation):
            raise ValueError(f"neighbors 'edges' needs a relation between types, got '{self.relation}'")
        return self


class Output(Section):
    """The embedding of a node type, from its representations h^0, ..., h^K."""

    layers: Literal["last", "mean", "concat"] = "last"
    """h^K, or the mean, or the concatenation, of h^0, ..., h^K."""
    head: tuple[Dense, ...] = ()
    """Dense layers on top, first one first."""
    normalise: bool = False
    """Divide by the L2 norm; a zero vector stays zero."""
    code: Literal["rotated", "signs"] = "rotated"
    """How codes are made: signs of the rotated embedding, or of the embedding itself (a hash layer)."""


class Score(Section):
    """How well an item fits a query: `<z_q, z_i> / temperature + prior * log p_i`.

    p_i is the item's share of all edges. In-batch softmax learns log P(i | q) - log P(i): the prior brings
    the last term back at serving. Between two items the score is their cosine, without a prior, times
    n / (n + support), n being the contexts of the item that is scored.
    """

    temperature: PositiveFloat = 1.0
    """As in the loss. 0.05 to 0.2 for unit vectors."""
    prior: FiniteFloat = 0.0
    """gamma: 1 after an in-batch softmax, 0 where the embedding's length holds the popularity."""
    support: NonNegativeFloat = 0.0
    """kappa: contexts at which a cosine counts half. An item of one context points where that context does,
    by chance; a popular item would have many such neighbors. 0 leaves the cosine as it is."""


class Network(Section):
    """Inputs, layers and outputs; widths are checked to fit, end to end."""

    architecture: Name
    """Which module of walkbits.models trains it. The engine never reads this."""
    inputs: dict[NodeType, Input] = Field(min_length=1)
    """h^0 per node type."""
    layers: tuple[tuple[Update, ...], ...] = ()
    """Layers in order; one holds an update per node type, at most."""
    outputs: dict[NodeType, Output] = Field(min_length=1)
    """Node types that get an embedding."""
    score: Score = Score()
    """How embeddings are compared."""

    @property
    def learned_codes(self) -> bool:
        """Whether the embeddings' own signs are the codes; else codes are made of them afterwards."""
        return any(output.code == "signs" for output in self.outputs.values())

    @model_validator(mode="after")
    def _codes_compare(self) -> Network:
        made = sorted({output.code for output in self.outputs.values()})
        if len(made) > 1:
            raise ValueError(f"outputs must make their codes in one way to be compared, got {made}")
        return self

    @model_validator(mode="after")
    def _widths_fit(self) -> Network:
        tensors: dict[str, tuple[int, ...]] = {}
        for name, shape in self._tensors():
            if tensors.setdefault(name, shape) != shape:
                raise ValueError(f"tensor {name} is declared as {tensors[name]} and as {shape}")
        return self

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor; all are fp32."""
        return dict(self._tensors())

    def embedding_size(self, node_type: NodeType) -> int:
        """Width of the embedding of a node type."""
        head = [dense.linear.size for dense in self.outputs[node_type].head if dense.linear]
        return head[-1] if head else self.output_width(node_type)

    def output_width(self, node_type: NodeType) -> int:
        """Width of what the output's head reads."""
        widths = self.widths()
        if self.outputs[node_type].layers != "concat":
            return widths[-1][node_type]
        return sum(widths[step][node_type] for step in self.steps(node_type))

    def steps(self, node_type: NodeType) -> list[int]:
        """Layers after which a node type has a new representation, from its first one on."""
        first = [0] if node_type in self.inputs else []
        return [*first, *self.updated(node_type)]

    def new_nodes(self, node_type: NodeType) -> NewNodes:
        """How nodes that training never saw are embedded. Without a way their embedding is zero."""
        declared = self.inputs.get(node_type)
        features = declared is not None and declared.feature_width is not None
        steps = self.steps(node_type)
        if self.outputs[node_type].layers == "last":
            pooled = [u for n in steps if n for u in self.layers[n - 1] if u.target == node_type]
            features = features and all(update.combine != "pooled" for update in pooled)
        ways: dict[Literal["features", "neighbors"], bool] = {
            "features": features,
            "neighbors": bool(self.updated(node_type)),
        }
        return tuple(way for way, there in ways.items() if there)

    def widths(self) -> list[dict[NodeType, int]]:
        """Width of each node type's newest representation after 0, 1, ..., K layers."""
        widths = [{node_type: one.width for node_type, one in self.inputs.items()}]
        for updates in self.layers:
            before = widths[-1]
            after = dict(before)
            for update in updates:
                if update.source not in before:
                    raise ValueError(f"{update.relation}: no representation of {update.source} exists yet")
                combined = _combined_width(update, before)
                after[update.target] = update.linear.size if update.linear else combined
            widths.append(after)
        return widths

    def updated(self, node_type: NodeType) -> list[int]:
        """Layers, counted from 1, that update a node type."""
        return [
            number
            for number, updates in enumerate(self.layers, start=1)
            if any(update.target == node_type for update in updates)
        ]

    def _tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        widths = self.widths()
        for node_type, one in self.inputs.items():
            if one.count is not None:
                yield f"{TABLE}{node_type}", (one.count, one.width)
            if one.features is not None:
                width = one.features
                for dense in one.tower:
                    yield from _linear_tensors(dense.linear, width)
                    width = dense.linear.size if dense.linear else width
                if width != one.width:
                    raise ValueError(
                        f"inputs.{node_type}: the tower must end in width {one.width}, got {width}"
                    )
        for before, updates in zip(widths, self.layers, strict=False):
            if len({update.target for update in updates}) != len(updates) or not updates:
                raise ValueError("a layer must hold one update or one per node type")
            for update in updates:
                yield from _linear_tensors(update.project.linear, before[update.source])
                yield from _linear_tensors(update.linear, _combined_width(update, before))
        for update in self.layers[-1] if self.layers else ():
            if update.target not in self.outputs:
                raise ValueError(f"the last layer updates {update.target}, which has no output")
        for node_type, output in self.outputs.items():
            if node_type not in widths[-1]:
                raise ValueError(f"outputs.{node_type}: no representation of {node_type} is declared")
            steps = self.steps(node_type)
            if output.layers == "mean" and len({widths[step][node_type] for step in steps}) != 1:
                raise ValueError(f"outputs.{node_type}: a mean of layers needs layers of one width")
            width = self.output_width(node_type)
            for dense in output.head:
                yield from _linear_tensors(dense.linear, width)
                width = dense.linear.size if dense.linear else width


def _combined_width(update: Update, before: Mapping[NodeType, int]) -> int:
    pooled = update.project.linear.size if update.project.linear else before[update.source]
    if update.combine == "pooled":
        return pooled
    if update.target not in before:
        raise ValueError(
            f"{update.relation}: combine '{update.combine}' needs a representation of the target"
        )
    own = before[update.target]
    if update.combine == "concat":
        return own + pooled
    if own != pooled:
        raise ValueError(
            f"{update.relation}: combine '{update.combine}' needs equal widths, got {own} and {pooled}"
        )
    return own


def _linear_tensors(linear: Linear | None, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    if linear is not None:
        yield f"{linear.name}.weight", (linear.size, width)
        if linear.bias:
            yield f"{linear.name}.bias", (linear.size,)
