"""Activation matching: the permutations under which units of two networks do the same on data.

`weight_matching` needs no data; it finds here what no module's output shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from landscape.alignment.matching import Matching, match
from landscape.alignment.permutations import Axis, Permutations, PermutationSpec, Run
from landscape.alignment.reordering import Network, tensors_at
from landscape.objective import Objective

__all__ = ["match_activations", "observed_groups"]

_EPS = 1e-4  # of correlations, so that dead units are like nothing; as in Jordan et al. 2022


def match_activations(
    objective: Objective, spec: PermutationSpec, a: Network, b: Network, *, seed: int
) -> Matching:
    """max_P sum of correlations cov / (sigma sigma' + 1e-4) of units over the objective's data.

    A unit's values are the outputs of the modules whose weight has it on the output axis: of linear
    layers and convolutions (each place of an image or sequence is a sample), of embeddings and of
    normalisations. Modules that share a group, as those that write to a residual stream, count
    alike. What is inside of a head is compared feature by feature, and the heads by the best that
    they reach. Groups that no module's output shows stay as they are: see `observed_groups`.

    One pass over the data for both networks and all groups.

    Args:
        seed: of the order of the groups; of no effect unless they are nested.

    Source: Li et al. 2015, arXiv:1511.07543; Ainsworth et al. 2022, arXiv:2209.04836, section 3.1.
    """
    outputs = _outputs(objective, spec)
    moments = {name: _JointMoments() for name in outputs}
    with objective.evaluation(), torch.no_grad():
        networks = [(network.theta, tensors_at(objective, network)) for network in (a, b)]
        for batch in objective.batches:
            first, second = (
                _record(objective, outputs, theta, buffers, batch) for theta, buffers in networks
            )
            for name in outputs:
                for x, y in zip(first[name], second[name], strict=True):
                    moments[name].add(x, y)
    correlations = [
        _OutputAxis(outputs[name].axis, found.correlation())
        for name, found in moments.items()
        if found.count
    ]

    def total(permutations: Permutations) -> float:
        return sum(one.total(permutations) for one in correlations)

    return match(
        correlations,
        total,
        spec.identity(),
        seed=np.random.SeedSequence(seed),
        free=observed_groups(objective, spec),
    )


def observed_groups(objective: Objective, spec: PermutationSpec) -> frozenset[str]:
    """Groups of whose units some module's output tells the values."""
    return frozenset(
        group
        for output in _outputs(objective, spec).values()
        for run in output.axis
        for group in run.groups
    )


@dataclass(frozen=True)
class _Output:
    """What a module gives: the axis of its features, and where they are in the output."""

    axis: Axis
    features: Callable[[Tensor], int]  # output -> the dimension of its features


def _outputs(objective: Objective, spec: PermutationSpec) -> dict[str, _Output]:
    """Modules whose outputs show units of a group, by name."""
    found = {}
    for name, module in objective.model.named_modules():
        place = _features(module)
        if place is not None:
            parameter, dim, features = place
            key = f"{name}.{parameter}".removeprefix(".")
            axes = spec.axes.get(objective.space.aliases.get(key, key), ())
            if axes and any(run.groups for run in axes[dim]):
                found[name] = _Output(axes[dim], features)
    return found


def _features(module: nn.Module) -> tuple[str, int, Callable[[Tensor], int]] | None:
    """The parameter and its dimension that lie along the output's features, and where these are."""
    weight = module._parameters.get("weight")
    if isinstance(module, nn.MultiheadAttention):
        return "out_proj.weight", 0, lambda output: output.ndim - 1
    if weight is None:
        return None
    if isinstance(module, _ConvNd):
        spatial = len(module.kernel_size)
        # The output axis of a grouped transposed convolution is no axis of its weight.
        if isinstance(module, _ConvTransposeNd) and module.groups > 1:
            return None
        dim = 1 if isinstance(module, _ConvTransposeNd) else 0
        return "weight", dim, lambda output: output.ndim - 1 - spatial
    if isinstance(module, (_NormBase, nn.GroupNorm)):
        return "weight", 0, lambda output: 1
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "weight", 1, lambda output: output.ndim - 1
    if isinstance(module, nn.Linear) or (
        isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and weight.ndim == 1
    ):
        return "weight", 0, lambda output: output.ndim - 1
    return None


def _record(
    objective: Objective,
    outputs: Mapping[str, _Output],
    theta: Tensor,
    buffers: Mapping[str, Tensor],
    batch: object,
) -> dict[str, list[Tensor]]:
    """Values (units, samples) of each module in one batch, a tensor for each time that it runs."""
    with _watched(objective.model, outputs) as found:
        # A copy: BatchNorm under the policy "batch" writes to what it is given.
        own = {name: buffer.clone() for name, buffer in buffers.items()}
        objective.term(objective.space.split(theta), batch, own)
    return found


@contextmanager
def _watched(model: nn.Module, outputs: Mapping[str, _Output]) -> Iterator[dict[str, list[Tensor]]]:
    found: dict[str, list[Tensor]] = {name: [] for name in outputs}

    def keep(name: str, given: object) -> None:
        output = given[0] if isinstance(given, tuple) else given
        assert isinstance(output, Tensor)
        values = output.detach().movedim(outputs[name].features(output), 0)
        found[name].append(values.reshape(len(values), -1).double())

    handles = []
    try:
        for name in outputs:
            handles.append(
                model.get_submodule(name).register_forward_hook(
                    lambda _, __, given, name=name: keep(name, given)
                )
            )
        yield found
    finally:
        for handle in handles:
            handle.remove()


class _JointMoments:
    """Means, variances and covariances of two sets of values, pooled over batches in float64."""

    def __init__(self) -> None:
        self.count = 0
        zero = torch.zeros((), dtype=torch.float64)
        self._means = [zero, zero]
        self._squares = [zero, zero]
        self._products = zero

    def add(self, x: Tensor, y: Tensor) -> None:
        """More samples: (m, samples) of each network."""
        count = x.shape[1]
        means = [values.mean(1) for values in (x, y)]
        centered = [values - mean[:, None] for values, mean in zip((x, y), means, strict=True)]
        # Chan et al. 1979: sums of products of deviations add without cancellation.
        share = count / (self.count + count)
        apart = [new - old for new, old in zip(means, self._means, strict=True)]
        between = self.count * share
        self._products = (
            self._products + centered[0] @ centered[1].T + between * torch.outer(*apart)
        )
        self._squares = [
            held + values.square().sum(1) + between * gap.square()
            for held, values, gap in zip(self._squares, centered, apart, strict=True)
        ]
        self._means = [old + share * gap for old, gap in zip(self._means, apart, strict=True)]
        self.count += count

    def correlation(self) -> Tensor:
        """(m, m) cov / (sigma sigma' + 1e-4)."""
        scales = [(squares / self.count).sqrt() for squares in self._squares]
        return self._products / self.count / (torch.outer(*scales) + _EPS)


@dataclass(frozen=True, eq=False)
class _OutputAxis:
    """Correlations of a module's output features; conforms to `AxisSimilarity`."""

    axis: Axis
    correlation: Tensor

    @property
    def others(self) -> frozenset[str]:
        return frozenset()

    def entries(self, rows: slice, columns: slice, permutations: Permutations) -> Tensor:
        return self.correlation[rows, columns]

    def units(self, start: int, run: Run, permutations: Permutations) -> Tensor:
        whole = slice(start, start + len(run))
        inside = Run(run.size, None, run.block, run.inner).order(permutations)
        entries = self.correlation[whole, whole][:, inside.to(self.correlation.device)]
        blocks = entries.view(run.size, run.block, run.size, run.block)
        return blocks.diagonal(dim1=1, dim2=3).sum(-1)

    def total(self, permutations: Permutations) -> float:
        """Sum of the correlations of entries that are matched with each other."""
        found, start = 0.0, 0
        for run in self.axis:
            if run.groups:
                whole = slice(start, start + len(run))
                order = run.order(permutations).to(self.correlation.device)
                found += float(self.correlation[whole, whole][:, order].diagonal().sum())
            start += len(run)
        return found
