"""PinSage (Ying et al., KDD 2018): convolutions over importance neighborhoods of items."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from walkbits.models.base import ModelSettings, Sgd, Shapes
from walkbits.network.declaration import Dense, Input, Linear, Network, Output, Update


class PinSage(ModelSettings):
    """K convolutions (algorithm 1) and two dense layers: z_u = G2 ReLU(G1 h_u^K + g) (algorithm 2).

    PinSage's own sizes are hidden 2048, embedding 1024. Items are embedded, from their features alone.
    """

    architecture: Literal["pinsage"] = "pinsage"
    """Which model."""
    pooling: Literal["importance", "mean", "max"] = "importance"
    """How a neighborhood becomes one vector."""
    num_layers: Annotated[int, Field(ge=0, le=8)] = 2
    """Convolutions stacked. 1 to 3; 0 leaves the dense layers on the item's own features."""
    hidden_size: Annotated[int, Field(ge=4, le=8192)] = 128
    """m: width of the projection that is pooled."""

    def network(self, shapes: Shapes) -> Network:
        """`z_u` per item, of unit length."""
        layers = tuple(
            (
                Update(
                    relation="item_from_item",
                    project=Dense(
                        linear=Linear(name=f"layers.{number}.project", size=self.hidden_size),
                        activation="relu",
                    ),
                    pool=self.pooling,
                    combine="concat",
                    linear=Linear(name=f"layers.{number}.combine", size=self.embedding_size),
                    activation="relu",
                    normalise=True,
                ),
            )
            for number in range(self.num_layers)
        )
        head = (
            Dense(linear=Linear(name="head.0", size=self.embedding_size), activation="relu"),
            Dense(linear=Linear(name="head.1", size=self.embedding_size, bias=False)),
        )
        return Network(
            architecture=self.architecture,
            inputs={"item": Input(source="features", width=shapes.feature_width["item"])},
            layers=layers,
            outputs={"item": Output(head=head, normalise=True)},
            score=self.score,
        )

    def fit(self) -> Sgd:
        """Max-margin on pairs of items that share a context, against shared negatives (section 3.3)."""
        return Sgd(examples="pairs", objective="max_margin", negative_sampling="uniform")
