"""Training of any declared network by gradient steps, in one process, on CPU or CUDA.

A producer builds the next minibatch while the consumer computes the current one. The
order of examples, the negatives and the first weights are keyed draws, and torch runs
deterministic algorithms: the same machine and versions give the same model.
"""

from __future__ import annotations

import ctypes
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from walkbits.errors import EmptyInputError, InputError, WalkbitsError
from walkbits.models.base import ModelSettings, Sgd, Shapes
from walkbits.network.declaration import TABLE, Network
from walkbits.settings import HardNegatives as HardNegativeSettings
from walkbits.settings import Training
from walkbits.training.examples import Examples
from walkbits.training.feeders import Batch, Feeder, TrainingData
from walkbits.training.module import Module, first_rows
from walkbits.training.negatives import HardNegatives
from walkbits.training.objectives import Embedded, loss_of
from walkbits.training.tables import Table
from walkbits.types import F32, I64, NodeType

_LEARNS_FROM: Final = 100
"""Items below which a graph without a single example is tiny, and not a column taken for another."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


@dataclass(frozen=True)
class Trained:
    """A trained network: what `card.save_model` takes.

    Attributes:
        network: Declaration of inputs, layers and outputs.
        weights: fp32 arrays by tensor name.
        metrics: Figures of the training; equal for equal inputs.
        keys: int64 [rows] per node type with a table of ids: `node_key` of each row.
    """

    network: Network
    weights: dict[str, F32]
    metrics: dict[str, float]
    keys: Mapping[NodeType, I64] = field(default_factory=dict)


def train(
    model: ModelSettings, training: Training, data: TrainingData, seed: int, progress: Callable[[str], None]
) -> Trained:
    """Train a model.

    Args:
        model: Settings; they declare the network and how it is fitted.
        training: Examples, negatives, steps.
        data: What it is trained on.
        seed: Seed of first weights, order of examples and negatives.
        progress: Called with one line per epoch.

    Returns:
        The network's declaration, its weights, and `loss` of the last epoch, `epochs`, `examples`;
        a tiny graph without examples, as of items that share no context, keeps the first weights;
        with hard negatives `hard_negative_coverage`, the share of queries that have some.

    Raises:
        EmptyInputError: no examples in a graph of many items.
        InputError: arrays that do not belong together.
        WalkbitsError: the loss is no longer finite.
    """
    widths: dict[NodeType, int] = {one: x.shape[1] for one, x in data.features.items()}
    network, fit = model.network(Shapes(data.num_nodes, widths)), model.fit()
    _check(network, data, fit)
    _check_hard_negatives(data.hard_negatives, data.examples, training.hard_negatives)
    count = len(data.examples.query)
    _keep_memory()
    with _deterministic():
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        learner = Learner(network, fit, training, data, seed, device)
        started, loss = time.monotonic(), math.nan
        if not count:
            progress(f"no {fit.examples} to train on: the first weights are kept")
        for epoch in range(training.epochs if count else 0):
            total = 0.0
            for step, batch in enumerate(learner.feeder.epoch(epoch)):
                value = learner.step(batch, epoch, step)
                if not math.isfinite(value):
                    raise WalkbitsError(
                        f"training loss must stay finite, got {value} in epoch {epoch + 1}, step {step + 1}; "
                        "lower training.learning_rate or look for huge feature values"
                    )
                total += value * batch.size
            loss = total / count
            progress(_line(epoch + 1, training.epochs, loss, count, time.monotonic() - started))
    metrics = {"loss": loss, "epochs": float(training.epochs)} if count else {}
    metrics["examples"] = float(count)
    if data.hard_negatives is not None:
        metrics["hard_negative_coverage"] = data.hard_negatives.coverage
    keys = {one: data.keys[one] for one in learner.tables}
    return Trained(network, learner.weights(), metrics, keys)


class Learner:
    """A network's weights and what changes them."""

    def __init__(
        self,
        network: Network,
        fit: Sgd,
        training: Training,
        data: TrainingData,
        seed: int,
        device: torch.device,
    ) -> None:
        self._training, self._fit, self._device = training, fit, device
        self.module = Module(network, seed, device)
        self.tables: dict[NodeType, Table] = {
            one: Table(first_rows(data.keys[one], declared.width, seed))
            for one, declared in network.inputs.items()
            if declared.count is not None
        }
        self.feeder = Feeder(network, data, fit, training, seed, device)
        self._loss = loss_of(fit, training, network.score.temperature, seed)
        parameters = [*self.module.weights.values()]
        self._optimizer = torch.optim.Adam(parameters, lr=training.learning_rate) if parameters else None

    def step(self, batch: Batch, epoch: int, step: int) -> float:
        """One gradient step; the minibatch's loss before it."""
        rate = self._rate(epoch, step)
        inputs: dict[NodeType, dict[str, Tensor]] = {
            one: ({"features": batch.features[one]} if one in batch.features else {}) for one in batch.nodes
        }
        for one, table in self.tables.items():
            inputs[one]["ids"] = table.read(batch.nodes[one], self._device)
        z = self.module(inputs, batch.hops, batch.sizes)
        if self._fit.cosine:
            z = {one: F.normalize(x, dim=1) for one, x in z.items()}
        query, items = z[self.feeder.query_type], z["item"]
        embedded = Embedded(
            query[batch.query], items[batch.positive], items[batch.shared], items[batch.own],
            batch.allowed, batch.log_q, batch.positive_log_q,
        )  # fmt: skip
        done = epoch * self.feeder.steps() + step
        loss = self._loss(embedded, done / (self._training.epochs * self.feeder.steps()), done)
        if self._optimizer is not None:
            self._optimizer.zero_grad(set_to_none=True)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
        loss.backward()  # type: ignore[no-untyped-call]
        if self._optimizer is not None:
            self._optimizer.step()
        for one, table in self.tables.items():
            gradient = inputs[one]["ids"].grad
            if gradient is not None:
                table.step(batch.nodes[one], gradient, rate)
        return loss.item()

    def _rate(self, epoch: int, step: int) -> float:
        """Step size: linear warm-up, then a factor per epoch (PinSage, section 3.3)."""
        training, done = self._training, epoch * self.feeder.steps() + step + 1
        warm = min(1.0, done / training.warmup_steps) if training.warmup_steps else 1.0
        return training.learning_rate * warm * training.learning_rate_decay**epoch

    def weights(self) -> dict[str, F32]:
        """All tensors of the network by name."""
        found = {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.module.weights.items()}
        return found | {f"{TABLE}{one}": table.rows for one, table in self.tables.items()}


def _keep_memory() -> None:
    """Have glibc keep large blocks that torch frees: given back, each is faulted in anew, page by page."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


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


def _line(epoch: int, epochs: int, loss: float, examples: int, seconds: float) -> str:
    rate, left = epoch * examples / seconds, seconds / epoch * (epochs - epoch)
    return f"epoch {epoch}/{epochs} loss={loss:.5f} examples/s={rate:,.0f} left={left:.0f}s"


def _check(network: Network, data: TrainingData, fit: Sgd) -> None:
    if not len(data.examples.query) and data.num_nodes["item"] >= _LEARNS_FROM:
        what = "pair of items that share a context" if fit.examples == "pairs" else "edge"
        raise EmptyInputError(
            f"training needs at least one {what}, got none; "
            "raise training.context_fraction, or, where each context holds one item, name a column that "
            "groups items in interactions.context"
        )
    for one, declared in network.inputs.items():
        nodes = data.num_nodes[one]
        if declared.feature_width is not None:
            x = data.features[one]
            if x.ndim != 2 or x.dtype != np.float32 or len(x) != nodes:
                raise InputError(
                    f"features of {one} must be float32 [{nodes}, width], got {x.dtype} {[*x.shape]}; "
                    "build them from the run's graph"
                )
    updates = [update for updates in network.layers for update in updates]
    for update in updates:
        graph, targets, sources = (
            data.relations[update.reads],
            data.num_nodes[update.target],
            data.num_nodes[update.source],
        )
        if len(graph.indptr) != targets + 1:
            raise InputError(
                f"neighborhoods of {update.reads} must have a row per {update.target} ({targets}), got "
                f"{len(graph.indptr) - 1}; build both from one graph"
            )
        _check_indices(update.reads, graph.neighbors, sources)
    _check_indices("positives", data.examples.positive, data.num_nodes["item"])
    _check_indices(
        "queries", data.examples.query, data.num_nodes["item" if fit.examples == "pairs" else "context"]
    )


def _check_indices(name: str, ids: Any, count: int) -> None:
    if ids.size and (ids.min() < 0 or ids.max() >= count):
        raise InputError(f"{name} must hold indices below {count}, got {ids.min()} to {ids.max()}")


def _check_hard_negatives(
    found: HardNegatives | None, examples: Examples, wanted: HardNegativeSettings | None
) -> None:
    if wanted is None:
        return
    if found is None or not np.isin(examples.query, found.queries).all():
        raise InputError(
            "training.hard_negatives needs a row of them for every query, got "
            f"{0 if found is None else len(found.queries)} rows; rank the pairs' own queries"
        )
    if found.items.shape[1] < wanted.per_pair:
        raise InputError(
            f"hard negatives must be at least training.hard_negatives.per_pair {wanted.per_pair} a query, "
            f"got {found.items.shape[1]}; rank with the same settings"
        )
