"""HashGNN (Tan et al., WWW 2020): a graph encoder and a hash layer, float and binary learnt together.

    z = unit(W h)           h: the encoder's vector
    code = signs of z

Two encoders: item_pool's, and the paper's, a mean over a node and its neighbors. Not Neo4j's HashGNN, which
hashes without training.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from walkbits.models.base import Estimator, Sgd, Shapes, ThroughSign
from walkbits.models.item_pool import ItemPool
from walkbits.network.declaration import Dense, Input, Linear, Network, Output, Update
from walkbits.settings import CodeBits
from walkbits.types import NodeType, Relation

_RELATIONS: tuple[Relation, ...] = ("item_from_context", "context_from_item")
_TYPES: tuple[NodeType, ...] = ("item", "context")


class HashGnn(ItemPool):
    """Vectors and codes learned together: the codes are the vectors' signs."""

    architecture: Literal["hashgnn"] = "hashgnn"  # type: ignore[assignment]
    """Which model."""
    encoder: Literal["item_pool", "gcn"] = "item_pool"
    """`item_pool`: items with their walk neighbors, contexts made of items. `gcn`: a row per item and context
    and the mean over a node and its neighbors, `num_layers` times (HashGNN, section 3.1)."""
    num_layers: Annotated[int, Field(ge=1, le=4)] = 2
    """Layers of the encoder `gcn`. 1 to 2."""
    code_bits: CodeBits = 256
    """K: bits of the code, and width of the vectors; the first 64 or 128 are shorter codes."""
    hash_layer: bool = True
    """A linear map from `embedding_size` to `code_bits`. Without one the encoder is as wide as the code."""
    code_temperature: PositiveFloat = 0.1
    """Divides the cosine of signs. 0.03 to 0.2."""
    estimator: Estimator = "guided"
    """How gradients pass the sign: guided by float values at first, straight through (ste), with a gradient
    that falls with the value (bounded), by relaxed draws (gumbel), by a tanh that grows steeper (hashnet), or
    without signs (continuous)."""
    guided_until: Annotated[float, Field(gt=0.0, le=10.0)] = 0.8
    """Share of the steps after which only signs are seen. 0.5 to 1; the authors' code ends with values in
    82% of the rows, 5.5."""
    float_weight: NonNegativeFloat = 1.0
    """Weight of the softmax of the vectors themselves, beside that of their signs. 0 to 2."""
    rank_weight: NonNegativeFloat = 0.5
    """lambda: weight of the ranking loss in the objective `cross_rank`; 0 leaves it out (HashGNN_nr)."""
    rank_margin: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """alpha: by how much a positive's probability should exceed a negative's."""

    @model_validator(mode="after")
    def _widths_fit(self) -> HashGnn:
        if not self.hash_layer and self.embedding_size != self.code_bits:
            raise ValueError(
                f"embedding_size must be code_bits {self.code_bits} without a hash layer, "
                f"got {self.embedding_size}"
            )
        return self

    def network(self, shapes: Shapes) -> Network:
        """Items and contexts, of unit length; codes are the embeddings' signs."""
        encoder = self._gcn(shapes) if self.encoder == "gcn" else super().network(shapes)
        head = (
            (Dense(linear=Linear(name="hash", size=self.code_bits, bias=False)),) if self.hash_layer else ()
        )
        return Network(
            architecture=self.architecture,
            inputs=encoder.inputs,
            layers=encoder.layers,
            outputs={one: Output(head=head, normalise=True, code="signs") for one in _TYPES},
            score=self.score,
        )

    def fit(self) -> Sgd:
        """Softmax of the signs and of the values, on edges (sections 3.2 and 3.3)."""
        sign = ThroughSign(
            self.estimator, self.guided_until, self.rank_weight, self.rank_margin, self.code_temperature,
            self.float_weight,
        )  # fmt: skip
        return replace(super().fit(), leave_out=self.encoder == "item_pool", sign=sign)

    def _gcn(self, shapes: Shapes) -> Network:
        layers = tuple(
            tuple(
                Update(
                    relation=relation,
                    neighbors="edges",
                    pool="sum",
                    combine="average",
                    linear=Linear(
                        name=f"layers.{number}.{relation.split('_')[0]}", size=self.embedding_size, bias=False
                    ),
                    activation="relu" if number < self.num_layers - 1 else "none",
                )
                for relation in _RELATIONS
            )
            for number in range(self.num_layers)
        )
        inputs = {
            one: Input(source="ids", width=self.embedding_size, count=shapes.num_nodes[one]) for one in _TYPES
        }
        return Network(
            architecture=self.architecture,
            inputs=inputs,
            layers=layers,
            outputs={one: Output() for one in _TYPES},
        )
