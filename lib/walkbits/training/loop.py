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
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

import numba
import numpy as np
import torch

from walkbits.errors import EmptyInputError, InputError, TrainingError
from walkbits.models.base import ModelSettings, Sgd, Shapes
from walkbits.network.declaration import Network
from walkbits.settings import HardNegatives as HardNegativeSettings
from walkbits.settings import Training
from walkbits.training.arrays import TrainingData
from walkbits.training.checkpoints import Checkpoints, Course
from walkbits.training.examples import Examples
from walkbits.training.learner import Learner
from walkbits.training.negatives import HardNegatives
from walkbits.types import F32, I64, NodeType

_VALIDATION_TAG: Final = int.from_bytes(b"held out", "big") >> 1
_VALIDATION_LOSS: Final = "validation_loss"
_LOSSES: Final = ("loss", _VALIDATION_LOSS)
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
        timings: How fast it went.
    """

    network: Network
    weights: dict[str, F32]
    metrics: dict[str, float]
    keys: Mapping[NodeType, I64] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)


def train(
    model: ModelSettings,
    training: Training,
    data: TrainingData,
    seed: int,
    progress: Callable[[str], None],
    checkpoints: Checkpoints | None = None,
    *,
    tiny: int = 100,
    line_seconds: float = 10.0,
) -> Trained:
    """Train a model.

    Args:
        model: Settings; they declare the network and how it is fitted.
        training: Examples, negatives, steps.
        data: What it is trained on.
        seed: Seed of first weights, order of examples and negatives.
        progress: Called with one line per epoch, and every `line_seconds`.
        checkpoints: Where a killed training left off, and will leave off; the result does not depend on it.
        tiny: Items below which a graph may have no example at all, and not because a column was mistaken.
        line_seconds: Between two lines of one epoch.

    Returns:
        The network's declaration, its weights, and figures: `loss` of the last epoch, `epochs`, `examples`,
        each epoch's `loss[n]`, of a ranking loss `positive_rank[n]` and `hard_negative_rank[n]`; with a
        validation split `validation_loss[n]`, `validation_examples` and `best_epoch`, whose weights these
        are; with hard negatives `hard_negative_coverage`, the share of queries that have some; with tables of
        ids `unmet[node type]`, the rows that no step has changed.
        A tiny graph without examples, as of items that share no context, keeps the first weights.

    Raises:
        EmptyInputError: no examples in a graph of many items.
        InputError: arrays that do not belong together.
        TrainingError: the loss or the weights are no longer finite.
    """
    widths: dict[NodeType, int] = {one: x.shape[1] for one, x in data.features.items()}
    network, fit = model.network(Shapes(data.num_nodes, widths)), model.fit()
    _check(network, data, fit, tiny)
    _check_hard_negatives(data.hard_negatives, data.examples, training.hard_negatives)
    examples, validation = data.examples.split(training.validation_fraction, seed, fit.examples == "pairs")
    count, validating = len(examples.query), len(validation.query) > 0
    _keep_memory()
    _share_threads()
    with _deterministic():
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        learner = Learner(network, fit, training, replace(data, examples=examples), seed, device)
        course = Course()
        report = _Report(training.epochs, learner.feeder.steps(), count, progress, line_seconds)
        if not count:
            progress(f"no {fit.examples} to train on: the first weights are kept")
        elif checkpoints is not None and (found := checkpoints.newest()) is not None:
            course = found[0]
            learner.restore(found[1])
        while count and course.epoch < training.epochs and not _stalled(course, training.patience):
            for batch in learner.feeder.epoch(course.epoch, course.step):
                figures = learner.step(batch, course.epoch, course.step)
                _check_finite("loss", figures["loss"], course, training, checkpoints)
                course.add(figures, batch.size)
                course.step += 1
                report.step(course, batch.size)
                if checkpoints is not None and checkpoints.due():
                    done = course.epoch * learner.feeder.steps() + course.step
                    checkpoints.save(done, course, learner.state())
            if validating:
                loss = learner.mean_loss(validation, seed ^ _VALIDATION_TAG)
                _check_finite("validation loss", loss, course, training, checkpoints)
                course.add({_VALIDATION_LOSS: loss}, 1.0)
            course.end_epoch()
            report.epoch(course)
            if course.best(_VALIDATION_LOSS) == course.epoch - 1:
                learner.keep()
    weights = learner.best or learner.weights()
    if not all(np.isfinite(one).all() for one in weights.values()):
        raise _diverged("weights", "NaN or infinity at the end", training, checkpoints)
    metrics = _metrics(course, count, len(validation.query))
    if data.hard_negatives is not None:
        metrics["hard_negative_coverage"] = data.hard_negatives.coverage
    metrics |= {f"unmet[{one}]": float(table.unmet()) for one, table in learner.tables.items()}
    keys = {one: data.keys[one] for one in learner.tables}
    return Trained(network, weights, metrics, keys, report.timings(learner.feeder.waited))


def _metrics(course: Course, examples: int, held: int) -> dict[str, float]:
    """Figures of a whole training; those of an epoch are numbered from 1."""
    found = {"examples": float(examples)}
    for number, figures in enumerate(course.ended, start=1):
        found |= {f"{name}[{number}]": value for name, value in figures.items()}
    if course.ended:
        found |= {"loss": course.ended[-1]["loss"], "epochs": float(course.epoch)}
    if (best := course.best(_VALIDATION_LOSS)) is not None:
        found |= {"best_epoch": float(best + 1), "validation_examples": float(held)}
    return found


def _stalled(course: Course, patience: int) -> bool:
    """Whether `patience` epochs have ended since the best one."""
    best = course.best(_VALIDATION_LOSS)
    return best is not None and course.epoch - 1 - best >= patience


def _check_finite(
    what: str, value: float, course: Course, training: Training, checkpoints: Checkpoints | None
) -> None:
    if not math.isfinite(value):
        got = f"{value} in epoch {course.epoch + 1}, step {course.step + 1}"
        raise _diverged(what, got, training, checkpoints)


def _diverged(what: str, got: str, training: Training, checkpoints: Checkpoints | None) -> TrainingError:
    kept = checkpoints.path() if checkpoints is not None else None
    return TrainingError(
        f"training {what} must stay finite, got {got}; "
        f"lower training.learning_rate, got {training.learning_rate:g}, or look for huge feature values"
        + (f"; the last good checkpoint is '{kept}'" if kept is not None else "")
    )


class _Report:
    """Lines of progress, and how fast it went."""

    def __init__(
        self, epochs: int, steps: int, examples: int, report: Callable[[str], None], line_seconds: float
    ) -> None:
        self._epochs, self._steps, self._examples, self._report = epochs, steps, examples, report
        self._line_seconds = line_seconds
        self._began = self._reported = time.monotonic()
        self._done = 0

    def step(self, course: Course, examples: int) -> None:
        """Count a step; a line when the last one is old."""
        self._done += examples
        if time.monotonic() - self._reported >= self._line_seconds:
            loss, seen = course.mean("loss"), course.sums["loss"][1]
            left = (self._epochs - course.epoch) * self._examples - seen
            place = f"{course.epoch + 1}/{self._epochs} step {course.step}/{self._steps}"
            self._line(f"{place} loss={loss:.5f}", left)

    def epoch(self, course: Course) -> None:
        """The line of an epoch that has ended."""
        figures = course.ended[-1]
        losses = [f"{name}={figures[name]:.5f}" for name in _LOSSES if name in figures]
        left = (self._epochs - course.epoch) * self._examples
        self._line(f"{course.epoch}/{self._epochs} {' '.join(losses)}", left)

    def timings(self, waited: float) -> dict[str, float]:
        """Of this process: examples a second, and the share of time in which no minibatch was ready."""
        seconds = time.monotonic() - self._began
        if not self._done:
            return {}
        return {"examples_per_second": self._done / seconds, "waiting_for_batches": waited / seconds}

    def _line(self, stands: str, left: float) -> None:
        self._reported = time.monotonic()
        rate = self._done / (self._reported - self._began)
        seconds = f"{left / rate:.0f}s" if rate else "0s"
        self._report(f"epoch {stands} examples/s={rate:,.0f} left={seconds}")


def _keep_memory() -> None:
    """Have glibc keep large blocks that torch frees: given back, each is faulted in anew, page by page."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def _share_threads() -> None:
    """One number of threads for torch and for numba's kernels, torch's; numba's start would set it anew."""
    threads, config = torch.get_num_threads(), cast(Any, numba.config)
    numba.set_num_threads(min(threads, config.NUMBA_NUM_THREADS))
    torch.set_num_threads(threads)


@contextmanager
def _deterministic() -> Iterator[None]:
    """Torch's deterministic algorithms for a while, then as before."""
    # cuBLAS is reproducible only with a fixed workspace, read when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    guard: Any = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), guard.fill_uninitialized_memory
    # As `torch.use_deterministic_algorithms(True)`, which also imports torch's compiler: that takes seconds.
    torch.set_deterministic_debug_mode("error")
    # Filling fresh tensors guards reads before writes, which nothing here does; it takes 9% of a step.
    guard.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        guard.fill_uninitialized_memory = before[1]


def _check(network: Network, data: TrainingData, fit: Sgd, tiny: int) -> None:
    if not len(data.examples.query) and data.num_nodes["item"] >= tiny:
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
    if wanted is None or not len(examples.query):
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
