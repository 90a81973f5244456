"""Problems with known answers: matrices of prescribed spectra, small networks, exact Hessians."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape.curvature.operators import LinearOperator, MatrixOperator

Array = NDArray[np.float64]

# -- spectra that break eigensolvers ------------------------------------------------------------


def _trained(n: int) -> Array:
    bulk = 0.05 * np.random.default_rng(0).standard_normal(n - 10)
    return np.r_[np.geomspace(100, 10, 10), bulk]


SPECTRA: dict[str, Callable[[int], Array]] = {
    "repeated": lambda n: np.r_[[5.0] * 4, [3.0] * 3, np.linspace(-0.1, 1, n - 7)],
    "clustered": lambda n: np.r_[10 + 1e-4 * np.arange(5), 9, np.linspace(0, 1, n - 6)],
    "plus_minus": lambda n: np.repeat([1.0, -1.0], n // 2),
    "mirrored": lambda n: np.r_[np.linspace(1, 2, n // 2), -np.linspace(1, 2, n // 2)],
    "low_rank": lambda n: np.r_[np.arange(1, 7.0), np.zeros(n - 6)],
    "geometric": lambda n: 0.8 ** np.arange(n),
    "three_values": lambda n: np.repeat([5.0, 1.0, 0.0], [n // 6, n // 3, n - n // 6 - n // 3]),
    "linspace": lambda n: np.linspace(0, 1, n),
    "trained": _trained,
    "zero": np.zeros,
    # Softmax at its start: C - 1 equal eigenvalues for each direction of the inputs, C = 10.
    "softmax_start": lambda n: np.repeat([0.5, 0.2, 0.01], [9, 9, n - 18]),
}


def symmetric_matrix(
    eigenvalues: Sequence[float] | Array, *, dtype: torch.dtype = torch.float64, seed: int = 0
) -> Tensor:
    """A matrix (n, n) with these eigenvalues and random eigenvectors."""
    n = len(eigenvalues)
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    matrix = (basis * torch.as_tensor(eigenvalues, dtype=torch.float64)) @ basis.T
    return ((matrix + matrix.T) / 2).to(dtype)


def wanted(spectrum: Array, k: int, which: str) -> Array:
    """The k wanted values of a spectrum, the most wanted first; written apart from the solver's."""
    ascending = np.sort(spectrum)
    descending = ascending[::-1]
    if which == "LA":
        return descending[:k]
    if which == "SA":
        return ascending[:k]
    if which == "LM":
        return np.array(sorted(spectrum, key=abs, reverse=True)[:k])
    low = ascending[: k // 2]
    return np.r_[descending[: k - k // 2], low[::-1]]


class CountingOperator(LinearOperator):
    """A matrix that counts the vectors it was multiplied with."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__(len(matrix), matrix.dtype, matrix.device)
        self._inner = MatrixOperator(matrix)
        self.count = 0

    def _products(self, vectors: Tensor) -> Tensor:
        self.count += len(vectors)
        return self._inner._products(vectors)


# -- small networks and their data --------------------------------------------------------------


class MLP(nn.Module):
    """4 -> 5 -> 3, n = 43."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(inputs)))


class ConvNet(nn.Module):
    """A convolution, BatchNorm with statistics of its own, and a head: n = 49."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2)
        self.head = nn.Linear(8, 3)
        nn.init.normal_(self.norm.running_mean, std=0.1)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)
        nn.init.uniform_(self.norm.weight, 0.5, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.avg_pool2d(F.gelu(self.norm(self.conv(images))), 2).flatten(1))


class Transformer(nn.Module):
    """One block with fused attention of two heads over 4 tokens: n = 91, logits for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Linear(3, 4), nn.Linear(4, 12, bias=False)
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = self.embed(tokens)  # (N, T, 4)
        parts = self.mix(embedded).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*parts, is_causal=True)  # (N, 2, T, 2)
        return self.head(self.norm(embedded + attended.transpose(1, 2).flatten(2)))


_INPUT_SHAPES: dict[type[nn.Module], tuple[int, ...]] = {
    MLP: (4,),
    ConvNet: (1, 6, 6),
    Transformer: (4, 3),
}


def network(
    kind: type[nn.Module], *, num: int = 10, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[nn.Module, Tensor, Tensor]:
    """A network with random weights, inputs for it, and labels of 3 classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind().to(dtype)
        inputs = torch.randn(num, *_INPUT_SHAPES[kind], dtype=dtype)
        shape = (num, 4) if kind is Transformer else (num,)
        return model, inputs, torch.randint(0, 3, shape)


def cut(inputs: Tensor, targets: Tensor, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of `batch_size`; the last holds what is left."""
    return list(zip(inputs.split(batch_size), targets.split(batch_size), strict=True))


def random_vectors(n: int, k: int, *, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    """(n, k) normal vectors."""
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# -- exact Hessians -----------------------------------------------------------------------------


def dense_hessian(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    names: Sequence[str] | None = None,
    *,
    over: Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]] | None = None,
) -> Tensor:
    """(n, n) by `torch.func`, forward over reverse: all data in one batch, in eval mode.

    `over` takes the place of jacfwd(grad), and is not checked to be symmetric.
    """
    model = copy.deepcopy(model).eval()
    everything = {name: p.detach() for name, p in model.named_parameters()}
    chosen = {name: everything[name] for name in names or everything}

    def value(theta: Tensor) -> Tensor:
        parts = theta.split([p.numel() for p in chosen.values()])
        moved = {
            name: part.view(p.shape) for (name, p), part in zip(chosen.items(), parts, strict=True)
        }
        return loss(functional_call(model, everything | moved, (inputs,)), targets)

    theta = torch.cat([p.reshape(-1) for p in chosen.values()])
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        # torch's own rules for forward differentiation are scripted when they are first used.
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
        # `torch.func.hessian` itself is jacfwd(jacrev): torch 2.13 gets LayerNorm's weight wrong in
        # it (not even symmetric), since the inner jacrev differentiates under vmap. grad does not.
        if over is not None:
            return over(value)(theta).detach()
        dense = torch.func.jacfwd(torch.func.grad(value))(theta).detach()
    assert (dense - dense.T).abs().max() < 1e-12 * (1 + dense.abs().max()), "a bad oracle"
    return dense


def token_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the tokens (or examples) that are not left out."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def linear_regression_hessian(inputs: Tensor, num_outputs: int) -> Tensor:
    """Of the mean over all elements of (W x - y)^2: I_out (x) 2 X'X / (N out)."""
    gram = 2 / (len(inputs) * num_outputs) * inputs.T @ inputs
    return torch.kron(torch.eye(num_outputs, dtype=inputs.dtype), gram)


def logistic_hessian(inputs: Tensor, weight: Tensor) -> Tensor:
    """Of the mean logistic loss: X' diag(s (1 - s)) X / N, s = sigmoid(X w)."""
    s = torch.sigmoid(inputs @ weight)
    return (inputs.T * (s * (1 - s))) @ inputs / len(inputs)


def softmax_hessian(inputs: Tensor, weight: Tensor) -> Tensor:
    """Of the mean cross-entropy of W x: the mean of (diag p - pp') (x) xx'. W is (C, d)."""
    terms = []
    for row in inputs:
        p = torch.softmax(weight @ row, 0)
        terms.append(torch.kron(torch.diag(p) - torch.outer(p, p), torch.outer(row, row)))
    return torch.stack(terms).mean(0)


def two_layer_linear_hessian(
    inputs: Tensor, targets: Tensor, first: Tensor, second: Tensor
) -> Tensor:
    """Of |W2 W1 x - y|^2 / 2, averaged over examples; coordinates W1 (h, d), then W2 (o, h)."""
    num = len(inputs)
    (h, d), o = first.shape, len(second)
    S = inputs.T @ inputs / num
    E = (second @ first @ inputs.T - targets.T) @ inputs / num  # (o, d)
    eye = torch.eye(h, dtype=inputs.dtype)
    top = torch.kron(second.T @ second, S)
    bottom = torch.kron(torch.eye(o, dtype=inputs.dtype), first @ S @ first.T)
    # H21[(k, i), (j, c)] = W2[k, j] (W1 S)[i, c] + delta_ij E[k, c]
    mixed = torch.einsum("kj,ic->kijc", second, first @ S) + torch.einsum("ij,kc->kijc", eye, E)
    mixed = mixed.reshape(o * h, h * d)
    return torch.cat([torch.cat([top, mixed.T], 1), torch.cat([mixed, bottom], 1)])


class Product(nn.Module):
    """The product of its weights, all 1: (prod w - 1)^2 / 2 has the Hessian 11', {L, 0, ...}."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(depth, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * self.w.prod()


class IdentityChain(nn.Module):
    """A linear chain of identities: with whitened data L, d^2 times, and 0."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        eye = torch.eye(width, dtype=torch.float64)
        self.layers = nn.ParameterList([eye.clone() for _ in range(depth)])

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self.layers:
            inputs = inputs @ layer.T
        return inputs


def half_squared_error(output: Tensor, target: Tensor) -> tuple[Tensor, float]:
    """The sum over examples of |output - target|^2 / 2, and their number."""
    return (output - target).square().sum() / 2, float(len(output))


def whitened(num: int, width: int, *, seed: int = 0) -> Tensor:
    """(num, width) inputs with X'X / N = I."""
    basis, _ = torch.linalg.qr(random_vectors(num, width, seed=seed))
    return basis * math.sqrt(num)
