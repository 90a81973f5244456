"""What holds for every operator, and the probe of its noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from oracles import MLP, SPECTRA, CountingOperator, cut, network, random_vectors, symmetric_matrix

from landscape.curvature.hessian import HessianOperator
from landscape.curvature.operators import LinearOperator, MatrixOperator
from landscape.errors import RequestError
from landscape.objective import Objective


def _matrix() -> LinearOperator:
    return MatrixOperator(symmetric_matrix(SPECTRA["mirrored"](20)))


def _hessian(graph_bytes: int | None) -> LinearOperator:
    model, inputs, targets = network(MLP)
    return HessianOperator(Objective(model, cut(inputs, targets, 3)), graph_bytes=graph_bytes)


OPERATORS: dict[str, Callable[[], LinearOperator]] = {
    "matrix": _matrix,
    "hessian_kept": lambda: _hessian(None),
    "hessian_rebuilt": lambda: _hessian(0),
}


@pytest.fixture(params=OPERATORS)
def operator(request: pytest.FixtureRequest) -> LinearOperator:
    return OPERATORS[request.param]()


def test_every_operator_is_a_symmetric_linear_map(operator):
    n = operator.size
    vectors = random_vectors(n, 3)
    u, v, _ = vectors.T
    images = operator.matmat(vectors)
    assert images.shape == (n, 3)
    assert images.dtype == operator.dtype
    assert images.device == operator.device
    scale = images.norm()
    for column in range(3):
        assert (operator.matvec(vectors[:, column]) - images[:, column]).norm() < 1e-14 * scale
    assert abs(u @ operator.matvec(v) - v @ operator.matvec(u)) < 1e-13 * scale
    combined = operator.matvec(2 * u - 3 * v)
    assert (combined - 2 * images[:, 0] + 3 * images[:, 1]).norm() < 1e-13 * scale
    assert not operator.matvec(torch.zeros(n, dtype=operator.dtype)).any()
    dense = operator.to_dense()
    assert torch.equal(dense, dense.T)
    torch.testing.assert_close(dense @ vectors, images, rtol=0, atol=1e-13 * float(scale))


def test_every_operator_leaves_its_argument_alone_and_gives_fresh_memory(operator):
    vector = random_vectors(operator.size, 1)[:, 0]
    before = vector.clone()
    first = operator.matvec(vector)
    kept = first.clone()
    operator.matvec(2 * vector)
    assert torch.equal(vector, before)
    assert torch.equal(first, kept)
    assert not first.requires_grad


def test_every_operator_takes_other_dtypes_and_gives_its_own(operator):
    vector = random_vectors(operator.size, 1)[:, 0]
    image = operator.matvec(vector.float().requires_grad_())
    assert image.dtype == operator.dtype
    torch.testing.assert_close(image, operator.matvec(vector), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1,), (0,), ()])
def test_every_operator_refuses_vectors_of_another_size(operator, shape):
    with pytest.raises(RequestError, match=rf"expected \({operator.size},\)"):
        operator.matvec(torch.zeros(shape, dtype=operator.dtype))
    with pytest.raises(RequestError, match="one vector a column"):
        operator.matmat(torch.zeros(2, operator.size, dtype=operator.dtype))


def test_every_operator_works_under_the_callers_no_grad_and_inference_mode(operator):
    vector = random_vectors(operator.size, 1)[:, 0]
    plain = operator.matvec(vector)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            image = operator.matvec(vector.clone())
            assert torch.equal(image, plain)


def test_every_operator_is_known_to_scipy(operator):
    exported = operator.to_scipy()
    vectors = random_vectors(operator.size, 2)
    images = operator.matmat(vectors).numpy()
    assert exported.shape == (operator.size, operator.size)
    assert exported.dtype == np.float64
    np.testing.assert_allclose(exported @ vectors.numpy(), images, rtol=0, atol=1e-14)
    np.testing.assert_allclose(exported.T @ vectors[:, 0].numpy(), images[:, 0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scipy_sees_lower_precisions_as_float32(dtype):
    matrix = symmetric_matrix(SPECTRA["linspace"](10), dtype=dtype)
    exported = MatrixOperator(matrix).to_scipy()
    assert exported.dtype == np.float32
    image = exported @ np.ones(10, dtype=np.float32)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, matrix.float().sum(1).numpy(), atol=0.05)
    assert (exported @ np.ones((10, 2), dtype=np.float32)).shape == (10, 2)


@pytest.mark.parametrize("shape", [(3, 4), (3,), (0, 0)])
def test_a_matrix_operator_needs_a_square_matrix(shape):
    with pytest.raises(RequestError, match=r"expected \(n, n\)"):
        MatrixOperator(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_noise_floor_bounds_the_rounding_of_a_product(dtype):
    exact = symmetric_matrix(SPECTRA["trained"](60)).to(dtype).double()
    operator = MatrixOperator(exact.to(dtype))
    noise = operator.noise()
    eps = torch.finfo(dtype).eps
    assert eps * noise.norm <= noise.floor <= 30 * eps * 100
    assert noise.norm <= 100 * (1 + eps)  # ||A|| is 100
    vectors = random_vectors(60, 20, seed=2).to(dtype)
    vectors = (vectors.double() / vectors.double().norm(dim=0)).to(dtype)
    errors = (operator.matmat(vectors).double() - exact @ vectors.double()).norm(dim=0)
    assert errors.max() <= 4 * noise.floor


def test_noise_is_measured_once_by_three_products():
    operator = CountingOperator(symmetric_matrix(SPECTRA["linspace"](20)))
    first, again = operator.noise(), operator.noise()
    assert operator.count == first.num_products == 3
    assert again.num_products == 0  # remembered
    assert (again.floor, again.norm) == (first.floor, first.norm)


@pytest.mark.parametrize("n", [3, 60])
def test_an_unsymmetric_operator_is_refused(n):
    matrix = random_vectors(n, n)
    with pytest.raises(RequestError, match="not symmetric"):
        MatrixOperator(matrix).noise()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_products_that_are_not_finite_are_refused(bad):
    matrix = torch.eye(5, dtype=torch.float64)
    matrix[2, 2] = bad
    with pytest.raises(RequestError, match="float64"):
        MatrixOperator(matrix).noise()


def test_a_dense_matrix_beyond_memory_is_refused(monkeypatch):
    monkeypatch.setattr("landscape.curvature.operators.available_bytes", lambda _: 1000)
    with pytest.raises(RequestError, match="eigsh"):
        _matrix().to_dense()
