"""Items pooled with their walk neighbors, contexts made of their items: inductive, nearly no arithmetic.

    v_i = e_i + tower(x_i) + weight * sum over j in N(i) of share_ij (e_j + tower(x_j))
    q_c = sum over i in c of degree(i)^-exponent v_i,   without the item that is asked for while training

An item that training never saw gets its tower and its neighbors; a context never had a row of its own,
so new baskets and users need no training. Importance pooling is PinSage's (Ying et al. 2018), the query made
of a history Covington et al.'s (2016), the in-batch softmax Yi et al.'s (2019).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, NonNegativeFloat, PositiveFloat

from walkbits.models.base import ModelSettings, Sgd, Shapes
from walkbits.network.declaration import Dense, Input, Linear, Network, Output, Update


class ItemPool(ModelSettings):
    """Item vectors by walks, context vectors by items."""

    architecture: Literal["item_pool"] = "item_pool"
    """Which model."""
    temperature: PositiveFloat = 0.1
    """Divides the cosine in the softmax. 0.05 to 0.15."""
    prior: FiniteFloat = 1.0
    """gamma: how much log P(item) a context-to-item score gains. 0.5 to 1."""
    support: NonNegativeFloat = 10.0
    """kappa: an item of n contexts is related to others by cosine * n / (n + kappa). 5 to 20; 0 where items
    that no context holds yet are to be related to others by their features."""
    content: bool = False
    """Add a tower over the item's features to its row, so that new items have a vector of their own."""
    id_dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Chance that a step leaves an item's row out, so that features and neighbors learn to do without.
    0; 0.5 where new items are to be found by `content`."""
    pooled_weight: PositiveFloat = 3.0
    """How much the neighbors count against the item itself. 1 to 5."""
    history_exponent: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """A context's items count degree^-exponent. 0.25 to 0.75."""

    def network(self, shapes: Shapes) -> Network:
        """Items and contexts, of unit length."""
        count, width = shapes.num_nodes["item"], self.embedding_size
        ids = Input(source="ids", width=width, count=count)
        if self.content:
            tower = (
                Dense(linear=Linear(name="tower.0", size=2 * width), activation="relu"),
                Dense(linear=Linear(name="tower.1", size=width, bias=False)),
            )
            features = shapes.feature_width["item"]
            ids = Input(source="both", width=width, count=count, features=features, tower=tower)
        near = Update(
            relation="item_from_item", pool="importance", combine="add", pooled_weight=self.pooled_weight
        )
        made = Update(
            relation="context_from_item",
            neighbors="edges",
            pool="sum",
            degree_exponents=(0.0, self.history_exponent),
            combine="pooled",
        )
        return Network(
            architecture=self.architecture,
            inputs={"item": ids},
            layers=((near,), (made,)),
            outputs={"item": Output(normalise=True), "context": Output(normalise=True)},
            score=self.score,
        )

    def fit(self) -> Sgd:
        """In-batch softmax on edges."""
        return Sgd(
            examples="edges", objective="softmax", negative_sampling="in_batch", leave_out=True,
            id_dropout=self.id_dropout,
        )  # fmt: skip
