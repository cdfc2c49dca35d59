"""Tables of ids: a learned row per node, of which a step reads and changes only those it meets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numba import njit, prange
from numpy.typing import NDArray
from torch import Tensor

from walkbits.types import F32, I32

_BETA1: Final = 0.9
_BETA2: Final = 0.999
_EPSILON: Final = 1e-8


@dataclass
class Table:
    """Rows and Adam's moments. A row that a step does not meet stays as it is, as do its moments.

    Dense Adam would go on moving such rows by their old moments; the cost of a step would then grow with
    the number of nodes.

    Attributes:
        rows: fp32 [nodes, width].
    """

    rows: F32
    _first: F32 = field(init=False)
    _second: F32 = field(init=False)
    _steps: int = 0

    def __post_init__(self) -> None:
        self._first, self._second = np.zeros_like(self.rows), np.zeros_like(self.rows)

    def unmet(self) -> int:
        """Rows that no step has changed."""
        return int(np.count_nonzero(~self._second.any(axis=1)))

    def state(self) -> dict[str, NDArray[Any]]:
        """What steps change, by name; arrays of its own memory."""
        return {
            "rows": self.rows,
            "first": self._first,
            "second": self._second,
            "steps": np.array(self._steps, np.int64),
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from an earlier `state`."""
        self.rows, self._first, self._second = (state[name].copy() for name in ("rows", "first", "second"))
        self._steps = int(state["steps"])

    def read(self, nodes: I32, device: torch.device) -> Tensor:
        """The rows of some nodes as a leaf: fp32 [n, width]."""
        found = np.empty((len(nodes), self.rows.shape[1]), np.float32)
        _gather(self.rows, nodes, found)
        return torch.from_numpy(found).to(device).requires_grad_()

    def step(self, nodes: I32, gradient: Tensor, learning_rate: float) -> None:
        """One step of Adam (Kingma and Ba, 2015) on some different nodes' rows.

        Args:
            nodes: int32 [n].
            gradient: fp32 [n, width].
        """
        self._steps += 1
        scale = learning_rate / (1 - _BETA1**self._steps)
        _adam(
            self.rows, self._first, self._second, nodes, gradient.cpu().numpy(),
            np.float32(scale), np.float32(1 / (1 - _BETA2**self._steps)),
        )  # fmt: skip


@njit(nogil=True, cache=True, parallel=True)
def _gather(rows: Any, nodes: Any, out: Any) -> None:
    for i in prange(len(nodes)):
        out[i] = rows[nodes[i]]


@njit(nogil=True, cache=True, parallel=True, fastmath={"contract"})
def _adam(rows: Any, first: Any, second: Any, nodes: Any, gradient: Any, scale: Any, unbias: Any) -> None:
    for i in prange(len(nodes)):
        u = nodes[i]
        for k in range(rows.shape[1]):
            g = gradient[i, k]
            m = np.float32(_BETA1) * first[u, k] + np.float32(1 - _BETA1) * g
            v = np.float32(_BETA2) * second[u, k] + np.float32(1 - _BETA2) * g * g
            first[u, k], second[u, k] = m, v
            rows[u, k] -= scale * m / (np.sqrt(v * unbias) + np.float32(_EPSILON))
