"""Stack: M networks of one shape as tensors with a leading axis; `training` moves them together.

The trainable parameters of all members are one matrix theta (M, P), so that an optimizer, a norm
or an average is one operation on rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from landscape.errors import RequestError
from landscape.parameters import ParameterSpace

__all__ = ["Network", "Stack", "concatenated", "stack"]

Network = Callable[..., Tensor]  # inputs -> outputs, with the weights of one member


@dataclass(frozen=True)
class Stack:
    """M networks of one shape.

    Attributes:
        template: says what is computed; its own weights are not used. In the mode, training or
            evaluation, in which the members are to run.
        space: the order of the trainable parameters in a row of `theta`.
        theta: (M, P) trainable parameters, a row a member.
        frozen: the other parameters, each (M, *shape).
        buffers: such as running statistics, each (M, *shape).
    """

    template: nn.Module
    space: ParameterSpace
    theta: Tensor
    frozen: dict[str, Tensor]
    buffers: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.theta)

    def __repr__(self) -> str:
        name = type(self.template).__name__
        return f"Stack({len(self)} x {name} of {self.space.size:,} trainable parameters)"

    def __call__(self, inputs: Tensor, *, shared: bool = True) -> Tensor:
        """Outputs of every member, (M, n, ...), in the template's mode.

        Args:
            inputs: (n, ...) for all members; with `shared=False` (M, n, ...), a part for each.
        """

        def outputs(blocks: dict[str, Tensor], rest: dict[str, Tensor], inputs: Tensor) -> Tensor:
            return self.network(blocks, rest)(inputs)

        in_dims = (0, 0, None if shared else 0)
        mapped = vmap(outputs, in_dims=in_dims, randomness="different")
        result: Tensor = mapped(self.blocks(self.theta), self.rest, inputs)
        return result

    @property
    def rest(self) -> dict[str, Tensor]:
        """Frozen parameters and buffers: what a member needs beside its row of theta."""
        return {**self.frozen, **self.buffers}

    def blocks(self, theta: Tensor) -> dict[str, Tensor]:
        """Views of theta, (P,) or (M, P), as the trainable parameters by name."""
        lead = theta.shape[:-1]
        parts = torch.split(theta, [shape.numel() for shape in self.space.shapes], -1)
        return {
            name: part.view(*lead, *shape)
            for name, shape, part in zip(self.space.names, self.space.shapes, parts, strict=True)
        }

    def network(self, blocks: dict[str, Tensor], rest: dict[str, Tensor]) -> Network:
        """One member as a function of its inputs, for its parameters and its share of `rest`."""
        named = {**blocks, **rest}
        return lambda *inputs, **options: functional_call(self.template, named, inputs, options)

    def member(self, index: int) -> nn.Module:
        """A network of its own with the weights of one member."""
        network = copy.deepcopy(self.template)
        own = {**network.state_dict(keep_vars=True), **dict(network.named_parameters())}
        held = {**self.space.named(self.theta[index])}
        held |= {name: tensor[index] for name, tensor in self.rest.items()}
        for name, buffer in network.named_buffers():
            own.setdefault(name, buffer)  # those that are not in a state dict
        with torch.no_grad():
            for name, tensor in held.items():
                own[name].copy_(tensor)
        return network

    def select(self, indices: Sequence[int] | Tensor) -> Stack:
        """A stack of copies of some members, which may repeat."""
        chosen = torch.as_tensor(indices, device=self.theta.device)
        return replace(
            self,
            theta=self.theta[chosen],
            frozen={name: tensor[chosen] for name, tensor in self.frozen.items()},
            buffers={name: tensor[chosen] for name, tensor in self.buffers.items()},
        )

    def at(self, theta: Tensor, buffers: dict[str, Tensor] | None = None) -> Stack:
        """The same members with other weights."""
        return replace(self, theta=theta, buffers=self.buffers if buffers is None else buffers)

    def clone(self) -> Stack:
        """A copy that shares no memory."""
        return self.select(range(len(self)))

    def to(self, *, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Stack:
        """A copy in another precision or on another device."""
        template = copy.deepcopy(self.template).to(device=device, dtype=dtype)

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None, copy=True)

        return Stack(
            template,
            ParameterSpace(template),
            moved(self.theta),
            {name: moved(tensor) for name, tensor in self.frozen.items()},
            {name: moved(tensor) for name, tensor in self.buffers.items()},
        )

    @contextmanager
    def mode(self, *, training: bool) -> Iterator[None]:
        """The template in training or evaluation mode, within the block."""
        before = {module: module.training for module in self.template.modules()}
        self.template.train(training)
        try:
            yield
        finally:
            for module, was in before.items():
                module.training = was


def stack(models: Sequence[nn.Module]) -> Stack:
    """Networks of one shape as a stack; they are copied and stay as they are.

    Raises:
        RequestError: no networks, or networks that differ in more than their values: in class, in
            parameters and buffers, in their shapes and dtypes, in what is frozen or in mode.
    """
    if not models:
        raise RequestError("there are no models to stack. Give one or more.")
    first = models[0]
    for index, model in enumerate(models[1:], start=1):
        difference = _difference(first, model)
        if difference:
            raise RequestError(
                f"model {index} cannot be stacked on model 0: {difference}. Networks of one stack "
                "differ in their values only."
            )
    template = copy.deepcopy(first)
    space = ParameterSpace(template)
    parameters = [dict(model.named_parameters()) for model in models]
    buffers = [dict(model.named_buffers()) for model in models]
    with torch.no_grad():
        return Stack(
            template,
            space,
            torch.stack([space.flatten(named) for named in parameters]),
            {
                name: torch.stack([named[name].detach() for named in parameters])
                for name in parameters[0]
                if name not in space.names
            },
            {name: torch.stack([named[name] for named in buffers]) for name in buffers[0]},
        )


def concatenated(stacks: Sequence[Stack]) -> Stack:
    """Copies of the members of several stacks of one shape as one stack, in that order."""
    first = stacks[0]

    def joined(tensors: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([named[name] for named in tensors]) for name in tensors[0]}

    return replace(
        first,
        theta=torch.cat([one.theta for one in stacks]),
        frozen=joined([one.frozen for one in stacks]),
        buffers=joined([one.buffers for one in stacks]),
    )


def _difference(first: nn.Module, other: nn.Module) -> str:
    if type(first) is not type(other):
        return f"it is a {type(other).__name__}, not a {type(first).__name__}"
    kinds = [
        {
            name: (tuple(tensor.shape), tensor.dtype, tensor.device, tensor.requires_grad)
            for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        }
        for model in (first, other)
    ]
    for name in {**kinds[0], **kinds[1]}:
        if kinds[0].get(name) != kinds[1].get(name):
            shown = [kind.get(name, "absent") for kind in kinds]
            return f"{name} is {shown[1]}, not {shown[0]} (shape, dtype, device, requires_grad)"
    modules, twins = dict(first.named_modules()), dict(other.named_modules())
    for name in {**modules, **twins}:
        if name not in modules or name not in twins:
            return f"module {name!r} is in one of them only"
        module, twin = modules[name], twins[name]
        # Two activations, two dropout rates or two strides would run as those of the first.
        if type(module) is not type(twin) or module.extra_repr() != twin.extra_repr():
            return f"module {name!r} is {twin!r:.80}, not {module!r:.80}"
        if module.training != twin.training:
            return f"module {name!r} is in another mode (training or evaluation)"
    return ""
