"""Any declared network in torch: what the layer engine does on plain arrays, with gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from walkbits import rng
from walkbits.network.declaration import TABLE, Activation, Dense, Linear, Network, Output, Update
from walkbits.network.kernels import WeightedSum, transposed
from walkbits.network.subgraphs import Hop, Subgraph
from walkbits.types import F32, NodeType

_WEIGHTS_TAG: Final = int.from_bytes(b"weights", "big")
_TABLE_TAG: Final = int.from_bytes(b"table", "big")

Hops = tuple[Mapping[NodeType, "TorchHop"], ...]


class TorchHop:
    """A hop in a device's memory; on a CPU also by source, for the gradient."""

    def __init__(self, hop: Hop, sources: int, device: torch.device) -> None:
        parts = (torch.from_numpy(one).to(device) for one in (hop.indptr, hop.neighbors, hop.weights))
        self.indptr, self.neighbors, self.weights = parts
        self.arrays = (hop.indptr, hop.neighbors, hop.weights)
        self.back = transposed(*self.arrays, sources) if device.type == "cpu" else None


def hops_of(network: Network, subgraph: Subgraph, device: torch.device) -> Hops:
    """A subgraph's hops in a device's memory."""
    found = []
    for updates, hops, size in zip(network.layers, subgraph.layers, subgraph.sizes, strict=False):
        sources = {one.target: size[one.source] for one in updates}
        found.append({one: TorchHop(hop, sources[one], device) for one, hop in hops.items()})
    return tuple(found)


class Module:
    """Interprets a `Network`.

    Linear maps start uniform in +-sqrt(6 / (inputs + outputs)), drawn by key, biases at zero.

    Attributes:
        weights: Leaf tensors by name: all of the network's but the tables of ids.
    """

    def __init__(self, network: Network, seed: int, device: torch.device) -> None:
        self.network = network
        self.weights: dict[str, Tensor] = {}
        shapes = {name: shape for name, shape in network.tensors().items() if not name.startswith(TABLE)}
        for number, (name, shape) in enumerate(sorted(shapes.items())):
            start = torch.from_numpy(first_weights(shape, seed, number))
            self.weights[name] = start.to(device).requires_grad_()

    def __call__(
        self,
        inputs: Mapping[NodeType, Mapping[str, Tensor]],
        hops: Hops,
        sizes: tuple[Mapping[NodeType, int], ...],
    ) -> dict[NodeType, Tensor]:
        """Embeddings of the last layer's nodes.

        Args:
            inputs: Per node type `features` fp32 [nodes, feature width] and `ids` fp32 [nodes, width], as the
                network's inputs have them.
            hops: Of each layer, by target (`hops_of`).
            sizes: Nodes of each type before and after each layer (`Subgraph.sizes`).

        Returns:
            fp32 [nodes after the last layer, embedding_size] per node type with an output.
        """
        h = {one: self._start(one, parts) for one, parts in inputs.items()}
        history = [h]
        for updates, of_layer, size in zip(self.network.layers, hops, sizes[1:], strict=True):
            after = {one: x[: size[one]] for one, x in h.items()}
            for update in updates:
                after[update.target] = self._update(update, h, of_layer[update.target])
            h = after
            history.append(h)
        outputs = self.network.outputs
        return {
            one: self._finish(
                output, [history[step][one][: sizes[-1][one]] for step in self.network.steps(one)]
            )
            for one, output in outputs.items()
            if sizes[-1][one]
        }

    def _start(self, node_type: NodeType, parts: Mapping[str, Tensor]) -> Tensor:
        declared = self.network.inputs[node_type]
        if declared.source == "features":
            return parts["features"]
        if declared.source == "ids":
            return parts["ids"]
        x = parts["features"]
        for dense in declared.tower:
            x = self._dense(x, dense)  # [nodes, width]
        return parts["ids"] + x

    def _update(self, update: Update, h: Mapping[NodeType, Tensor], hop: TorchHop) -> Tensor:
        projected = self._dense(h[update.source], update.project)  # [sources, hidden]
        if update.combine == "add" and update.source == update.target and update.project.identity:
            x = pool(projected, hop, update, own=1.0, scale=update.pooled_weight)  # [targets, width]
            return self._leave(x, update)
        pooled = pool(projected, hop, update)  # [targets, hidden]
        x = pooled
        if update.combine != "pooled":
            own = h[update.target][: len(hop.indptr) - 1]  # [targets, width]
            if update.combine == "concat":
                x = torch.cat([own, pooled], dim=1)  # [targets, width + hidden]
            elif update.combine == "add":
                x = own + update.pooled_weight * pooled
            else:
                x = (own + pooled) / (1 + hop.indptr.diff())[:, None]
        return self._leave(x, update)

    def _leave(self, x: Tensor, update: Update) -> Tensor:
        x = activate(self._linear(x, update.linear), update.activation)  # [targets, size]
        return F.normalize(x, dim=1) if update.normalise else x

    def _finish(self, output: Output, steps: list[Tensor]) -> Tensor:
        if output.layers == "mean":
            x = torch.stack(steps).mean(dim=0)
        else:
            x = torch.cat(steps, dim=1) if output.layers == "concat" else steps[-1]
        for dense in output.head:
            x = self._dense(x, dense)
        return F.normalize(x, dim=1) if output.normalise else x

    def _dense(self, x: Tensor, dense: Dense) -> Tensor:
        return activate(self._linear(x, dense.linear), dense.activation)

    def _linear(self, x: Tensor, linear: Linear | None) -> Tensor:
        if linear is None:
            return x
        return F.linear(
            x,
            self.weights[f"{linear.name}.weight"],
            self.weights[f"{linear.name}.bias"] if linear.bias else None,
        )


def activate(x: Tensor, activation: Activation) -> Tensor:
    """The activation of every coordinate."""
    if activation == "relu":
        return F.relu(x)
    return torch.tanh(x) if activation == "tanh" else x


def pool(x: Tensor, hop: TorchHop, update: Update, own: float = 0.0, scale: float = 1.0) -> Tensor:
    """Sum by the hop's weights, or the maximum, over each neighborhood; zeros where it is empty.

    Of sums `own` times the target's row and `scale` times the sum.

    fp32 [sources, hidden] -> fp32 [targets, hidden].
    """
    if update.pool != "max":
        if hop.back is not None:
            return WeightedSum.apply(x, hop.arrays, hop.back, own, scale)  # type: ignore[no-any-return]
        sums = F.embedding_bag(
            hop.neighbors, x, hop.indptr, mode="sum", per_sample_weights=hop.weights, include_last_offset=True
        )
        return own * x[: len(sums)] + scale * sums if own else scale * sums
    sizes = hop.indptr.diff()  # [targets]
    no_row = len(x)
    padded = x.new_full((len(sizes), max(int(sizes.max()), 1)), no_row, dtype=torch.int64)
    slot = torch.arange(padded.shape[1], device=padded.device)
    padded[slot < sizes[:, None]] = hop.neighbors  # [targets, largest neighborhood]
    low = x.new_full((1, x.shape[1]), 0.0 if update.project.activation == "relu" else -torch.inf)
    pooled = torch.cat([x, low])[padded].amax(dim=1)
    return pooled if update.project.activation == "relu" else torch.where(sizes[:, None] > 0, pooled, 0.0)


def first_weights(shape: tuple[int, ...], seed: int, number: int) -> F32:
    """Glorot's uniform start for a matrix, zeros for a bias; draws keyed by (parameter, row, column)."""
    if len(shape) == 1:
        return np.zeros(shape, np.float32)
    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])
    u = rng.uniform(rng.draw(seed ^ _WEIGHTS_TAG, number, rows, columns))  # [outputs, inputs]
    return np.asarray((2 * u - 1) * np.sqrt(6 / (shape[0] + shape[1])), dtype=np.float32)


def first_rows(keys: np.ndarray[tuple[int], np.dtype[np.int64]], width: int, seed: int) -> F32:
    """Xavier's uniform start for a table of ids, +-sqrt(6 / (nodes + width)), drawn by (node key, column)."""
    rows = np.empty((len(keys), width), np.float32)
    bound = np.sqrt(6 / (len(keys) + width))
    columns = np.arange(width)
    for low in range(0, len(keys), _ROWS_AT_ONCE):
        u = rng.uniform(rng.draw(seed ^ _TABLE_TAG, keys[low : low + _ROWS_AT_ONCE, None], columns))
        rows[low : low + _ROWS_AT_ONCE] = (2 * u - 1) * bound
    return rows


_ROWS_AT_ONCE: Final = 1 << 14
"""Rows whose draws are in memory together."""
