"""HashGNN (Tan et al., WWW 2020): a graph encoder and a hash layer, float and binary learnt together.

Not Neo4j's HashGNN, which hashes without training.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from walkbits.models.base import Estimator, ModelSettings, Sgd, Shapes, ThroughSign
from walkbits.network.declaration import Dense, Input, Linear, Network, Output, Update
from walkbits.settings import CodeBits
from walkbits.types import NodeType, Relation

_RELATIONS: tuple[Relation, ...] = ("item_from_context", "context_from_item")


class HashGnn(ModelSettings):
    """Mean over a node and its neighbors, `num_layers` times, then z = tanh(W h + b); codes are its signs."""

    architecture: Literal["hashgnn"] = "hashgnn"
    """Which model."""
    num_layers: Annotated[int, Field(ge=1, le=4)] = 2
    """Encoder layers. 1 to 2."""
    hidden_size: Annotated[int, Field(ge=4, le=8192)] = 128
    """Width of the encoder's layers. 64 to 256."""
    code_bits: CodeBits = 256
    """K: bits of the code, and width of the embedding; the first 64 or 128 are shorter codes."""
    temperature: PositiveFloat = 8.0
    """Divides inner products of codes, which reach K. K / 32 to K / 8."""
    estimator: Estimator = "guided"
    """How gradients pass the sign: guided by float values at first, straight through (ste), by relaxed draws
    (gumbel), by a tanh that grows steeper (hashnet), or without signs (continuous)."""
    guided_until: Annotated[float, Field(gt=0.0, le=1.0)] = 0.8
    """Share of the steps after which only signs are seen. 0.5 to 1."""
    rank_weight: Annotated[float, Field(ge=0.0)] = 0.5
    """lambda: weight of the ranking loss; 0 leaves it out (HashGNN_nr)."""
    rank_margin: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """alpha: by how much a positive's probability should exceed a negative's."""

    def network(self, shapes: Shapes) -> Network:
        """Items and contexts; codes are the embeddings' signs."""
        types: tuple[NodeType, ...] = ("item", "context")
        hash_layer = (Dense(linear=Linear(name="hash", size=self.code_bits), activation="tanh"),)
        return Network(
            architecture=self.architecture,
            inputs={
                one: Input(source="ids", width=self.hidden_size, count=shapes.num_nodes[one]) for one in types
            },
            layers=tuple(
                tuple(
                    Update(
                        relation=relation,
                        neighbors="edges",
                        pool="sum",
                        combine="average",
                        linear=Linear(
                            name=f"layers.{number}.{relation.split('_')[0]}",
                            size=self.hidden_size,
                            bias=False,
                        ),
                        activation="relu" if number < self.num_layers - 1 else "none",
                    )
                    for relation in _RELATIONS
                )
                for number in range(self.num_layers)
            ),
            outputs={one: Output(head=hash_layer, code="signs") for one in types},
            score=self.score,
        )

    def fit(self) -> Sgd:
        """Cross-entropy and ranking loss on edges, through the sign (sections 3.2 and 3.3)."""
        sign = ThroughSign(self.estimator, self.guided_until, self.rank_weight, self.rank_margin)
        return Sgd(examples="edges", objective="cross_rank", negative_sampling="uniform", sign=sign)
