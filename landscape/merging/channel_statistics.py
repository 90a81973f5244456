"""Channel statistics: means and variances of what layers make, and how weights set them.

`repair` gives those of two solutions to the network between them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from landscape.batch_norm import Moments
from landscape.errors import RequestError
from landscape.objective import Objective

__all__ = ["ChannelLayer", "channel_layers", "channel_moments", "is_dead", "rescaled"]

_LAYERS = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
_NOISE = 32  # roundings that the values of a constant channel may differ by


@dataclass(frozen=True)
class ChannelLayer:
    """A layer whose output channels have a mean and a variance of their own.

    Attributes:
        name: of the module.
        channel_dim: of its outputs.
        weight: the parameter that scales its channels; None for BatchNorm, whose running
            statistics do.
        bias: the parameter that shifts them; None where there is none that may move.
        groups: of a transposed convolution, whose output channels are the second dimension of its
            weight, group by group; 0 for others, where they are the first.
    """

    name: str
    channel_dim: int
    weight: str | None = None
    bias: str | None = None
    groups: int = 0


@dataclass(frozen=True)
class _Call:
    """A layer that was called, and its output as it was then."""

    name: str
    output: Tensor
    version: int

    def is_input(self, inputs: Tensor) -> bool:
        """Whether these inputs are the output, or a view of it, and nothing was written to it."""
        same = inputs.untyped_storage().data_ptr() == self.output.untyped_storage().data_ptr()
        return same and inputs._version == self.version


def channel_layers(
    objective: Objective, theta: Tensor, select: str | Sequence[str] = "*"
) -> tuple[tuple[ChannelLayer, ...], dict[str, str]]:
    """Layers in the order in which they run on the first batch, and why others are left out.

    Args:
        select: globs over the names of layers; a leading "!" takes away.

    Raises:
        RequestError: a glob that matches no layer.
    """
    modules = {
        name: module
        for name, module in objective.model.named_modules()
        if isinstance(module, (nn.Linear, _ConvNd, _BatchNorm))
    }
    wanted = _matching(list(modules), select)
    calls, undone = _calls(objective, theta)
    order = list(dict.fromkeys(call.name for call in calls))
    counts = {name: sum(call.name == name for call in calls) for name in modules}
    tied = {*objective.space.aliases, *objective.space.aliases.values()}
    found, left_out = list[ChannelLayer](), dict[str, str]()
    for name in sorted(wanted, key=lambda name: order.index(name) if name in order else -1):
        module = modules[name]
        reason = None
        if counts[name] != 1:
            reason = f"runs {counts[name]} times for a batch"
        elif isinstance(module, _BatchNorm):
            if module.running_mean is None:
                reason = "keeps no running statistics"
        elif name in undone:
            reason = "has its scale undone by the normalisation behind it"
        else:
            reason = _obstacle(objective, name, module, tied)
        if reason is None:
            found.append(_layer(objective, name, module, tied))
        else:
            left_out[name] = reason
    return tuple(found), left_out


def _matching(names: Sequence[str], select: str | Sequence[str]) -> list[str]:
    """Names that the globs choose; a module's name chooses all below it."""
    patterns = [select] if isinstance(select, str) else list(select)
    if all(pattern.startswith("!") for pattern in patterns):
        patterns.insert(0, "*")
    chosen: set[str] = set()
    for pattern in patterns:
        glob = pattern.removeprefix("!")
        found = {n for n in names if fnmatchcase(n, glob) or fnmatchcase(n, f"{glob}.*")}
        if not found:
            raise RequestError(
                f"no layer matches {pattern!r}. Those that can be repaired: {', '.join(names)}."
            )
        chosen = chosen - found if pattern.startswith("!") else chosen | found
    return [name for name in names if name in chosen]


def _obstacle(
    objective: Objective, name: str, module: nn.Module, tied: Collection[str]
) -> str | None:
    # Not isinstance: a subclass, or a parametrised layer, may do something else with its weight.
    if type(module) not in _LAYERS or "forward" in vars(module):
        return f"is a {type(module).__name__}, which may use its weight in a way of its own"
    weight = _parameter(name, "weight")
    if weight in tied:
        return "shares its weight with another layer"
    if weight not in objective.space.names:
        return "has a weight that is no coordinate"
    return None


def _layer(
    objective: Objective, name: str, module: nn.Module, tied: Collection[str]
) -> ChannelLayer:
    if isinstance(module, _BatchNorm):
        return ChannelLayer(name, 1)
    bias = _parameter(name, "bias")
    movable = bias in objective.space.names and bias not in tied
    return ChannelLayer(
        name,
        # From the end, since the outputs of one example alone have no dimension for examples.
        channel_dim=-len(module.kernel_size) - 1 if isinstance(module, _ConvNd) else -1,
        weight=_parameter(name, "weight"),
        bias=bias if movable else None,
        groups=module.groups if isinstance(module, _ConvTransposeNd) else 0,
    )


def _parameter(layer: str, name: str) -> str:
    return f"{layer}.{name}" if layer else name  # a model that is a layer itself has no name


def _calls(objective: Objective, theta: Tensor) -> tuple[list[_Call], set[str]]:
    """Calls of layers in the first batch, and the layers that a norm reads directly."""
    calls: list[_Call] = []
    undone: set[str] = set()
    handles = []

    def record(name: str, output: object) -> None:
        if isinstance(output, Tensor):
            calls.append(_Call(name, output, output._version))

    def look_back(inputs: tuple[object, ...]) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            # Compared by memory, which stays in use: all outputs are held until the pass ends.
            undone.update(call.name for call in calls if call.is_input(inputs[0]))

    try:
        for name, module in objective.model.named_modules():
            if isinstance(module, (_BatchNorm, _InstanceNorm)):
                handles.append(
                    module.register_forward_pre_hook(lambda _, inputs: look_back(inputs))
                )
            if isinstance(module, (nn.Linear, _ConvNd, _BatchNorm)):
                handles.append(
                    module.register_forward_hook(
                        lambda _, __, output, name=name: record(name, output)
                    )
                )
        with objective.evaluation(), torch.no_grad():
            batch = next(iter(objective.batches))
            objective.term(objective.space.split(theta), batch)
    finally:
        for handle in handles:
            handle.remove()
    return calls, undone


class _Reached(BaseException):  # no Exception, which the user's own code might catch
    """The last layer that was asked for has run: the rest of the pass would tell nothing."""


def channel_moments(
    objective: Objective,
    theta: Tensor,
    layers: Sequence[ChannelLayer],
    buffers: Mapping[str, Tensor],
) -> dict[str, Moments]:
    """Of the outputs of each layer over all data, examples and places alike, at theta (n,).

    Args:
        layers: in the order in which they run; each pass ends behind the last one.
        buffers: by name, where they are not the objective's own.

    Raises:
        RequestError: a layer that runs more or less than once for some batch.
    """
    found: dict[str, Moments] = {}
    count = dict.fromkeys((layer.name for layer in layers), 0)

    def record(layer: ChannelLayer, output: Tensor) -> None:
        # (1, C, ...), whatever the shape of the outputs
        moments = Moments.of(output.movedim(layer.channel_dim, 0).unsqueeze(0))
        found[layer.name] = found[layer.name] + moments if layer.name in found else moments
        count[layer.name] += 1
        if layer is layers[-1]:
            raise _Reached

    with _recording(objective, layers, record), objective.evaluation(), torch.no_grad():
        blocks = objective.space.split(theta)
        for batch in objective.batches:
            try:
                objective.term(blocks, batch, dict(buffers))
            except _Reached:
                continue
    uneven = [name for name, calls in count.items() if calls != objective.batches.num_batches]
    if uneven:
        raise RequestError(
            f"the layer {uneven[0]!r} runs once for the first batch, but not for every one. Leave "
            f"it out: layers=['!{uneven[0]}']."
        )
    return found


@contextmanager
def _recording(
    objective: Objective,
    layers: Sequence[ChannelLayer],
    record: Callable[[ChannelLayer, Tensor], None],
) -> Iterator[None]:
    handles = []
    try:
        for layer in layers:
            module = objective.model.get_submodule(layer.name)
            handles.append(
                module.register_forward_hook(
                    lambda _, __, output, layer=layer: record(layer, output)
                )
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


def is_dead(moments: Moments, dtype: torch.dtype) -> Tensor:
    """(C,) whether a channel is constant over the data, up to the rounding of its values."""
    variance = moments.squares / moments.count
    noise = _NOISE * torch.finfo(dtype).eps * moments.mean.abs()
    return variance <= noise.square()


def rescaled(
    objective: Objective, theta: Tensor, layer: ChannelLayer, factors: Tensor, means: Tensor
) -> Tensor:
    """Theta (n,) with the channels of a layer multiplied, and moved to other means: a copy.

    Args:
        factors: (C,) of each channel.
        means: (C,) by which each channel is shifted after that; not used without a bias.
    """
    assert layer.weight is not None
    theta, space = theta.clone(), objective.space
    shape = space.named(theta)[layer.weight].shape
    view: tuple[int, ...] = (shape[0], -1)
    broadcast: tuple[int, ...] = (-1, 1)
    if layer.groups:
        view = (layer.groups, shape[0] // layer.groups, shape[1], -1)
        broadcast = (layer.groups, 1, shape[1], 1)
    weight = theta[space.slice_of(layer.weight)].view(view)
    weight.copy_(weight.double() * factors.view(broadcast))
    if layer.bias is not None:
        bias = theta[space.slice_of(layer.bias)]
        bias.copy_(bias.double() * factors + means)
    return theta
