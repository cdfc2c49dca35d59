"""LightGCN (He et al., SIGIR 2020): degree-normalised sums over all edges, and the mean of all layers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from walkbits.models.base import ModelSettings, Sgd, Shapes
from walkbits.network.declaration import Input, Network, Output, Update
from walkbits.types import NodeType, Relation

_RELATIONS: tuple[Relation, ...] = ("item_from_context", "context_from_item")


class LightGcn(ModelSettings):
    """A row per node, propagated; the length of a vector holds the node's popularity, so it is kept."""

    architecture: Literal["lightgcn"] = "lightgcn"
    """Which model."""
    temperature: PositiveFloat = 0.12
    """Divides the score in the softmax. 0.08 to 0.2."""
    num_layers: Annotated[int, Field(ge=1, le=4)] = 1
    """Hops. 1 to 3."""

    def network(self, shapes: Shapes) -> Network:
        """Items and contexts, compared by inner product."""
        types: tuple[NodeType, ...] = ("item", "context")
        return Network(
            architecture=self.architecture,
            inputs={
                one: Input(source="ids", width=self.embedding_size, count=shapes.num_nodes[one])
                for one in types
            },
            layers=tuple(
                tuple(
                    Update(
                        relation=relation,
                        neighbors="edges",
                        pool="sum",
                        degree_exponents=(0.5, 0.5),
                        combine="pooled",
                    )
                    for relation in _RELATIONS
                )
                for _ in range(self.num_layers)
            ),
            outputs={one: Output(layers="mean") for one in types},
            score=self.score,
        )

    def fit(self) -> Sgd:
        """In-batch softmax on the cosine of edges, over the whole graph in every step."""
        return Sgd(
            examples="edges", objective="softmax", negative_sampling="in_batch", cosine=True, whole_graph=True
        )
