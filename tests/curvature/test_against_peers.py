"""Other libraries find the same Hessian. A peer that is missing fails: it is not skipped."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import MLP, ConvNet, Transformer, cut, network, random_vectors
from pyhessian import hessian as PyHessian
from scipy.sparse.linalg import eigsh as scipy_eigsh
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape.curvature.eigen import eigsh
from landscape.curvature.hessian import HessianOperator
from landscape.objective import Objective

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is dep:DeprecationWarning")

with warnings.catch_warnings():
    # Of a package that curvlinops imports.
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
    from curvlinops import HessianLinearOperator

# -- curvlinops ---------------------------------------------------------------------------------


def _theirs(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]], loss: nn.Module, but: str = ""
) -> HessianLinearOperator:
    model.eval()
    parameters = [p for name, p in model.named_parameters() if name != but]
    return HessianLinearOperator(model, loss, parameters, batches)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("batch_size", [10, 5, 3])
@pytest.mark.parametrize("kind", [MLP, ConvNet])
def test_curvlinops_has_the_same_products(kind, batch_size, reduction):
    model, inputs, targets = network(kind)
    batches = cut(inputs, targets, batch_size)
    loss = nn.CrossEntropyLoss(reduction=reduction)
    operator = HessianOperator(Objective(model, batches, loss))
    vectors = random_vectors(operator.size, 3)
    expected = _theirs(model, batches, loss) @ vectors
    torch.testing.assert_close(operator.matmat(vectors), expected, rtol=0, atol=1e-9)


def test_curvlinops_has_the_same_products_with_attention():
    model, inputs, targets = network(Transformer)
    batches = cut(inputs, targets[:, 0].clone(), 3)

    class LastToken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, tokens: Tensor) -> Tensor:
            return self.inner(tokens)[:, -1]

    whole = LastToken()
    # torch 2.13 differentiates LayerNorm's weight wrongly under vmap, which they use.
    but = "inner.norm.weight"
    operator = HessianOperator(Objective(whole, batches, params=f"!{but}"))
    vectors = random_vectors(operator.size, 3)
    with sdpa_kernel(SDPBackend.MATH):
        expected = _theirs(whole, batches, nn.CrossEntropyLoss(), but) @ vectors
    torch.testing.assert_close(operator.matmat(vectors), expected, rtol=0, atol=1e-9)


def test_curvlinops_and_scipy_find_the_same_eigenvalues():
    model, inputs, targets = network(MLP)
    batches = cut(inputs, targets, 3)
    pairs = eigsh(HessianOperator(Objective(model, batches)), 3, tol=1e-9, seed=0)
    operator = _theirs(model, batches, nn.CrossEntropyLoss()).to_scipy()
    start = np.ones(operator.shape[0])
    values = scipy_eigsh(operator, k=3, which="LA", v0=start, return_eigenvectors=False)
    np.testing.assert_allclose(pairs.values, np.sort(values)[::-1], rtol=0, atol=1e-9)


# -- PyHessian ----------------------------------------------------------------------------------

pyhessian_leaks = pytest.mark.filterwarnings(
    r"ignore:Using backward\(\) with create_graph=True:UserWarning"
)


@pytest.fixture
def separated():
    """A float32 problem with a top eigenvalue twice the next, for which power iteration works.

    PyHessian starts from float32 vectors, whatever the model's dtype.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
        inputs = torch.randn(10, 4) + 1
        targets = model(inputs).detach() + 0.1 * torch.randn(10, 1)
        torch.manual_seed(1)  # PyHessian draws from the global generator
        operator = HessianOperator(Objective(model, cut(inputs, targets, 3), "mse"))
        values = torch.linalg.eigvalsh(operator.to_dense())
        assert values[-1] > 2 * values[:-1].abs().max(), values
        yield model, inputs, targets, operator


def _pyhessian(model: nn.Module, inputs: Tensor, targets: Tensor) -> PyHessian:
    return PyHessian(model, F.mse_loss, data=(inputs, targets), cuda=False)


@pyhessian_leaks
def test_pyhessian_finds_the_same_top_eigenvalue(separated):
    model, inputs, targets, operator = separated
    pairs = eigsh(operator, 1, which="LM", tol=1e-3, seed=0)
    theirs, vectors = _pyhessian(model, inputs, targets).eigenvalues(maxIter=200, tol=1e-4)
    np.testing.assert_allclose(pairs.values[0], theirs[0], rtol=1e-3)
    their_vector = torch.cat([part.reshape(-1) for part in vectors[0]])
    assert abs(their_vector @ pairs.vectors[:, 0]) > 0.999


@pyhessian_leaks
def test_pyhessian_finds_the_same_trace(separated):
    model, inputs, targets, operator = separated
    exact = float(operator.to_dense().trace())
    samples = _pyhessian(model, inputs, targets).trace(maxIter=400, tol=0)  # no early stop
    error = np.std(samples, ddof=1) / len(samples) ** 0.5
    assert len(samples) == 400
    assert abs(np.mean(samples) - exact) < 4 * error
    assert error < 0.05 * exact
