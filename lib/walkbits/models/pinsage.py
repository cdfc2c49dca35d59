"""PinSage (Ying et al., KDD 2018): convolutions over importance neighborhoods, and their loss.

The module computes embeddings of a minibatch's items from its re-indexed subgraph. The
layer engine runs the same weights over the whole graph from `PinSage.network`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from walkbits import rng, settings
from walkbits.network.declaration import Dense, Input, Linear, Network, Output, Update
from walkbits.types import F32

_WEIGHTS_TAG = int.from_bytes(b"weights", "big")


@dataclass(frozen=True)
class Hop:
    """Neighborhoods of one layer of a minibatch, re-indexed.

    The targets are the first rows of the sources, so that h_u needs no second gather.

    Attributes:
        indptr: int64 [targets + 1], from 0.
        neighbors: int64 [indptr[-1]], rows of the sources.
        weights: fp32 [indptr[-1]], from `arithmetic.pool_weights`.
    """

    indptr: Tensor
    neighbors: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> Hop:
        """The same hop in a device's memory."""
        return Hop(self.indptr.to(device), self.neighbors.to(device), self.weights.to(device))


class Convolve(nn.Module):
    r"""One convolution (algorithm 1).

    .. math::
        n_u = \gamma(\{ReLU(Q h_v + q) : v \in N(u)\}), \quad
        z_u = ReLU(W [h_u ; n_u] + w), \quad z_u / ||z_u||_2

    where gamma is the mean weighted by visits, the plain mean, or the maximum. An empty
    neighborhood pools to zeros, and a zero z_u stays zero.

    Shapes:
        input fp32 [sources, input_width] -> output fp32 [targets, output_size]
    """

    def __init__(self, input_width: int, hidden_size: int, output_size: int, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        self.project = nn.Linear(input_width, hidden_size)
        self.combine = nn.Linear(input_width + hidden_size, output_size)

    def forward(self, h: Tensor, hop: Hop) -> Tensor:
        """Representations of the hop's targets from those of its sources."""
        projected = F.relu(self.project(h))  # [sources, hidden_size]
        pooled = _pool(projected, hop, self.pooling)  # [targets, hidden_size]
        own = h[: len(hop.indptr) - 1]  # [targets, input_width]
        z = F.relu(self.combine(torch.cat([own, pooled], dim=1)))  # [targets, output_size]
        return F.normalize(z, dim=1)

    def extra_repr(self) -> str:
        """The pooling, in the module's printed form."""
        return f"pooling={self.pooling}"


def _pool(projected: Tensor, hop: Hop, pooling: str) -> Tensor:
    if pooling != "max":
        return F.embedding_bag(
            hop.neighbors,
            projected,
            hop.indptr,
            mode="sum",
            per_sample_weights=hop.weights,
            include_last_offset=True,
        )
    sizes = hop.indptr.diff()  # [targets]
    zero_row = len(projected)
    padded = projected.new_full((len(sizes), max(int(sizes.max()), 1)), zero_row, dtype=torch.int64)
    slot = torch.arange(padded.shape[1], device=padded.device)
    padded[slot < sizes[:, None]] = hop.neighbors  # [targets, largest neighborhood]
    # ReLU leaves nothing below zero, so a row of zeros never wins and stands for "no neighbor".
    rows = torch.cat([projected, projected.new_zeros(1, projected.shape[1])])
    return rows[padded].amax(dim=1)


class PinSage(nn.Module):
    r"""K convolutions and two dense layers: :math:`z_u = G_2 ReLU(G_1 h_u^K + g)` (algorithm 2).

    Weights start uniform in +-sqrt(6 / (inputs + outputs)), drawn by key; biases at zero.

    Shapes:
        features fp32 [sources of the first hop, input_width] -> fp32 [targets, embedding_size]
    """

    def __init__(self, input_width: int, model: settings.Model, seed: int) -> None:
        super().__init__()
        d = model.embedding_size
        widths = [input_width] + [d] * (model.num_layers - 1)
        self.layers = nn.ModuleList(Convolve(width, model.hidden_size, d, model.pooling) for width in widths)
        self.head = nn.ModuleList([nn.Linear(d, d), nn.Linear(d, d, bias=False)])
        self.network = _network(input_width, model)
        for number, (_, parameter) in enumerate(sorted(self.named_parameters())):
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(_start(tuple(parameter.shape), seed, number)))

    def forward(self, features: Tensor, hops: Sequence[Hop]) -> Tensor:
        """Embeddings of the last hop's targets, in their order."""
        h = features
        for layer, hop in zip(self.layers, hops, strict=True):
            h = layer(h, hop)
        first, second = self.head
        return F.normalize(second(F.relu(first(h))), dim=1)  # [targets, embedding_size]


def max_margin_loss(
    query: Tensor, positive: Tensor, negative: Tensor, hard: Tensor, allowed: Tensor, margin: float
) -> Tensor:
    r"""Mean over pairs and negatives of :math:`\max(0, z_q z_n - z_q z_i + \Delta)` (section 3.3).

    Args:
        query: fp32 [pairs, embedding_size].
        positive: fp32 [pairs, embedding_size].
        negative: fp32 [negatives, embedding_size], shared by all pairs.
        hard: fp32 [pairs, hard negatives, embedding_size], each pair's own.
        allowed: bool [pairs, negatives + hard negatives], in this order; False where the negative is the
            query or its positive.
        margin: Delta.

    Returns:
        fp32 scalar.
    """
    wanted = (query * positive).sum(dim=1, keepdim=True)  # [pairs, 1]
    own = torch.einsum("pd,phd->ph", query, hard)  # [pairs, hard negatives]
    scores = torch.cat([query @ negative.T, own], dim=1)  # [pairs, negatives + hard negatives]
    losses = F.relu(scores - wanted + margin)
    return (losses * allowed).sum() / allowed.sum().clamp(min=1)


def _network(input_width: int, model: settings.Model) -> Network:
    d = model.embedding_size
    layers = tuple(
        (
            Update(
                relation="item_from_item",
                project=Dense(
                    linear=Linear(name=f"layers.{number}.project", size=model.hidden_size), activation="relu"
                ),
                pool=model.pooling,
                combine="concat",
                linear=Linear(name=f"layers.{number}.combine", size=d),
                activation="relu",
                normalise=True,
            ),
        )
        for number in range(model.num_layers)
    )
    head = (
        Dense(linear=Linear(name="head.0", size=d), activation="relu"),
        Dense(linear=Linear(name="head.1", size=d, bias=False)),
    )
    return Network(
        architecture="pinsage",
        inputs={"item": Input(source="features", width=input_width)},
        layers=layers,
        outputs={"item": Output(head=head, normalise=True)},
    )


def _start(shape: tuple[int, ...], seed: int, number: int) -> F32:
    """Glorot's uniform start for a matrix, zeros for a bias; draws keyed by (parameter, row, column)."""
    if len(shape) == 1:
        return np.zeros(shape, np.float32)
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])
    u = rng.uniform(rng.draw(seed ^ _WEIGHTS_TAG, number, rows, columns))  # [outputs, inputs]
    return np.asarray((2 * u - 1) * np.sqrt(6 / (shape[0] + shape[1])), dtype=np.float32)
