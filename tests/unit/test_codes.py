"""Codes: the definition of a bit, and that nothing but the vector decides it."""

from __future__ import annotations

import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from walkbits.errors import ConfigError, InputError
from walkbits.index.codes import Coder, pack_bits, prior_codes, project, rotation, signs, unpack_bits
from walkbits.settings import Index

VECTORS = hnp.arrays(
    np.float32, (7, 12), elements=st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=True)
)


def random_embeddings(rows: int, size: int) -> np.ndarray:
    x = np.random.default_rng(5).standard_normal((rows, size)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def exact_projection(x: np.ndarray, rotated_by: np.ndarray) -> list[list[int]]:
    """The definition in unbounded integers: coordinates on the row's grid times rotation on 2^-23."""
    rows = []
    matrix = [[int(r * 2**23) for r in line] for line in rotated_by.tolist()]
    for row in x.tolist():
        grid = 2.0 ** (math.frexp(max(map(abs, row)))[1] - 24)
        whole = [round(c / grid) for c in row]
        rows.append([sum(c * r for c, r in zip(whole, line, strict=True)) for line in matrix])
    return rows


def test_bits_are_packed_least_significant_first_and_zeros_of_either_sign_are_zero_bits() -> None:
    x = np.zeros((1, 128), np.float32)
    x[0, [0, 2, 63, 64]] = 1e-45, 3.0, 0.5, 2.0
    x[0, [1, 3]] = -0.0, -1.0
    assert pack_bits(x).tolist() == [[(1 + 4 + 2**63) - 2**64, 1]]


def test_numpy_and_torch_share_the_definition() -> None:
    x = random_embeddings(50, 192)
    np.testing.assert_array_equal(pack_bits(torch.from_numpy(x).requires_grad_()), pack_bits(x))


def test_memory_layout_does_not_matter() -> None:
    x = random_embeddings(50, 128)
    coder = Coder(rotation(0, 128, 128), planes=True)
    for found, expected in zip(coder.encode(np.asfortranarray(x), 256), coder.encode(x, 256), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(pack_bits(np.asfortranarray(x)), pack_bits(x))
    np.testing.assert_array_equal(pack_bits(np.repeat(x, 2, axis=1)[:, ::2]), pack_bits(x))


def test_unpacking_gives_the_bits_back() -> None:
    x = random_embeddings(20, 128)
    np.testing.assert_array_equal(unpack_bits(pack_bits(x)), x > 0)


def test_inner_products_of_signs_count_equal_and_differing_bits() -> None:
    a, b = pack_bits(random_embeddings(8, 128)), pack_bits(-random_embeddings(8, 128)[::-1])
    differing = np.array([[int((x != y).sum()) for y in unpack_bits(b)] for x in unpack_bits(a)])
    np.testing.assert_array_equal(signs(a) @ signs(b).T, 128 - 2 * differing)


@pytest.mark.parametrize(("size", "bits"), [(16, 64), (128, 64), (100, 256)])
def test_rotation_has_orthonormal_blocks_and_narrow_ones_are_prefixes(size: int, bits: int) -> None:
    r = rotation(3, size, bits)
    assert r.shape == (bits, size)
    assert r.dtype == np.float32
    for start in range(0, bits, size):
        block = r[start : start + size].astype(np.float64)
        np.testing.assert_allclose(block @ block.T, np.eye(len(block)), atol=2e-6)
    np.testing.assert_array_equal(rotation(3, size, 64), r[:64])
    assert (rotation(4, size, bits) != r).any()
    blocks = [r[start : start + size] for start in range(0, bits - size + 1, size)]
    assert all((blocks[0] != other).any() for other in blocks[1:])


def test_rotated_coordinates_look_isotropic() -> None:
    """One coordinate of the embedding spreads over all bits."""
    share = (rotation(0, 64, 4096)[:, 0] > 0).mean()
    assert abs(share - 0.5) < 4 * 0.5 / 4096**0.5


def test_projection_equals_its_definition_in_integers() -> None:
    x = random_embeddings(5, 24) * np.float32([1e-30, 1.0, 7.3, 1e20, 0.0])[:, None]
    r = rotation(1, 24, 64)
    exact = exact_projection(x, r)
    code, scale = Coder(r).encode(x, 64)
    assert unpack_bits(code).tolist() == [[value > 0 for value in row] for row in exact]
    unit = [2.0 ** (int(np.frexp(np.abs(row).max())[1]) - 47) for row in x]
    squares = (x.astype(np.float64) ** 2).sum(axis=1)
    size = [sum(map(abs, row)) * u for row, u in zip(exact, unit, strict=True)]
    np.testing.assert_allclose(
        scale, [a / b if b else 0 for a, b in zip(squares, size, strict=True)], rtol=1e-6
    )


def plainly_in_planes(x: np.ndarray, r: np.ndarray, bits: int) -> tuple[list[list[bool]], list[float]]:
    """Each coordinate's bits, one digit after the other, and the scale: loops over the definition."""
    step = {1: 1.5958, 2: 0.9957, 3: 0.5860, 4: 0.3352}
    codes, scales = [], []
    for row in x.astype(np.float64):
        rotated = r.astype(np.float64) @ row
        size, length = len(rotated), float(np.sqrt(row @ row))
        code, kept = [False] * bits, 0.0
        for c, y in enumerate(rotated):
            mine = range(c, bits, size)
            left = y
            for digit, b in enumerate(mine):
                worth = step[len(mine)] / 2 * 2 ** (len(mine) - 1 - digit)
                code[b] = left > 0
                sign = 1 if code[b] else -1
                kept += worth * sign * y
                left -= length / size**0.5 * worth * sign
        codes.append(code)
        scales.append(length**2 / kept)
    return codes, scales


@pytest.mark.parametrize(("size", "bits"), [(64, 128), (64, 256), (48, 128), (100, 192)])
def test_planes_are_the_digits_of_a_uniform_quantiser(size: int, bits: int) -> None:
    x, r = random_embeddings(20, size) * np.float32(3), rotation(4, size, size)
    code, scale = Coder(r, planes=True).encode(x, bits)
    codes, scales = plainly_in_planes(x, r, bits)
    assert unpack_bits(code).tolist() == codes
    np.testing.assert_allclose(scale, scales, rtol=1e-6)


@pytest.mark.parametrize("planes", [True, False])
def test_as_many_bits_as_the_embedding_has_are_one_plane_and_one_rotation(planes: bool) -> None:
    x, r = random_embeddings(20, 128), rotation(4, 128, 128)
    code, scale = Coder(r, planes).encode(x, 128)
    np.testing.assert_array_equal(code, pack_bits(project(x, r)))
    np.testing.assert_allclose(scale, 1 / np.abs(project(x, r)).sum(axis=1), rtol=1e-5)


def test_codes_of_a_run_are_those_of_its_settings() -> None:
    x = random_embeddings(20, 64)
    for wide, rows in (("planes", 64), ("rotations", 256)):
        coder = Coder.of(Index(code_bits=(128, 256), wide_codes=wide), 9, 64, learned=False)
        assert coder.rotated_by is not None
        np.testing.assert_array_equal(coder.rotated_by, rotation(9, 64, rows))
        np.testing.assert_array_equal(
            coder.encode(x, 128)[0], Coder(rotation(9, 64, rows), wide == "planes").encode(x, 128)[0]
        )
    assert Coder.of(Index(), 9, 64, learned=True).rotated_by is None


@given(x=VECTORS, order=st.permutations(range(7)), cut=st.integers(0, 7))
def test_codes_depend_neither_on_row_order_nor_on_batches(x: np.ndarray, order: list[int], cut: int) -> None:
    coder = Coder(rotation(2, 12, 12), planes=True)
    code, scale = coder.encode(x, 64)
    shuffled = x[order]
    parts = [coder.encode(shuffled[:cut], 64), coder.encode(shuffled[cut:], 64)]
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), code[order])
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), scale[order])


@given(x=VECTORS)
def test_scaling_a_vector_by_a_power_of_two_keeps_its_code(x: np.ndarray) -> None:
    r = rotation(2, 12, 64)
    wide = x.astype(np.float64).astype(np.float32)
    np.testing.assert_array_equal(project(wide * np.float32(4), r), project(wide, r) * 4)


def test_large_batches_cross_blocks_without_a_seam() -> None:
    x = random_embeddings(8192 + 77, 16)
    coder = Coder(rotation(0, 16, 64))
    np.testing.assert_array_equal(coder.encode(x, 64)[0][8100:], coder.encode(x[8100:], 64)[0])


@pytest.mark.parametrize("planes", [True, False])
def test_zero_vectors_get_the_zero_code_and_scale(planes: bool) -> None:
    coder = Coder(rotation(0, 16, 16 if planes else 128), planes)
    code, scale = coder.encode(np.zeros((3, 16), np.float32), 128)
    assert not code.any()
    assert not scale.any()


def test_learned_layers_skip_the_rotation() -> None:
    x = random_embeddings(9, 64)
    code, scale = Coder(None).encode(x, 64)
    np.testing.assert_array_equal(code, pack_bits(x))
    np.testing.assert_allclose(scale, 1 / np.abs(x).sum(axis=1), rtol=1e-6)
    with pytest.raises(InputError, match="at least 128 coordinates for 128-bit codes, got 64"):
        Coder(None).encode(x, 128)


@pytest.mark.parametrize(
    ("planes", "bits", "least"),
    [(False, 64, 0.78), (False, 128, 0.87), (False, 2048, 0.98), (True, 128, 0.93), (True, 256, 0.99)],
)
def test_asymmetric_score_estimates_the_inner_product(planes: bool, bits: int, least: float) -> None:
    x, q = random_embeddings(400, 64), random_embeddings(410, 64)[400:]
    coder = Coder(rotation(0, 64, 64 if planes else bits), planes)
    code, scale = coder.encode(x, bits)
    score = coder.queries(q, bits) @ (signs(code) * scale[:, None]).T  # [10, 400]
    exact = (q @ x.T).ravel()
    assert np.corrcoef(score.ravel(), exact)[0, 1] > least
    assert np.polyfit(exact, score.ravel(), 1)[0] == pytest.approx(1, abs=0.05)
    own = (coder.queries(x, bits) * signs(code) * scale[:, None]).sum(axis=1)
    np.testing.assert_allclose(own, 1, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    x = random_embeddings(3, 16)
    x[1, 2] = bad
    with pytest.raises(InputError, match="finite"):
        Coder(rotation(0, 16, 64)).encode(x, 64)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="16 columns"):
        Coder(rotation(0, 16, 64)).encode(random_embeddings(3, 8), 64)
    with pytest.raises(ConfigError, match="multiple of 64"):
        pack_bits(random_embeddings(3, 65))
    with pytest.raises(ConfigError, match="code_bits"):
        rotation(0, 16, 4160)


def test_the_prior_costs_as_many_bits_as_it_is_worth() -> None:
    step = math.pi / 128
    prior = np.float32([0.5, 0.5 - step, 0.5 - 10.4 * step, 0.5 - 63 * step, 0.5 - 64 * step, -9])
    bits = unpack_bits(prior_codes(prior, 0.5, step)[:, None])
    assert bits.sum(axis=1).tolist() == [64, 63, 54, 1, 0, 0]
    assert (np.diff(bits.astype(int), axis=1) <= 0).all()  # ones first
    assert Coder(rotation(0, 16, 128)).worth(128) == step
    assert Coder(None).worth(128) == 2 / 128
    assert prior_codes(np.zeros(3, np.float32), 0.0, step).tolist() == [-1, -1, -1]
