"""Two towers (Yi et al., RecSys 2019): a query tower over a context's history, an item tower over the item.

The history is the mean of its items' rows and features; each tower is a small network on top.
"""

from __future__ import annotations

from typing import Literal

from pydantic import FiniteFloat, PositiveFloat, PositiveInt

from walkbits.models.base import ModelSettings, Sgd, Shapes
from walkbits.network.declaration import Dense, Input, Linear, Network, Output, Update


class TwoTower(ModelSettings):
    """Queries from histories, items from their rows and, with `content`, their features."""

    architecture: Literal["two_tower"] = "two_tower"
    """Which model."""
    temperature: PositiveFloat = 0.1
    """Divides the cosine in the softmax. 0.05 to 0.15."""
    prior: FiniteFloat = 1.0
    """gamma: how much log P(item) a context-to-item score gains; 0 where `logq_correction` is on."""
    content: bool = False
    """Add a linear map of the item's features to its row."""
    hidden_size: PositiveInt = 256
    """Width between the two dense layers of a tower. 128 to 1,024."""

    def network(self, shapes: Shapes) -> Network:
        """Items and contexts, of unit length."""
        width = self.embedding_size
        item = Input(source="ids", width=width, count=shapes.num_nodes["item"])
        if self.content:
            item = Input(
                source="both",
                width=width,
                count=shapes.num_nodes["item"],
                features=shapes.feature_width["item"],
                tower=(Dense(linear=Linear(name="content", size=width, bias=False)),),
            )
        history = Update(relation="context_from_item", neighbors="edges", pool="mean", combine="pooled")
        return Network(
            architecture=self.architecture,
            inputs={"item": item},
            layers=((history,),),
            outputs={one: Output(head=self._tower(one), normalise=True) for one in ("item", "context")},
            score=self.score,
        )

    def _tower(self, name: str) -> tuple[Dense, ...]:
        return (
            Dense(linear=Linear(name=f"towers.{name}.0", size=self.hidden_size), activation="relu"),
            Dense(linear=Linear(name=f"towers.{name}.1", size=self.embedding_size)),
        )

    def fit(self) -> Sgd:
        """In-batch softmax on edges."""
        return Sgd(examples="edges", objective="softmax", negative_sampling="in_batch", leave_out=True)
