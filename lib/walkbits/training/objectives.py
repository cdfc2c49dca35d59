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

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from walkbits import rng
from walkbits.models.base import Sgd, ThroughSign
from walkbits.network.kernels import SharedSoftmax
from walkbits.settings import Objective, Training

_GUIDE_TAG: Final = int.from_bytes(b"guide", "big")
_TINY: Final = 1e-12
_SPREAD: Final = (math.pi / 2) ** 0.5
"""Makes the slope of erf(u / sqrt 2) 1 at 0."""


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


def positive_rank(batch: Embedded) -> float:
    """Mean rank of the positive among its allowed candidates: 1 where it scores above them all."""
    scores = scores_of(batch)
    above = (scores.negative >= scores.positive) & batch.allowed  # [examples, candidates + own]
    return 1 + float(above.sum(dim=1).double().mean())


def own_rank(batch: Embedded) -> float | None:
    """Mean rank of the examples' own candidates among the shared ones: 1 is harder than them all.

    None without any.
    """
    scores, count = scores_of(batch).negative, len(batch.shared)
    shared, own = scores[:, :count], scores[:, count:]
    ranks = [1 + ((shared > one[:, None]) & batch.allowed[:, :count]).sum(dim=1) for one in own.T]
    allowed = batch.allowed[:, count:]
    return float(torch.stack(ranks, dim=1)[allowed].double().mean()) if allowed.any() else None


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
    if correction != "corrected" and not batch.own.shape[1] and batch.query.device.type == "cpu":
        wanted = (batch.query * batch.positive).sum(dim=1)  # [examples]
        query, shared = batch.query, batch.shared
        if correction == "standard":  # one more coordinate
            assert batch.log_q is not None
            assert batch.positive_log_q is not None
            wanted = wanted - temperature * batch.positive_log_q
            query = torch.cat([query, torch.ones(len(query), 1)], dim=1)
            shared = torch.cat([shared, -temperature * batch.log_q[:, None]], dim=1)
        return cast(Tensor, SharedSoftmax.apply(query, shared, wanted, batch.allowed, temperature))
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


def cross_rank(batch: Embedded, temperature: float, weight: float, margin: float) -> Tensor:
    r"""HashGNN's :math:`L_{cross} + \lambda L_{rank}` (equations 5 to 7).

    The probability of an edge is :math:`p = \sigma(z_q z_i / t)`.

    L_rank is the mean of :math:`\max(0, p_{negative} - p_{positive} + \alpha)`.
    """
    scores = scores_of(batch)
    positive, negative = scores.positive / temperature, scores.negative / temperature
    cross = F.softplus(-positive).mean() + _mean(F.softplus(negative), batch.allowed)
    rank = F.relu(torch.sigmoid(negative) - torch.sigmoid(positive) + margin)
    return cross + weight * _mean(rank, batch.allowed)


def through_sign(batch: Embedded, sign: ThroughSign, progress: float, seed: int, step: int) -> Embedded:
    """The minibatch with a hash layer's unit vectors replaced by signs, or by what stands for them.

    Signs are +-1 / sqrt(K), so that they have length 1 too; u = sqrt(K) z are the values of unit mean square.

    guided, ste: signs, whose gradient is the identity's. With `guided` a row keeps its values with a chance
        that falls linearly from 1 to 0; a query and its positive share the draw.
    bounded: signs, whose gradient is exp(-u^2 / 2) (BiGeaR, Chen et al., KDD 2022).
    gumbel: tanh((u + g) / t), g half a logistic draw, t falling from 1 to 1/10 (Jang et al. 2017).
    hashnet: tanh(b u), b growing from 1 to 10 (Cao et al., ICCV 2017).

    Draws are keyed by the step and the row's place.
    """
    if sign.estimator == "continuous":
        return batch
    steep, root = 10.0**progress, batch.query.shape[-1] ** 0.5
    chance = max(0.0, 1 - progress / sign.guided_until) if sign.estimator == "guided" else 0.0

    def relaxed(x: Tensor, which: int) -> Tensor:
        logit = root * x
        if sign.estimator == "gumbel":
            u = rng.uniform(rng.draw(seed ^ _GUIDE_TAG, np.arange(x.numel()), step, which))
            noise = (np.log(u + _TINY) - np.log1p(_TINY - u)) / 2
            logit = logit + torch.from_numpy(noise.astype(np.float32)).to(x.device).view(x.shape)
        found: Tensor = torch.tanh(steep * logit) / root
        return found

    def mixed(x: Tensor, which: int) -> Tensor:
        if sign.estimator in ("gumbel", "hashnet"):
            return relaxed(x, which)
        signs: Tensor = torch.where(x > 0, 1.0, -1.0) / root
        if sign.estimator == "bounded":
            soft = _SPREAD * torch.erf(root / 2**0.5 * x) / root
            signs = soft + (signs - soft).detach()
            return signs
        if not chance:
            return x + (signs - x).detach()
        rows = x.shape[0] if x.dim() == 2 else x.shape[0] * x.shape[1]
        drawn = rng.uniform(rng.draw(seed ^ _GUIDE_TAG, np.arange(rows), step, which))
        keep = torch.from_numpy(drawn < chance).to(x.device).view(*x.shape[:-1], 1)
        return x + torch.where(keep, 0.0, signs - x).detach()

    return replace(
        batch,
        query=mixed(batch.query, 0),
        positive=mixed(batch.positive, 0),
        shared=mixed(batch.shared, 1),
        own=mixed(batch.own, 2),
    )


def _mean(losses: Tensor, allowed: Tensor) -> Tensor:
    return (losses * allowed).sum() / allowed.sum().clamp(min=1)


Loss = Callable[[Embedded, float, int], Tensor]
"""Embeddings, progress (0 at the first step to 1 at the last) and the step's number, to a scalar."""


def loss_of(fit: Sgd, training: Training, temperature: float, seed: int) -> Loss:
    """The objective of a model, or of its training settings, with what it needs."""
    sign, correction = fit.sign, training.logq_correction
    if sign is None:
        loss = _losses(training, temperature, correction, ThroughSign("continuous"))
        return lambda batch, progress, step: loss[training.objective or fit.objective](batch)
    of_signs = _losses(training, sign.temperature, correction, sign)
    objective = of_signs[training.objective or fit.objective]

    def both(batch: Embedded, progress: float, step: int) -> Tensor:
        total = objective(through_sign(batch, sign, progress, seed, step))
        if sign.float_weight:
            total = total + sign.float_weight * softmax(batch, temperature, correction)
        return total

    return both


def _losses(
    training: Training, temperature: float, correction: str, sign: ThroughSign
) -> dict[Objective, Callable[[Embedded], Tensor]]:
    return {
        "max_margin": lambda batch: max_margin(batch, training.margin),
        "softmax": lambda batch: softmax(batch, temperature, correction),
        "cross_entropy": lambda batch: cross_entropy(batch, temperature),
        "bpr": bpr,
        "cross_rank": lambda batch: cross_rank(batch, temperature, sign.rank_weight, sign.rank_margin),
    }
