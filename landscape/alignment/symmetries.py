"""Which units of a network can be reordered without changing it: found by tracing, and tested.

The specification itself is in `permutations`, the tracing in `tracing`. A network that cannot be
followed needs a `PermutationSpec` by hand, which `verify` tests in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from landscape import preflight
from landscape.alignment.axis_calls import stay
from landscape.alignment.axis_runs import spec_of
from landscape.alignment.permutations import Permutations, PermutationSpec
from landscape.alignment.tracing import Arguments, AxisTracer, Network
from landscape.batches import batch_length, slice_batch
from landscape.errors import RequestError
from landscape.objective import Objective

__all__ = ["permutation_spec", "verify"]

_FLOAT64_TOLERANCE = 1e-10
_NUM_EXAMPLES = 4
_NUM_TRIALS = 2


def permutation_spec(
    model: nn.Module | Objective, example_inputs: object = None
) -> PermutationSpec:
    """The reorderings of units that leave a network's function as it is.

    The network is run once, and every operation below autograd is followed: which entries of
    which axes must move together. What an operation without a rule touches stays in place, as do
    the network's inputs and outputs. The result is tested by `verify` before it is returned;
    groups that fail are taken out. `notes` says what was not followed or taken out.

    Args:
        model: evaluated in eval mode, and never changed.
        example_inputs: what to call it with: a tensor, positional arguments in a tuple or list, or
            named ones in a mapping. An objective has its own data.

    Raises:
        RequestError: no inputs, or nothing in the network can be reordered.

    Source: the symmetries are those of Ainsworth et al. 2023, arXiv:2209.04836.
    """
    network = _network(model, example_inputs)
    # Copies: a forward pass may write to its buffers.
    tensors = {name: tensor.clone() for name, tensor in network.tensors.items()}
    tracer = AxisTracer(tensors)
    for output in network.outputs(tensors, tracer):
        stay(tracer.of(output))
    spec = spec_of({name: tracer.of(tensor) for name, tensor in tensors.items()}, tracer.notes)
    trial = _Trial(network)
    guilty = trial.guilty(spec, list(spec.sizes))
    if guilty:
        spec = _without_groups(spec, guilty)
    if not spec.sizes:
        raise RequestError(
            f"nothing was found in {type(network.model).__name__} that can be reordered"
            + "".join(f"; {note}" for note in spec.notes).rstrip(".")
            + ". Write a PermutationSpec by hand."
        )
    return spec


def verify(
    model: nn.Module | Objective,
    spec: PermutationSpec,
    example_inputs: object = None,
    *,
    seed: int = 0,
) -> float:
    """Test that a specification leaves the network's function as it is.

    All weights are disturbed at random first, as zeros and ones would hide a wrong axis; then the
    outputs for a few examples are compared before and after random permutations, in float64.

    Args:
        example_inputs: as in `permutation_spec`.

    Returns:
        The largest difference, as a share of the output's largest entry.

    Raises:
        RequestError: tensors that the specification does not fit, or groups that change the
            function, named.
    """
    network = _network(model, example_inputs)
    spec.check({name: tensor.shape for name, tensor in network.tensors.items()})
    trial = _Trial(network, seed)
    guilty = trial.guilty(spec, list(spec.sizes))
    if guilty:
        moves = "move axes that are" if len(guilty) > 1 else "moves an axis that is"
        raise RequestError(
            f"the permutation changes the network's function: {_listed(guilty)} {moves} not "
            "followed everywhere. Write a PermutationSpec in which each group names all axes that "
            "carry its units: biases, norms and running statistics, and what reads them."
        )
    return trial.difference(spec, list(spec.sizes))


class _Trial:
    """A network with disturbed weights, and what it returns."""

    def __init__(self, network: Network, seed: int = 0) -> None:
        self._network, self._seed = network, seed
        self._tensors = _disturbed(network, seed)
        # With nothing to label, only the precision is watched.
        watch = AxisTracer({})
        self._expected = network.outputs(self._tensors)
        network.outputs({n: t.clone() for n, t in self._tensors.items()}, watch)
        exact = watch.narrowest == torch.float64
        self.tolerance = _FLOAT64_TOLERANCE if exact else torch.finfo(watch.narrowest).eps ** 0.5

    def difference(self, spec: PermutationSpec, groups: Sequence[str]) -> float:
        """The largest share by which outputs change when these groups are reordered."""
        found = 0.0
        for trial in range(_NUM_TRIALS):
            drawn = spec.random(2 * self._seed + trial)
            chosen: Permutations = spec.identity() | {group: drawn[group] for group in groups}
            outputs = self._network.outputs(spec.apply(self._tensors, chosen))
            pairs = zip(self._expected, outputs, strict=True)
            found = max([found, *(_difference(*pair) for pair in pairs)])
        return found

    def guilty(self, spec: PermutationSpec, groups: list[str]) -> list[str]:
        """Groups without which the function is kept, found by halving."""
        if not groups or self.difference(spec, groups) <= self.tolerance:
            return []
        if len(groups) == 1:
            return groups
        middle = len(groups) // 2
        found = self.guilty(spec, groups[:middle]) + self.guilty(spec, groups[middle:])
        innocent = [group for group in groups if group not in found]
        if self.difference(spec, innocent) > self.tolerance:
            return groups  # each half is harmless, but not both
        return found


def _difference(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape:
        return float("inf")
    expected, found = expected.double(), found.double()
    finite = expected.isfinite()
    if not torch.equal(finite, found.isfinite()):
        return float("inf")
    if not finite.any():
        return 0.0
    apart = (expected - found)[finite].abs().max()
    return float(apart / expected[finite].abs().max().clamp_min(1e-300))


def _disturbed(network: Network, seed: int) -> dict[str, Tensor]:
    """Weights and statistics without zeros, ones or repetitions, of the scale that they had."""
    generator = torch.Generator().manual_seed(seed)

    def noise(tensor: Tensor) -> Tensor:
        drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        return drawn.to(tensor.device)

    found = {}
    for name, tensor in network.parameters.items():
        if tensor.is_floating_point():
            spread = float(tensor.std()) if tensor.numel() > 1 else 0.0
            fan_in = max(1, tensor[0].numel()) if tensor.ndim > 1 else 10
            scale = spread if spread > 1e-3 * fan_in**-0.5 else fan_in**-0.5
            tensor = tensor + 0.5 * scale * noise(tensor)
        found[name] = tensor
    means = {
        f"{name}.running_mean".lstrip(".")
        for name, module in network.model.named_modules()
        if isinstance(module, _BatchNorm)
    }
    for name, buffer in network.buffers.items():
        if buffer.is_floating_point():
            # Factors keep variances positive and masks infinite.
            buffer = buffer * (0.5 + torch.rand(buffer.shape, generator=generator).to(buffer))
            if name in means or not buffer.any():
                buffer = buffer + 0.3 * noise(buffer)
        found[name] = buffer
    return found


def _without_groups(spec: PermutationSpec, groups: Sequence[str]) -> PermutationSpec:
    """A specification in which these groups stay in place."""
    gone = set(groups)
    axes = {}
    for name, own in spec.axes.items():
        kept = tuple(
            tuple(
                replace(
                    run,
                    group=None if run.group in gone else run.group,
                    inner=() if gone & set(run.inner) else run.inner,
                )
                for run in axis
            )
            for axis in own
        )
        axes[name] = tuple(axis if any(run.groups for run in axis) else () for axis in kept)
    axes = {name: own for name, own in axes.items() if any(own)}
    note = f"{_listed(groups)} did not pass the test with a random permutation and stays in place."
    return PermutationSpec(axes, (*spec.notes, note))


def _listed(groups: Sequence[str]) -> str:
    shown = ", ".join(map(repr, groups[:5])) + (", ..." if len(groups) > 5 else "")
    return f"the group{'s' if len(groups) > 1 else ''} {shown}"


def _network(model: nn.Module | Objective, example_inputs: object) -> Network:
    if isinstance(model, Objective) and example_inputs is None:
        return Network(model.model, _calls(model))
    module = model.model if isinstance(model, Objective) else preflight.unwrap(model)[0]
    if example_inputs is None:
        raise RequestError(
            "example_inputs is missing: a module shows its symmetries only when it is run. Give "
            "the inputs of a few examples, or an Objective."
        )
    if isinstance(example_inputs, Mapping) or hasattr(example_inputs, "keys"):
        names = example_inputs.keys()
        return Network(module, [((), {name: example_inputs[name] for name in names})])  # type: ignore[index]
    if isinstance(example_inputs, (tuple, list)):
        return Network(module, [(tuple(example_inputs), {})])
    return Network(module, [((example_inputs,), {})])


def _calls(objective: Objective) -> list[Arguments]:
    """What the loss calls the model with, for a few examples of the first batch."""
    batch = next(iter(objective.batches))
    size = batch_length(batch)
    found: list[Arguments] = []
    handle = objective.model.register_forward_pre_hook(
        lambda _, args, kwargs: found.append((args, kwargs)), with_kwargs=True
    )
    try:
        with objective.evaluation(), torch.no_grad():
            objective.term(objective.space.split(objective.theta), batch)
    finally:
        handle.remove()
    if not found:
        raise RequestError(
            "the loss does not call the model itself but parts of it. Give example_inputs for the "
            "model, or write a PermutationSpec by hand."
        )
    few = slice_batch(found, 0, min(_NUM_EXAMPLES, size), size)
    return cast("list[Arguments]", few)
