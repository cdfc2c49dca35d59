"""A network's weights, and the gradient steps that change them."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from walkbits import rng
from walkbits.models.base import Sgd
from walkbits.network.declaration import TABLE, Network
from walkbits.network.module import Module, first_rows
from walkbits.settings import Objective, Training
from walkbits.training.arrays import TrainingData
from walkbits.training.checkpoints import Arrays
from walkbits.training.examples import Examples
from walkbits.training.feeders import Batch, Feeder
from walkbits.training.objectives import Embedded, loss_of, own_rank, positive_rank
from walkbits.training.tables import Table
from walkbits.types import F32, I32, NodeType

_RANKING: Final[frozenset[Objective]] = frozenset({"max_margin", "bpr", "cross_rank"})
_RANKED_EVERY: Final = 16
"""Steps between two whose ranks are counted: they take a pass over all scores."""
_DROPOUT_TAG: Final = int.from_bytes(b"dropout", "big")
_ADAM, _WEIGHTS, _TABLES, _BEST = "adam", "weights", "tables", "best"


class Learner:
    """A network's weights and what changes them.

    Attributes:
        best: The weights that `keep` kept, by name.
    """

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
        self._seed, self._keys = seed, data.keys
        self.module = Module(network, seed, device)
        self.tables: dict[NodeType, Table] = {
            one: Table(first_rows(data.keys[one], declared.width, seed))
            for one, declared in network.inputs.items()
            if declared.count is not None
        }
        self.feeder = Feeder(network, data, fit, training, seed, device)
        self._loss = loss_of(fit, training, network.score.temperature, seed)
        self._ranks = (training.objective or fit.objective) in _RANKING
        parameters = [*self.module.weights.values()]
        self._optimizer = torch.optim.Adam(parameters, lr=training.learning_rate) if parameters else None
        self.best: dict[str, F32] = {}

    def step(self, batch: Batch, epoch: int, step: int) -> dict[str, float]:
        """One gradient step.

        Returns:
            `loss` of the minibatch before it; of a ranking loss now and then `positive_rank` and
            `hard_negative_rank`.
        """
        rate, done = self._rate(epoch, step), epoch * self.feeder.steps() + step
        embedded, rows = self._embed(batch, done)
        loss = self._loss(embedded, done / (self._training.epochs * self.feeder.steps()), done)
        if self._optimizer is not None:
            self._optimizer.zero_grad(set_to_none=True)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
        loss.backward()  # type: ignore[no-untyped-call]
        if self._optimizer is not None:
            self._optimizer.step()
        for one, table in self.tables.items():
            gradient = rows[one].grad
            if gradient is not None:
                table.step(batch.nodes[one], gradient, rate)
        figures = {"loss": loss.item()}
        if self._ranks and step % _RANKED_EVERY == 0:
            figures |= _ranks_of(embedded)
        return figures

    def mean_loss(self, examples: Examples, seed: int) -> float:
        """The loss of examples, as at the end of the training, with the same draws at every call."""
        total = 0.0
        with torch.no_grad():
            for step, batch in enumerate(self.feeder.over(examples, seed).epoch(0)):
                embedded, _ = self._embed(batch)
                total += self._loss(embedded, 1.0, step).item() * batch.size
        return total / len(examples.query)

    def _embed(self, batch: Batch, step: int | None = None) -> tuple[Embedded, dict[NodeType, Tensor]]:
        """A minibatch's embeddings, and the rows of the tables as leaves; in a `step` some are dropped."""
        rows = {one: table.read(batch.nodes[one], self._device) for one, table in self.tables.items()}
        read = rows
        if step is not None and self._fit.id_dropout:
            read = {one: x * self._kept(one, batch.nodes[one], step) for one, x in rows.items()}
        inputs: dict[NodeType, dict[str, Tensor]] = {one: {} for one in batch.nodes}
        for name, parts in (("features", batch.features), ("ids", read)):
            for one, x in parts.items():
                inputs[one][name] = x
        z = self.module(inputs, batch.hops, batch.sizes)
        if self._fit.cosine:
            z = {one: F.normalize(x, dim=1) for one, x in z.items()}
        query, items = z[self.feeder.query_type], z["item"]
        embedded = Embedded(
            query[batch.query], items[batch.positive], items[batch.shared], items[batch.own],
            batch.allowed, batch.log_q, batch.positive_log_q,
        )  # fmt: skip
        return embedded, rows

    def _kept(self, node_type: NodeType, nodes: I32, step: int) -> Tensor:
        """Which rows a step reads, drawn by node key and step: fp32 [nodes, 1], 1 or 0."""
        drawn = rng.uniform(rng.draw(self._seed ^ _DROPOUT_TAG, self._keys[node_type][nodes], step))
        kept = (drawn >= self._fit.id_dropout).astype(np.float32)
        return torch.from_numpy(kept[:, None]).to(self._device)

    def _rate(self, epoch: int, step: int) -> float:
        """Step size: linear warm-up, then a factor per epoch (PinSage, section 3.3)."""
        training, done = self._training, epoch * self.feeder.steps() + step + 1
        warm = min(1.0, done / training.warmup_steps) if training.warmup_steps else 1.0
        return training.learning_rate * warm * training.learning_rate_decay**epoch

    def weights(self) -> dict[str, F32]:
        """All tensors of the network by name; those of the tables are not copied."""
        found = {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.module.weights.items()}
        return found | {f"{TABLE}{one}": table.rows for one, table in self.tables.items()}

    def keep(self) -> None:
        """Have today's weights as `best`."""
        self.best = {name: one.copy() for name, one in self.weights().items()}

    def state(self) -> Arrays:
        """All that steps change, by name: weights, tables, both optimisers, the best weights."""
        found: Arrays = {}
        for name, tensor in self.module.weights.items():
            found[f"{_WEIGHTS}/{name}"] = tensor.detach().cpu().numpy()
        if self._optimizer is not None:
            for number, moments in self._optimizer.state_dict()["state"].items():
                for name, tensor in moments.items():
                    found[f"{_ADAM}/{number}/{name}"] = tensor.cpu().numpy()
        for one, table in self.tables.items():
            found |= {f"{_TABLES}/{one}/{name}": array for name, array in table.state().items()}
        return found | {f"{_BEST}/{name}": array for name, array in self.best.items()}

    def restore(self, state: Arrays) -> None:
        """Go on from an earlier `state`."""
        with torch.no_grad():
            for name, array in _below(state, _WEIGHTS).items():
                self.module.weights[name].copy_(torch.from_numpy(array))
        if self._optimizer is not None:
            moments: dict[int, dict[str, Tensor]] = {}
            for path, array in _below(state, _ADAM).items():
                number, name = path.split("/")
                moments.setdefault(int(number), {})[name] = torch.from_numpy(array.copy())
            self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": moments})
        for one, table in self.tables.items():
            table.restore(_below(state, f"{_TABLES}/{one}"))
        self.best = {name: array.copy() for name, array in _below(state, _BEST).items()}


def _ranks_of(embedded: Embedded) -> dict[str, float]:
    with torch.no_grad():
        hard = own_rank(embedded)
        ranks = {"positive_rank": positive_rank(embedded)}
    return ranks if hard is None else ranks | {"hard_negative_rank": hard}


def _below(state: Arrays, folder: str) -> Arrays:
    return {
        name.removeprefix(f"{folder}/"): one for name, one in state.items() if name.startswith(f"{folder}/")
    }
