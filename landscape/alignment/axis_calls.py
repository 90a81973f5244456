"""One call of an operation, as the rules see it, and the book that the rules are kept in.

The rules are in `axis_rules` (arithmetic) and `axis_views` (rearranging); `tracing` applies them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from landscape.alignment.axis_labels import Label, Units, fix, whole

__all__ = ["Call", "Labels", "Rule", "Rules", "fixed", "stay"]

Labels = tuple[Label, ...]  # of a tensor: one for each axis


@dataclass(frozen=True)
class Call:
    """One call of an operation.

    Attributes:
        function: an operation of ATen, below autograd.
        labels: gives the labels of a tensor.
    """

    function: Any
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    outputs: list[Tensor]
    labels: Callable[[Tensor], Labels]

    @cached_property
    def name(self) -> str:
        """The operation's, without its variant; that of the pure one for one in place."""
        name = str(self.function._schema.name).removeprefix("aten::")
        return name.removesuffix("_") if self.is_in_place else name

    @property
    def is_in_place(self) -> bool:
        """Whether it changes its first argument and returns it."""
        return str(self.function._schema.name).endswith("_")

    @property
    def writes(self) -> bool:
        """Whether it changes any of its arguments."""
        return bool(self.function._schema.is_mutable)

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """By name, defaults included."""
        expected = self.function._schema.arguments
        given = dict(zip((one.name for one in expected), self.args, strict=False))
        defaults = {one.name: one.default_value for one in expected if one.has_default_value()}
        return defaults | given | dict(self.kwargs)

    def __getitem__(self, name: str) -> Any:
        return self.arguments.get(name)

    @cached_property
    def tensors(self) -> list[Tensor]:
        """All that went in."""
        given = tree_leaves([self.args, dict(self.kwargs)])
        return [leaf for leaf in given if isinstance(leaf, Tensor)]

    def of(self, name: str) -> Labels:
        """The labels of the argument of this name."""
        return self.labels(self[name])

    def dim(self, name: str = "dim", extra: int = 0) -> int:
        """An axis of the first tensor, or of one with more axes, counted from the front."""
        return int(self[name]) % (len(self.labels(self.tensors[0])) + extra)


Rule = Callable[[Call], "list[Labels]"]  # ties what goes in, and labels what comes out


class Rules(dict[str, Rule]):
    """Rules by the name of the operation."""

    def of(self, names: str) -> Callable[[Rule], Rule]:
        """Enter a rule for operations, named with spaces between."""

        def enter(rule: Rule) -> Rule:
            self.update(dict.fromkeys(names.split(), rule))
            return rule

        return enter


def fixed(shape: Iterable[int]) -> Labels:
    """Labels of data: nothing moves."""
    return tuple(whole(Units(size, fixed=True)) for size in shape)


def stay(labels: Labels) -> Labels:
    """The same labels, all of them fixed."""
    for label in labels:
        fix(label)
    return labels
