"""KFAC: the Gauss-Newton matrix of linear and convolutional layers as Kronecker products.

For a layer with inputs a (a 1 behind them where there is a bias) and outputs s, the block is about
(mean curvature in s) x (mean a a^T). That is exact for one example. The Gaussian that follows from
it is what the recipe `laplace` samples.

Source: Martens and Grosse 2015, arXiv:1503.05671; Grosse and Martens 2016, arXiv:1602.01407, for
convolutions; Botev et al. 2017, arXiv:1706.03662, for the loss's exact curvature; Ritter et al.
2018 (a scalable Laplace approximation) for the posterior.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.errors import RequestError
from landscape.parameters import ParameterSpace

__all__ = ["KroneckerBlock", "KroneckerPosterior", "kronecker_blocks"]

_ROWS = 512  # examples that go through the network at a time

Layer = nn.Linear | nn.Conv2d


@dataclass(frozen=True)
class KroneckerBlock:
    """Curvature of the mean loss for one layer's weight (out, in), with its bias behind it.

    Attributes:
        names: of the parameters: the weight, and the bias if it is trained.
        inputs: (in, in) mean of a a^T; one more row and column with a bias.
        outputs: (out, out).
    """

    names: tuple[str, ...]
    inputs: Tensor
    outputs: Tensor

    @cached_property
    def spectrum(self) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues (out, in), and the eigenvectors of both factors as columns."""
        outputs, of_outputs = torch.linalg.eigh(self.outputs)
        inputs, of_inputs = torch.linalg.eigh(self.inputs)
        # Rounding may leave a zero eigenvalue below zero.
        return torch.outer(outputs.clamp(min=0), inputs.clamp(min=0)), of_outputs, of_inputs


def kronecker_blocks(network: nn.Module, inputs: Tensor, loss: str) -> list[KroneckerBlock]:
    """Blocks of every Linear and Conv2d layer with a trained weight, in evaluation mode, float64.

    The positions of a convolution are taken as independent of each other: the inputs' factor is a
    sum over them, the outputs' factor a mean.

    Args:
        network: left as it is.
        inputs: (n, ...).
        loss: "cross_entropy" or "bce". Their curvature does not depend on the targets.

    Raises:
        RequestError: no such layer, one that is used twice, a convolution in groups or with
            padding by other values than 0, or outputs other than (n, C).
    """
    layers = _layers(network)
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    with _evaluated(network), _watched(layers) as seen, torch.enable_grad():
        for start in range(0, len(inputs), _ROWS):
            seen.clear()
            outputs = network(inputs[start : start + _ROWS])
            if outputs.ndim != 2:
                raise RequestError(
                    f"the outputs have shape {tuple(outputs.shape)}, expected (n, C). Kronecker "
                    "factors are for networks that classify whole examples."
                )
            for name, (entering, _) in seen.items():
                rows = _rows(layers[name], entering)  # (b, T, in)
                if name not in sums:
                    out = layers[name].weight.shape[0]
                    sums[name] = (_zeros(rows.shape[-1], rows), _zeros(out, rows))
                sums[name][0].add_(torch.einsum("bti,btj->ij", rows, rows))
            ends = [leaving for _, leaving in seen.values()]
            for column in _curvature_roots(outputs.detach(), loss):
                back = torch.autograd.grad(outputs, ends, column, retain_graph=True)
                for name, gradient in zip(seen, back, strict=True):
                    rows = _positions(layers[name], gradient)  # (b, T, out)
                    sums[name][1].add_(
                        torch.einsum("bti,btj->ij", rows, rows), alpha=1 / rows.shape[1]
                    )
    return [
        KroneckerBlock(_names(name, layers[name]), entering / len(inputs), leaving / len(inputs))
        for name, (entering, leaving) in sums.items()
    ]


@dataclass(frozen=True)
class KroneckerPosterior:
    """N(theta, (n blocks + prior_precision)^-1) of the layers' weights; the others stay fixed.

    Attributes:
        theta: (P,) its mean.
        space: of theta.
        blocks: of the mean loss at theta.
        num_examples: n, by which the mean loss becomes the negative log-likelihood.
        prior_precision: of a Gaussian prior around 0.
        temperature: factor on the covariance of what is drawn; 1 is the posterior itself.
    """

    theta: Tensor
    space: ParameterSpace
    blocks: Sequence[KroneckerBlock]
    num_examples: int
    prior_precision: float
    temperature: float = 1.0

    def samples(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """Draws (num_samples, P), in theta's dtype."""
        drawn = self.theta.double().repeat(num_samples, 1)
        for block in self.blocks:
            values, of_outputs, of_inputs = block.spectrum
            precision = self.num_examples * values + self.prior_precision
            scale = (self.temperature / precision).sqrt()
            shape = (num_samples, *values.shape)
            normal = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
            # In the eigenbases the precision is diagonal: no factor is damped on its own.
            moved = of_outputs @ (normal.to(scale.device) * scale) @ of_inputs.T
            weight = self.space.slice_of(block.names[0])
            size = weight.stop - weight.start
            columns = size // values.shape[0]
            drawn[:, weight] += moved[:, :, :columns].flatten(1)
            if len(block.names) > 1:
                drawn[:, self.space.slice_of(block.names[1])] += moved[:, :, -1]
        return drawn.to(self.theta.dtype)

    def log_evidence(self, mean_loss: float) -> float:
        """Logarithm of the marginal likelihood, by Laplace's approximation, in nats.

        Args:
            mean_loss: at theta.

        Source: MacKay 1992; Immer et al. 2021, arXiv:2104.04975.
        """
        value = -self.num_examples * mean_loss
        for block in self.blocks:
            values, _, _ = block.spectrum
            weights = torch.cat([self.theta[self.space.slice_of(name)] for name in block.names])
            value -= 0.5 * self.prior_precision * float(weights.double().square().sum())
            value -= 0.5 * float((self.num_examples * values / self.prior_precision).log1p().sum())
        return value


def _layers(network: nn.Module) -> dict[str, Layer]:
    found: dict[str, Layer] = {}
    for name, module in network.named_modules():
        if not isinstance(module, Layer) or not module.weight.requires_grad:
            continue
        if isinstance(module, nn.Conv2d) and (
            module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str)
        ):
            raise RequestError(
                f"{name} is {module}, which has no Kronecker factors here. Use convolutions with "
                "one group and padding by a number of zeros."
            )
        found[name] = module
    if not found:
        raise RequestError(
            f"{type(network).__name__} has no trained nn.Linear or nn.Conv2d, and so no Kronecker "
            "factors. Choose another network, such as mlp or cnn."
        )
    return found


def _names(name: str, layer: Layer) -> tuple[str, ...]:
    own = ("weight", "bias") if _has_bias(layer) else ("weight",)
    return tuple(f"{name}.{one}" if name else one for one in own)


def _has_bias(layer: Layer) -> bool:
    return layer.bias is not None and layer.bias.requires_grad


def _zeros(size: int, like: Tensor) -> Tensor:
    return torch.zeros(size, size, dtype=like.dtype, device=like.device)


def _rows(layer: Layer, entering: Tensor) -> Tensor:
    """What each row of the layer's weight matrix is multiplied with: (b, T, in), float64."""
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str)
        rows = F.unfold(entering, layer.kernel_size, layer.dilation, layer.padding, layer.stride).mT
    else:
        rows = entering.flatten(1, -2) if entering.ndim > 2 else entering.unsqueeze(1)
    rows = rows.double()
    return torch.cat([rows, torch.ones_like(rows[..., :1])], -1) if _has_bias(layer) else rows


def _positions(layer: Layer, leaving: Tensor) -> Tensor:
    """A layer's outputs as (b, T, out), float64."""
    if isinstance(layer, nn.Conv2d):
        return leaving.flatten(2).mT.double()
    return (leaving.flatten(1, -2) if leaving.ndim > 2 else leaving.unsqueeze(1)).double()


def _curvature_roots(outputs: Tensor, loss: str) -> Iterator[Tensor]:
    """Columns s (b, C) with sum s s^T = the loss's second derivative in the outputs."""
    if loss == "bce":
        probability = outputs.sigmoid()
        yield (probability * (1 - probability)).sqrt()
        return
    probability = outputs.softmax(-1)
    for index in range(outputs.shape[-1]):
        one = F.one_hot(torch.tensor(index), outputs.shape[-1]).to(outputs)
        yield probability[:, index, None].sqrt() * (one - probability)


@contextmanager
def _evaluated(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _watched(layers: dict[str, Layer]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """What goes into each layer and what comes out, by name, of the last forward pass."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, entering: tuple[Tensor, ...], leaving: Tensor) -> None:
            if name in seen:
                raise RequestError(
                    f"{name or 'the layer'} is used twice in one pass, which Kronecker factors do "
                    "not cover. Choose a network without shared layers."
                )
            seen[name] = (entering[0].detach(), leaving)

        return layers[name].register_forward_hook(hook)

    handles = [watch(name) for name in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
