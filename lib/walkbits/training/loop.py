"""Max-margin training of PinSage in one process, on CPU or CUDA (section 3.3).

A producer builds the next minibatch while the consumer computes the current one. The
order of pairs, the negatives and the first weights are keyed draws, and torch runs
deterministic algorithms: the same machine and versions give the same model.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from walkbits import rng, settings
from walkbits.errors import EmptyInputError, InputError, WalkbitsError
from walkbits.models.pinsage import Hop, PinSage, max_margin_loss
from walkbits.network.declaration import Network
from walkbits.training.negatives import HardNegatives
from walkbits.training.subgraphs import Neighborhoods, SubgraphBuilder, below, gather_rows
from walkbits.types import F32, I32, I64

_ORDER_TAG: Final = int.from_bytes(b"order", "big")
_NEGATIVES_TAG: Final = int.from_bytes(b"negative", "big") >> 1


@dataclass(frozen=True)
class Trained:
    """A trained network: what `card.save_model` takes.

    Attributes:
        network: Declaration of inputs, layers and outputs.
        weights: fp32 arrays by tensor name.
        metrics: Figures of the training; equal for equal inputs.
    """

    network: Network
    weights: dict[str, F32]
    metrics: dict[str, float]


@dataclass(frozen=True)
class _Batch:
    features: Tensor
    hops: tuple[Hop, ...]
    query: Tensor
    positive: Tensor
    negative: Tensor
    hard: Tensor
    allowed: Tensor


def train(
    features: F32,
    neighborhoods: Neighborhoods,
    pairs: I32,
    model: settings.Model,
    training: settings.Training,
    seed: int,
    progress: Callable[[str], None],
    hard_negatives: HardNegatives | None = None,
) -> Trained:
    """Train PinSage on pairs of related items.

    Args:
        features: fp32 [num_items, feature_width]; a mapped file will do.
        neighborhoods: item_from_item, of all items.
        pairs: int32 [num_pairs, 2], (query, positive), in a fixed order.
        model: Sizes of the network.
        training: Schedule.
        seed: Seed of first weights, order of pairs and negatives.
        progress: Called with one line per epoch.
        hard_negatives: Of all queries; needed where `training.hard_negatives` is set.

    Returns:
        The network's declaration, its weights, and `loss` of the last epoch, `epochs`, `pairs`;
        with hard negatives `hard_negative_coverage`, the share of queries that have some.

    Raises:
        EmptyInputError: no pairs.
        InputError: arrays that do not belong together.
        WalkbitsError: the loss is no longer finite.
    """
    _check(features, neighborhoods, pairs)
    _check_hard_negatives(hard_negatives, pairs, training.hard_negatives)
    with _deterministic():
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        module = PinSage(features.shape[1], model, seed).to(device)
        optimizer = torch.optim.Adam(module.parameters(), lr=training.learning_rate)
        producer = _Producer(features, neighborhoods, pairs, model, training, seed, hard_negatives)
        started, loss = time.monotonic(), math.nan
        for epoch in range(training.epochs):
            total = 0.0
            for step, batch in enumerate(producer.epoch(epoch, device)):
                optimizer.zero_grad(set_to_none=True)
                z = module(batch.features, batch.hops)  # [targets, embedding_size]
                step_loss = max_margin_loss(
                    z[batch.query], z[batch.positive], z[batch.negative], z[batch.hard], batch.allowed,
                    training.margin,
                )  # fmt: skip
                step_loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                value = step_loss.item()
                if not math.isfinite(value):
                    raise WalkbitsError(
                        f"training loss must stay finite, got {value} in epoch {epoch + 1}, step {step + 1}; "
                        "lower training.learning_rate or look for huge feature values"
                    )
                total += value * len(batch.query)
            loss = total / len(pairs)
            progress(_line(epoch + 1, training.epochs, loss, len(pairs), time.monotonic() - started))
    weights = {name: tensor.detach().cpu().numpy().copy() for name, tensor in module.state_dict().items()}
    metrics = {"loss": loss, "epochs": float(training.epochs), "pairs": float(len(pairs))}
    if hard_negatives is not None:
        metrics["hard_negative_coverage"] = hard_negatives.coverage
    return Trained(module.network, weights, metrics)


class _Producer:
    """Minibatches in keyed order, one ahead of the consumer."""

    def __init__(
        self,
        features: F32,
        neighborhoods: Neighborhoods,
        pairs: I32,
        model: settings.Model,
        training: settings.Training,
        seed: int,
        hard_negatives: HardNegatives | None,
    ) -> None:
        self._features, self._pairs, self._training, self._seed = features, pairs, training, seed
        self._hard_negatives = hard_negatives
        graph = neighborhoods.heaviest(training.train_neighbors)
        self._builder = SubgraphBuilder(graph, model.num_layers, model.pooling)

    def epoch(self, epoch: int, device: torch.device) -> Iterator[_Batch]:
        """All batches of an epoch."""
        keys = rng.draw(self._seed ^ _ORDER_TAG, np.arange(len(self._pairs)), epoch)
        order = np.argsort(keys, kind="stable")
        size = self._training.batch_size
        steps = [order[start : start + size] for start in range(0, len(order), size)]
        with ThreadPoolExecutor(max_workers=1) as ahead:
            pending = ahead.submit(self._batch, epoch, 0, steps[0], device)
            for step in range(1, len(steps) + 1):
                batch = pending.result()
                if step < len(steps):
                    pending = ahead.submit(self._batch, epoch, step, steps[step], device)
                yield batch

    def _batch(self, epoch: int, step: int, chosen: I64, device: torch.device) -> _Batch:
        query, positive = self._pairs[chosen].T  # [pairs], [pairs]
        draws = rng.draw(self._seed ^ _NEGATIVES_TAG, np.arange(self._training.num_negatives), epoch, step)
        negative = below(draws, len(self._features)).astype(np.int32)  # [negatives]
        hard = self._hard(query, chosen, epoch)  # [pairs, hard negatives]
        subgraph, rows = self._builder.build(np.concatenate([query, positive, negative, hard.reshape(-1)]))
        gathered = np.empty((len(subgraph.sources), self._features.shape[1]), np.float32)
        gather_rows(self._features, subgraph.sources, gathered)
        at = torch.from_numpy(rows).to(device)  # [2 * pairs + negatives + pairs * hard negatives]
        n, rest = len(query), 2 * len(query) + len(negative)
        query_at, positive_at, negative_at = at[:n], at[n : 2 * n], at[2 * n : rest]
        hard_at = at[rest:].view(hard.shape)  # [pairs, hard negatives]
        against = torch.cat([negative_at.expand(len(query), -1), hard_at], dim=1)
        return _Batch(
            features=torch.from_numpy(gathered).to(device),
            hops=tuple(
                Hop(*(torch.from_numpy(one) for one in (hop.indptr, hop.neighbors, hop.weights))).to(device)
                for hop in subgraph.hops
            ),
            query=query_at,
            positive=positive_at,
            negative=negative_at,
            hard=hard_at,
            allowed=(against != query_at[:, None]) & (against != positive_at[:, None]),
        )

    def _hard(self, query: I32, chosen: I64, epoch: int) -> I32:
        """Hard negatives of the pairs, one more in each epoch: int32 [pairs, hard negatives]."""
        hard = self._training.hard_negatives
        if hard is None or self._hard_negatives is None:
            return np.empty((len(query), 0), np.int32)
        return self._hard_negatives.choose(query, chosen, epoch, min(epoch, hard.per_pair), self._seed)


@contextmanager
def _deterministic() -> Iterator[None]:
    """Torch's deterministic algorithms for a while, then as before."""
    # cuBLAS is reproducible only with a fixed workspace, read when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    guard: Any = torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), guard.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    # Filling fresh tensors guards reads before writes, which nothing here does; it takes 9% of a step.
    guard.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        guard.fill_uninitialized_memory = before[1]


def _line(epoch: int, epochs: int, loss: float, pairs: int, seconds: float) -> str:
    rate, left = epoch * pairs / seconds, seconds / epoch * (epochs - epoch)
    return f"epoch {epoch}/{epochs} loss={loss:.5f} pairs/s={rate:,.0f} eta={left:.0f}s"


def _check(features: F32, neighborhoods: Neighborhoods, pairs: I32) -> None:
    num_items = len(features)
    if len(pairs) == 0:
        raise EmptyInputError(
            "training needs at least one pair of items that share a context, got none; "
            "raise training.context_fraction or check the edges"
        )
    if features.ndim != 2 or features.dtype != np.float32:
        raise InputError(
            f"features must be float32 [num_items, width], got {features.dtype} {features.shape}"
        )
    if len(neighborhoods.indptr) != num_items + 1:
        raise InputError(
            f"neighborhoods must have a row per item ({num_items}), got {len(neighborhoods.indptr) - 1}; "
            "build both from one graph"
        )
    for name, ids in (("pairs", pairs), ("neighborhoods", neighborhoods.neighbors)):
        if ids.size and (ids.min() < 0 or ids.max() >= num_items):
            raise InputError(f"{name} must hold indices below {num_items}, got {ids.min()} to {ids.max()}")


def _check_hard_negatives(
    found: HardNegatives | None, pairs: I32, wanted: settings.HardNegatives | None
) -> None:
    if wanted is None:
        return
    if found is None or not np.isin(pairs[:, 0], found.queries).all():
        raise InputError(
            "training.hard_negatives needs a row of them for every query, got "
            f"{0 if found is None else len(found.queries)} rows; rank the pairs' own queries"
        )
    if found.items.shape[1] < wanted.per_pair:
        raise InputError(
            f"hard negatives must be at least training.hard_negatives.per_pair {wanted.per_pair} a query, "
            f"got {found.items.shape[1]}; rank with the same settings"
        )
