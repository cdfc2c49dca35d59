"""What every model is: settings, the network they declare, and the way it is fitted. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, NonNegativeFloat, PositiveFloat

from walkbits.network.declaration import Network, Score
from walkbits.settings import NegativeSampling, Objective, Section
from walkbits.types import NodeType


@dataclass(frozen=True)
class Shapes:
    """What a network's sizes depend on.

    Attributes:
        num_nodes: Nodes per type.
        feature_width: Columns of the feature vectors per type; absent where a type has none.
    """

    num_nodes: Mapping[NodeType, int]
    feature_width: Mapping[NodeType, int]


Estimator = Literal["guided", "ste", "bounded", "gumbel", "hashnet", "continuous"]


@dataclass(frozen=True)
class ThroughSign:
    """How a hash layer's values become signs while training (HashGNN, section 3.3).

    The objective scores what stands for the signs. `float_weight` times a softmax of the values themselves
    is added, so that vectors and codes are learned together.

    Attributes:
        estimator: `ste`: signs forward, the identity's gradient back. `guided`: the values themselves with a
            chance that falls from 1 to 0, else signs. `bounded`: signs, whose gradient is that of an error
            function (BiGeaR). `gumbel`: bits drawn from the values, relaxed at a temperature that falls.
            `hashnet`: a tanh that grows steeper. `continuous`: the values alone, of which signs are taken
            after training (HashGNN_sp).
        guided_until: Share of the steps after which the chance is 0.
        rank_weight: lambda, the weight of the ranking loss in `cross_rank`.
        rank_margin: alpha of the ranking loss.
        temperature: Divides the cosine of signs.
        float_weight: Of the softmax of the values; 0 leaves it out.
    """

    estimator: Estimator
    guided_until: float = 1.0
    rank_weight: float = 0.0
    rank_margin: float = 0.0
    temperature: float = 1.0
    float_weight: float = 0.0


@dataclass(frozen=True)
class Sgd:
    """Gradient steps on examples (training.loop).

    Attributes:
        examples: `pairs` of items that share a context, or `edges` (context, item).
        objective: Where `training.objective` names none.
        negative_sampling: Where `training.negative_sampling` names none.
        leave_out: Embed an edge's context from its other items; else the item itself leaks into its query.
        sign: Where embeddings are a hash layer's.
        cosine: Score by the cosine while training, where embeddings are served with their length.
        id_dropout: Chance that a step reads zeros in place of a node's learned row, as for nodes that
            training never saw: what remains of their vectors is learned too.
        whole_graph: Run the layers over all nodes in every step, instead of the nodes below a minibatch.
    """

    examples: Literal["pairs", "edges"]
    objective: Objective
    negative_sampling: NegativeSampling
    leave_out: bool = False
    sign: ThroughSign | None = None
    cosine: bool = False
    id_dropout: float = 0.0
    whole_graph: bool = False


class ModelSettings(Section):
    """Base of all models. A subclass with its `architecture` in this package is a model."""

    architecture: str
    """Which model."""
    embedding_size: Annotated[int, Field(ge=4, le=4096)] = 128
    """d: width of the embedding. 64 to 256."""
    temperature: PositiveFloat = 1.0
    """Divides scores in a softmax. 0.05 to 0.2 for unit vectors."""
    prior: FiniteFloat = 0.0
    """gamma: how much log P(item) a context-to-item score gains. 1 after an in-batch softmax."""
    support: NonNegativeFloat = 0.0
    """kappa: an item of n contexts is related to others by cosine * n / (n + kappa). 5 to 20 for vectors
    learned from interactions, 0 for those of features."""

    def network(self, shapes: Shapes) -> Network:
        """The declaration that trainer and layer engine run.

        Raises:
            InputError: the graph lacks what the model reads.
        """
        raise AssertionError(f"{type(self).__name__} must declare a network")

    def fit(self) -> Sgd:
        """How it is trained."""
        raise AssertionError(f"{type(self).__name__} must say how it is trained")

    @property
    def score(self) -> Score:
        """How its embeddings are compared."""
        return Score(temperature=self.temperature, prior=self.prior, support=self.support)


NO_SHAPES = Shapes({"item": 1, "context": 1}, {"item": 1, "context": 1})
"""Enough to ask which neighborhoods a model reads, before there is a graph."""
