"""Gradients of our own against torch's, on random hops and scores."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from walkbits.network.kernels import WeightedSum, transposed
from walkbits.training.objectives import Embedded, softmax


@given(
    seed=st.integers(0, 10_000),
    sources=st.integers(1, 30),
    targets=st.integers(1, 30),
    own=st.sampled_from([0.0, 1.0, 0.5]),
    scale=st.sampled_from([1.0, 3.0]),
)
def test_weighted_sums_and_their_gradients_are_those_of_a_matrix(
    seed: int, sources: int, targets: int, own: float, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    targets = min(targets, sources)  # of a hop, the targets are the first sources
    sizes = rng.integers(0, 6, targets)
    indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    neighbors = rng.integers(0, sources, indptr[-1])
    weights = rng.standard_normal(len(neighbors)).astype(np.float32)
    dense = np.zeros((targets, sources))
    np.add.at(dense, (np.repeat(np.arange(targets), sizes), neighbors), scale * weights)
    dense[np.arange(targets), np.arange(targets)] += own
    x = torch.from_numpy(rng.standard_normal((sources, 3)).astype(np.float32)).requires_grad_()
    upstream = torch.from_numpy(rng.standard_normal((targets, 3)).astype(np.float32))
    hop = (indptr, neighbors, weights)
    out = WeightedSum.apply(x, hop, transposed(*hop, sources), own, scale)
    out.backward(upstream)
    np.testing.assert_allclose(out.detach(), dense @ x.detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(x.grad, dense.T @ upstream.numpy(), atol=1e-4)


@given(seed=st.integers(0, 10_000), examples=st.integers(1, 9), candidates=st.integers(0, 12))
def test_the_shared_softmax_is_cross_entropy(seed: int, examples: int, candidates: int) -> None:
    rng = np.random.default_rng(seed)
    query, shared, positive = (
        torch.from_numpy(rng.standard_normal((n, 4))).float().requires_grad_()
        for n in (examples, candidates, examples)
    )
    allowed = torch.from_numpy(rng.random((examples, candidates)) < 0.6)
    none = torch.zeros(examples, 0, 4)
    found = softmax(Embedded(query, positive, shared, none, allowed), 0.3)
    found.backward()
    gradients = [one.grad.clone() for one in (query, shared, positive)]
    for one in (query, shared, positive):
        one.grad = None
    scores = (query @ shared.T / 0.3).masked_fill(~allowed, -torch.inf)
    scores = torch.cat([(query * positive).sum(dim=1, keepdim=True) / 0.3, scores], dim=1)
    wanted = torch.nn.functional.cross_entropy(scores, torch.zeros(examples, dtype=torch.long))
    wanted.backward()
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    for one, other in zip(gradients, (query, shared, positive), strict=True):
        torch.testing.assert_close(one, other.grad, atol=1e-5, rtol=1e-4)
