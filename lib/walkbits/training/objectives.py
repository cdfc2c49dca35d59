"""Losses: what positives should score against candidates. One function each.

An objective receives the embeddings of a minibatch:

    query     fp32 [examples, d]
    positive  fp32 [examples, d]
    shared    fp32 [candidates, d]                  candidates of all examples
    own       fp32 [examples, own candidates, d]    each example's own, e.g. hard negatives
    allowed   bool [examples, candidates + own candidates]   False where a candidate is no negative
    log_q     fp32 [candidates + own candidates] or None    log of a candidate's chance to be drawn
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from walkbits.settings import Objective, Training
from walkbits.training.kernels import SharedSoftmax


@dataclass(frozen=True)
class Embedded:
    """The embeddings of a minibatch; see the module."""

    query: Tensor
    positive: Tensor
    shared: Tensor
    own: Tensor
    allowed: Tensor
    log_q: Tensor | None = None
    positive_log_q: Tensor | None = None


@dataclass(frozen=True)
class Scores:
    """Inner products: `positive` [examples, 1] and `negative` [examples, candidates + own]."""

    positive: Tensor
    negative: Tensor


def scores_of(batch: Embedded) -> Scores:
    """Inner products of each query with its positive and with every candidate."""
    wanted = (batch.query * batch.positive).sum(dim=1, keepdim=True)  # [examples, 1]
    own = torch.einsum("pd,phd->ph", batch.query, batch.own)  # [examples, own]
    return Scores(wanted, torch.cat([batch.query @ batch.shared.T, own], dim=1))


def max_margin(batch: Embedded, margin: float) -> Tensor:
    r"""Mean over examples and negatives of :math:`\max(0, z_q z_n - z_q z_i + \Delta)` (PinSage, 3.3)."""
    scores = scores_of(batch)
    losses = F.relu(scores.negative - scores.positive + margin)
    return _mean(losses, batch.allowed)


def bpr(batch: Embedded) -> Tensor:
    r"""Mean of :math:`-\log \sigma(z_q z_i - z_q z_n)` (Rendle et al. 2009)."""
    scores = scores_of(batch)
    return _mean(F.softplus(scores.negative - scores.positive), batch.allowed)


def cross_entropy(batch: Embedded, temperature: float) -> Tensor:
    r"""Means of :math:`-\log \sigma(z_q z_i / t)` and :math:`-\log \sigma(-z_q z_n / t)` (PinSage's xent)."""
    scores = scores_of(batch)
    negative = _mean(F.softplus(scores.negative / temperature), batch.allowed)
    return F.softplus(-scores.positive / temperature).mean() + negative


def softmax(batch: Embedded, temperature: float, correction: str = "none") -> Tensor:
    """Cross-entropy of the positive among itself and the allowed candidates (Yi et al. 2019).

    Args:
        correction: `standard` subtracts log_q from every score; `corrected` from the candidates' alone and
            weighs each example by its chance to be wrong, without gradient (Khrylchenko et al. 2025).
    """
    if correction == "none" and not batch.own.shape[1] and batch.query.device.type == "cpu":
        wanted = (batch.query * batch.positive).sum(dim=1)  # [examples]
        found = SharedSoftmax.apply(batch.query, batch.shared, wanted, batch.allowed, temperature)
        return cast(Tensor, found)
    scores = scores_of(batch)
    positive, negative = scores.positive / temperature, scores.negative / temperature
    if correction != "none":
        assert batch.log_q is not None
        assert batch.positive_log_q is not None
        negative = negative - batch.log_q
        if correction == "standard":
            positive = positive - batch.positive_log_q[:, None]
    negative = negative.masked_fill(~batch.allowed, -torch.inf)
    if correction != "corrected":
        return (torch.logsumexp(torch.cat([positive, negative], dim=1), dim=1) - positive[:, 0]).mean()
    against = torch.logsumexp(negative, dim=1)
    count = batch.allowed.sum(dim=1).clamp(min=1).log()
    wrong = torch.sigmoid(against.detach() - count - positive[:, 0].detach())
    return (wrong * (against - positive[:, 0])).mean()


def _mean(losses: Tensor, allowed: Tensor) -> Tensor:
    return (losses * allowed).sum() / allowed.sum().clamp(min=1)


Loss = Callable[[Embedded, float], Tensor]
"""Embeddings and progress, 0 at the first step to 1 at the last, to a scalar."""


def loss_of(objective: Objective, training: Training, temperature: float) -> Loss:
    """The objective with its settings."""
    makers: Final[dict[Objective, Loss]] = {
        "max_margin": lambda batch, _: max_margin(batch, training.margin),
        "softmax": lambda batch, _: softmax(batch, temperature, training.logq_correction),
        "cross_entropy": lambda batch, _: cross_entropy(batch, temperature),
        "bpr": lambda batch, _: bpr(batch),
        "cross_rank": lambda batch, _: cross_entropy(batch, temperature),
    }
    return makers[objective]
