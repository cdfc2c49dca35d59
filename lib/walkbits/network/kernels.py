"""Pooling and softmax with gradients of our own: fewer passes over memory than torch's operators on a CPU.

Both are held to torch's in tests. On CUDA torch's own are used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from walkbits.types import F32, I64


def transposed(indptr: I64, neighbors: I64, weights: F32, sources: int) -> tuple[I64, I64, F32]:
    """A hop by source: which targets reference it, with which weight, in the targets' order.

    Args:
        indptr: int64 [targets + 1], from 0.
        neighbors: int64 [indptr[-1]], below `sources`.
        weights: fp32 [indptr[-1]].

    Returns:
        indptr int64 [sources + 1], targets int64, weights fp32.
    """
    back = np.zeros(sources + 1, np.int64)
    targets, moved = np.empty(len(neighbors), np.int64), np.empty(len(neighbors), np.float32)
    _transpose(indptr, neighbors, weights, back, targets, moved)
    return back, targets, moved


@njit(nogil=True, cache=True)
def _transpose(indptr: Any, neighbors: Any, weights: Any, back: Any, targets: Any, moved: Any) -> None:
    for e in range(len(neighbors)):
        back[neighbors[e] + 1] += 1
    for v in range(len(back) - 1):
        back[v + 1] += back[v]
    for u in range(len(indptr) - 1):
        for e in range(indptr[u], indptr[u + 1]):
            v = neighbors[e]
            targets[back[v]] = u
            moved[back[v]] = weights[e]
            back[v] += 1
    for v in range(len(back) - 1, 0, -1):
        back[v] = back[v - 1]
    back[0] = 0


@njit(nogil=True, cache=True, parallel=True)
def _weighted_sums(x: Any, indptr: Any, rows: Any, weights: Any, own: Any, scale: Any, out: Any) -> None:
    for u in prange(len(indptr) - 1):
        for k in range(x.shape[1]):
            out[u, k] = np.float32(0)
        for e in range(indptr[u], indptr[u + 1]):
            w, v = scale * weights[e], rows[e]
            for k in range(x.shape[1]):
                out[u, k] += w * x[v, k]
        if own != 0 and u < len(x):
            for k in range(x.shape[1]):
                out[u, k] += own * x[u, k]


class WeightedSum(torch.autograd.Function):
    """`out[u] = own * x[u] + scale * sum over a hop's neighbors of weight * x[neighbor]`.

    The targets of a hop are the first of its sources, so a layer of sums is one pass; its gradient is the
    same sum by source.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, forth: tuple[I64, I64, F32], back: tuple[I64, I64, F32], own: float, scale: float
    ) -> Tensor:
        """fp32 [sources, hidden] -> fp32 [targets, hidden]."""
        ctx.back, ctx.own, ctx.scale = back, own, scale
        return _summed(x, forth, own, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        """fp32 [targets, hidden] -> fp32 [sources, hidden]."""
        return _summed(gradients[0].contiguous(), ctx.back, ctx.own, ctx.scale), None, None, None, None


def _summed(x: Tensor, hop: tuple[I64, I64, F32], own: float, scale: float) -> Tensor:
    out = torch.empty(len(hop[0]) - 1, x.shape[1])
    _weighted_sums(x.detach().numpy(), *hop, np.float32(own), np.float32(scale), out.numpy())
    return out


class SharedSoftmax(torch.autograd.Function):
    """Mean cross-entropy of positives among themselves and shared candidates.

        loss = mean over i of log(exp(p_i / t) + sum over allowed j of exp(<q_i, k_j> / t)) - p_i / t

    The scores are written once and become the gradient in place.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, shared: Tensor, positive: Tensor, allowed: Tensor, temperature: float
    ) -> Tensor:
        """Query fp32 [n, d], shared fp32 [c, d], positive fp32 [n], allowed bool [n, c] -> scalar."""
        scores = (query * (1 / temperature)) @ shared.T  # [n, c]
        scores.masked_fill_(~allowed, -torch.inf)
        wanted = positive / temperature  # [n]
        top = torch.maximum(scores.amax(dim=1), wanted) if scores.shape[1] else wanted  # [n]
        share = scores.sub_(top[:, None]).exp_()  # [n, c]
        own = torch.exp(wanted - top)  # [n]
        total = share.sum(dim=1) + own  # [n]
        share.mul_(1 / total[:, None])
        ctx.save_for_backward(query, shared, share, own / total - 1)
        ctx.scale = 1 / (temperature * len(query))
        return (total.log() + top - wanted).mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Gradients of query, shared and positive."""
        query, shared, share, missed = ctx.saved_tensors
        scale = gradients[0] * ctx.scale
        return (share @ shared) * scale, (share.T @ query) * scale, missed * scale, None, None
