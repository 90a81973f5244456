"""Running a network once and labelling the axes of every tensor on the way.

What each operation does to the labels is in `axis_rules`; `symmetries` reads the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from landscape.alignment import axis_rules, axis_views
from landscape.alignment.axis_calls import Call, Labels, Rule, fixed
from landscape.alignment.axis_labels import (
    Unfollowed,
    Units,
    depend_only,
    depends,
    fix,
    leaves,
    length,
    whole,
)
from landscape.batches import map_tensors, preserved_rng, tensors_of
from landscape.errors import RequestError

__all__ = ["Arguments", "AxisTracer", "Network"]

Arguments = tuple[tuple[object, ...], dict[str, object]]  # of a call: positional and named

_RULES: dict[str, Rule] = {**axis_rules.RULES, **axis_views.RULES}


def _labels_after(call: Call) -> list[Labels]:
    """The labels of an operation's outputs; what it ties together is tied.

    Raises:
        Unfollowed: it has no rule, or the rule does not cover the case.
    """
    is_pointwise = axis_rules.is_pointwise(call)
    rule = _RULES.get(call.name, axis_rules.pointwise if is_pointwise else None)
    if not call.outputs and not call.writes:
        return []  # a number was read, or shapes were compared
    empty = any(size == 0 for tensor in call.tensors for size in tensor.shape)
    in_place = call.is_in_place and (is_pointwise or call.name in axis_views.SAME_ENTRIES)
    if rule is None or empty or (call.writes and not in_place):
        raise Unfollowed
    found = rule(call)
    if len(found) != len(call.outputs):
        raise Unfollowed
    for tensor, labels in zip(call.outputs, found, strict=True):
        assert tuple(map(length, labels)) == tuple(tensor.shape), (call.name, tensor.shape)
        _keep_dependence_clear(labels)
    return found


def _keep_dependence_clear(labels: Labels) -> None:
    """Units may depend only on those that stand beside them, once, in the same tensor."""
    present = [units for label in labels for units in leaves(label)]
    for units in present:
        depend_only(units, (outer for outer in depends(units) if present.count(outer) == 1))


class AxisTracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Labels the axes of all tensors that are made while it is active.

    It sees operations below autograd, where functional calls and foreign modules are the same few
    hundred. A tensor that nobody labelled is data, all of whose axes stay.

    Args:
        free: tensors whose axes may be reordered as far as the operations allow.

    Attributes:
        notes: what could not be followed.
        narrowest: the narrowest floating-point type that was seen.
    """

    def __init__(self, free: Mapping[str, Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # The tensors are kept: their ids must not be used again.
        self._labels: dict[int, tuple[Tensor, Labels]] = {}
        self._lost: dict[str, int] = {}
        self.narrowest = torch.float64
        for tensor in free.values():
            self.put(tensor, tuple(whole(Units(size)) for size in tensor.shape))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled in here, and to exclude it would take seconds to import

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        out = func(*args, **(kwargs or {}))
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        call = Call(func, args, kwargs or {}, outputs, self.of)
        try:
            found = _labels_after(call)
        except Unfollowed:
            found = self._unfollowed(call)
        for tensor, labels in zip(outputs, found, strict=True):
            self.put(tensor, labels)
            self._look_at(tensor)
        return out

    def _look_at(self, tensor: Tensor) -> None:
        if tensor.is_floating_point() and tensor.dtype.itemsize < self.narrowest.itemsize:
            self.narrowest = tensor.dtype

    def of(self, tensor: Tensor) -> Labels:
        """The labels of a tensor's axes."""
        if id(tensor) not in self._labels:
            self.put(tensor, fixed(tensor.shape))
        return self._labels[id(tensor)][1]

    def put(self, tensor: Tensor, labels: Labels) -> None:
        """Label a tensor's axes."""
        self._labels[id(tensor)] = (tensor, labels)

    def _unfollowed(self, call: Call) -> list[Labels]:
        moved = [fix(label) for tensor in call.tensors for label in self.of(tensor)]
        if any(moved):
            self._lost[call.name] = self._lost.get(call.name, 0) + 1
        return [fixed(tensor.shape) for tensor in call.outputs]

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(
            f"the operation {name!r} ({count} time{'s' if count > 1 else ''}) is not followed: "
            "the units that enter it stay in place."
            for name, count in self._lost.items()
        )


class Network:
    """A module with example inputs as a function of its tensors, in float64.

    Args:
        model: never changed.
        inputs: for each call, positional and named arguments.
    """

    def __init__(self, model: nn.Module, inputs: Sequence[Arguments]) -> None:
        self.model = model
        self._inputs = inputs
        self.parameters = {n: _double(p.detach()) for n, p in model.named_parameters()}
        self.buffers = {n: _double(b.detach()) for n, b in model.named_buffers()}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers by name."""
        return self.parameters | self.buffers

    def outputs(
        self, tensors: Mapping[str, Tensor], tracer: AxisTracer | None = None
    ) -> list[Tensor]:
        """All tensors that the network returns for its example inputs."""
        # A forward pass may write to its buffers.
        own = {name: tensor.clone() for name, tensor in tensors.items()} if not tracer else tensors
        found: list[Tensor] = []
        with _evaluated(self.model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            for call in self._inputs:
                # Fresh ones each time: a forward pass may write to its inputs.
                args, kwargs = cast("Arguments", map_tensors(_double, call))
                with tracer or nullcontext():
                    output = functional_call(self.model, dict(own), args, kwargs)
                found += tensors_of(output).values()
        if not found:
            raise RequestError(
                f"{type(self.model).__name__} returned a {type(output).__name__} without tensors, "
                "so that nothing shows what must stay. Write a PermutationSpec by hand."
            )
        return found


def _double(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float64 if tensor.is_floating_point() else tensor.dtype, copy=True)


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """The model in eval mode inside, as it was outside; nothing is fused or compiled."""
    compiled = any(
        module._compiled_call_impl is not None or "_orig_mod" in module._modules
        for module in model.modules()
    )
    before = [(module, dict(vars(module))) for module in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    device = next(model.parameters()).device
    eager = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
    with torch.inference_mode(False), preserved_rng(device), eager:
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            for module, _ in before:
                module.training = False
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for module, attributes in before:
                for name in vars(module).keys() - attributes.keys():
                    del vars(module)[name]
                vars(module).update(attributes)
