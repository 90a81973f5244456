"""ParameterSpace: a model's parameters as one flat vector, and back.

`objective` evaluates the loss at such a vector.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise

import torch
from torch import Tensor, nn

from landscape.errors import RequestError

__all__ = ["ParameterSpace"]


class ParameterSpace:
    """The chosen parameters of a model, in a fixed order, as coordinates of R^n.

    Args:
        model: never changed. A parameter that several modules share (tied weights) is one
            set of coordinates, under the first of its names.
        select: globs over dotted names; a module's name selects all below it, and a leading
            `!` takes away: `"*"`, `"layer4"`, `["*.weight", "!head"]`.
        frozen: parameters with `requires_grad=False` are no coordinates unless this is true.
        dtype: of the flat vector; by default that of the chosen parameters.

    Raises:
        RequestError: a glob that matches nothing, nothing selected, complex or uninitialised
            parameters, or separate parameters that overlap in memory.

    Attributes:
        names: one for each block of coordinates.
        shapes: their shapes, in the same order.
        size: n, the number of coordinates.
        aliases: other names of tied parameters -> the name that holds the coordinates.
    """

    def __init__(
        self,
        model: nn.Module,
        select: str | Sequence[str] = "*",
        *,
        frozen: bool = False,
        dtype: torch.dtype | None = None,
    ) -> None:
        everything = list(model.named_parameters(remove_duplicate=False))
        if not everything:
            raise RequestError(
                f"{type(model).__name__} has no parameters. Give a model that has weights."
            )
        for name, parameter in everything:
            # Also where it is not selected: the model cannot be evaluated without it.
            if isinstance(parameter, nn.parameter.UninitializedParameter):
                raise RequestError(
                    f"{name} is not initialised yet (a lazy module). Run the model once first."
                )
        first_name: dict[int, str] = {}
        for name, parameter in everything:
            first_name.setdefault(id(parameter), name)
        self.aliases = {
            name: first_name[id(parameter)]
            for name, parameter in everything
            if first_name[id(parameter)] != name
        }
        wanted = _matching([name for name, _ in everything], select, self.aliases)
        parameters = {
            name: parameter
            for name, parameter in model.named_parameters()
            if name in wanted and (frozen or parameter.requires_grad)
        }
        if not parameters:
            raise RequestError(
                f"the selection {select!r} holds only frozen parameters (requires_grad=False). "
                "Unfreeze them, or pass frozen=True to measure along them all the same."
            )
        _check_usable(parameters)
        _check_memory(dict(model.named_parameters()), parameters)
        self.names = tuple(parameters)
        self.shapes = tuple(parameter.shape for parameter in parameters.values())
        self._sizes = [parameter.numel() for parameter in parameters.values()]
        self._dtypes = [dtype or parameter.dtype for parameter in parameters.values()]
        self.size = sum(self._sizes)
        self.dtype = self._dtypes[0]
        for other in self._dtypes[1:]:
            self.dtype = torch.promote_types(self.dtype, other)
        self.device = next(iter(parameters.values())).device

    def __repr__(self) -> str:
        return f"ParameterSpace({self.size:,} coordinates in {len(self.names)} tensors)"

    def flatten(self, tensors: Mapping[str, Tensor] | Iterable[Tensor]) -> Tensor:
        """Named tensors, or tensors in the order of `names`, as one vector (n,): a copy."""
        if isinstance(tensors, Mapping):
            blocks = [tensors[name] for name in self.names]
        else:
            blocks = list(tensors)
        for name, shape, block in zip(self.names, self.shapes, blocks, strict=True):
            if block.shape != shape:
                raise RequestError(
                    f"{name} has shape {tuple(block.shape)}, expected {tuple(shape)}."
                )
        return torch.cat([block.detach().reshape(-1).to(self.dtype) for block in blocks])

    def split(self, vector: Tensor) -> list[Tensor]:
        """The blocks of a vector (n,), in the order of `names`; views where no cast is needed."""
        self.check(vector)
        return [
            block.view(shape).to(dtype)
            for block, shape, dtype in zip(
                torch.split(vector, self._sizes), self.shapes, self._dtypes, strict=True
            )
        ]

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """`split` with names."""
        return dict(zip(self.names, self.split(vector), strict=True))

    def slice_of(self, name: str) -> slice:
        """Where the parameter `name` (or its tied twin) lies in the flat vector."""
        name = self.aliases.get(name, name)
        if name not in self.names:
            near = difflib.get_close_matches(name, [*self.names, *self.aliases], n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise RequestError(f"{name!r} is none of the selected parameters.{hint}")
        position = self.names.index(name)
        start = sum(self._sizes[:position])
        return slice(start, start + self._sizes[position])

    def check(self, vector: Tensor) -> None:
        """Raise RequestError unless `vector` is a point of this space."""
        if vector.shape != (self.size,):
            raise RequestError(
                f"the vector has shape {tuple(vector.shape)}, expected ({self.size},): one "
                "coordinate for each selected parameter. `space.flatten(tensors)` makes one."
            )


def _matching(
    names: Sequence[str], select: str | Sequence[str], aliases: Mapping[str, str]
) -> set[str]:
    """The names that hold coordinates: a tied parameter goes in, or out, by any of its names."""
    patterns = [select] if isinstance(select, str) else list(select)
    if all(pattern.startswith("!") for pattern in patterns):
        patterns.insert(0, "*")
    chosen: set[str] = set()
    for pattern in patterns:
        glob = pattern.removeprefix("!")
        found = {n for n in names if fnmatchcase(n, glob) or fnmatchcase(n, f"{glob}.*")}
        if not found:
            near = difflib.get_close_matches(glob, [*names, *_modules(names)], n=3, cutoff=0.4)
            raise RequestError(
                f"no parameter matches {pattern!r}. "
                + (f"Close to it: {', '.join(near)}. " if near else "")
                + f"The model's parameters are: {', '.join(names[:6])}"
                + (f", ... ({len(names)} in all)." if len(names) > 6 else ".")
            )
        found = {aliases.get(name, name) for name in found}
        chosen = chosen - found if pattern.startswith("!") else chosen | found
    if not chosen:
        raise RequestError(f"the selection {select!r} leaves no parameter.")
    return chosen


def _modules(names: Sequence[str]) -> Iterator[str]:
    for name in names:
        parts = name.split(".")[:-1]
        yield from (".".join(parts[: i + 1]) for i in range(len(parts)))


def _check_usable(parameters: Mapping[str, nn.Parameter]) -> None:
    devices = {}
    for name, parameter in parameters.items():
        if parameter.is_meta:
            raise RequestError(f"{name} is on the meta device: load the model's weights first.")
        if not parameter.is_floating_point():
            raise RequestError(
                f"{name} is {parameter.dtype}: curvature needs real floating-point parameters. "
                f"Take it out of the selection with '!{name}'."
            )
        devices[parameter.device] = name
    if len(devices) > 1:
        where = ", ".join(f"{name} on {device}" for device, name in devices.items())
        raise RequestError(f"the model is spread over devices ({where}). Move it to one.")


def _check_memory(
    parameters: Mapping[str, nn.Parameter], selected: Mapping[str, nn.Parameter]
) -> None:
    spans: list[tuple[int, int, str]] = []
    for name, parameter in parameters.items():
        strides = zip(parameter.shape, parameter.stride(), strict=True)
        extent = 1 + sum((length - 1) * stride for length, stride in strides)
        # Dense in any order of dimensions, so also the transpose of another one.
        if parameter.numel() == extent and not parameter.is_meta:
            start = parameter.data_ptr()
            spans.append((start, start + extent * parameter.element_size(), name))
    spans.sort()
    for (_, end, name), (start, _, other) in pairwise(spans):
        if start < end and (name in selected or other in selected):
            raise RequestError(
                f"{name} and {other} are separate parameters that share memory: moving one would "
                "move the other unseen. Tie them properly, by assigning the same nn.Parameter."
            )
