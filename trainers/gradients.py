"""Losses and gradients of a stack's members on their batches, recorded once and replayed.

The first batch of a shape is traced through vmap and autograd into one list of tensor operations;
every later one replays the list and pays for neither. Measured on one core for the gradients of 32
digits MLPs, batch 32 (torch 2.13): traced 2.3 ms, vmap with autograd 3.1, one by one 11.6 traced
and 17.8 eager.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx

from landscape.trainers.stacking import Network, Stack

__all__ = ["Gradients", "Task", "Trial", "choose_chunk", "num_threads"]

# loss(network, *batch): a scalar for one member, whose `network(inputs)` gives its outputs.
Task = Callable[..., Tensor]

_aten = torch.ops.aten
_ROUNDING = 1e3  # in units of the dtype's epsilon: how far a replay may differ from its original
_TRIAL_ROUNDS = 4
_HOPELESS = 3.0  # times the best so far: a candidate that takes longer is not tried again


@dataclass(frozen=True)
class Trial:
    """What was measured before a choice.

    Attributes:
        seconds: mean of one step, by members in one graph, with the better number of threads.
        threads: that of the best; 0 leaves it as it is.
    """

    seconds: dict[int, float]
    threads: int = 0

    @property
    def chosen(self) -> int:
        return min(self.seconds, key=lambda chunk: self.seconds[chunk])


@dataclass
class Gradients:
    """The map (theta, batch) -> (losses, gradients), member by member.

    Attributes:
        stack: whose template and mode count; the weights are arguments of each call.
        task: the loss of one member on its batch.
        chunk: how many members go through one graph: all of them, some, or one after another.
        replayed: whether a recording is used. It is not where it would differ: a network that
            decides in Python by what it sees.
        peak_bytes: most that one graph holds at a time, inputs not counted.
    """

    stack: Stack
    task: Task
    chunk: int
    replayed: bool = True
    peak_bytes: int = 0
    _graphs: dict[tuple[object, ...], Callable[..., Any]] = field(default_factory=dict)

    def __call__(
        self, theta: Tensor, rest: dict[str, Tensor], batch: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Losses (M,) and their gradients (M, P) at theta (M, P).

        Args:
            rest: frozen parameters and buffers, (M, ...) each; buffers are updated in place.
            batch: tensors (M, n, ...), a part for each member.
        """
        total = len(theta)
        if self.chunk >= total > 1:
            return self._run(theta, rest, batch)
        losses, gradients = [], []
        for start in range(0, total, self.chunk):
            # One member alone goes without the leading axis, and so without vmap.
            part: Any = slice(start, start + self.chunk) if self.chunk > 1 else start
            loss, gradient = self._run(
                theta[part],
                {name: tensor[part] for name, tensor in rest.items()},
                [tensor[part] for tensor in batch],
            )
            losses.append(loss)
            gradients.append(gradient)
        if self.chunk > 1:
            return torch.cat(losses), torch.cat(gradients)
        return torch.stack(losses), torch.stack(gradients)

    def _run(
        self, theta: Tensor, rest: dict[str, Tensor], batch: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        names, values = tuple(rest), list(rest.values())

        def function(
            theta: Tensor, values: list[Tensor], batch: Sequence[Tensor]
        ) -> tuple[Tensor, Tensor]:
            return self._eager(theta, dict(zip(names, values, strict=True)), batch)

        if not self.replayed:
            return function(theta, values, batch)
        # A view of one member and a whole stack differ in strides, which the graph has settled.
        key = tuple((t.shape, t.stride(), t.dtype) for t in chain([theta], values, batch))
        if key not in self._graphs:
            graph, peak = _recorded(function, theta, values, batch)
            if graph is None:
                self.replayed = False
                return function(theta, values, batch)
            self._graphs[key] = graph
            self.peak_bytes = max(self.peak_bytes, peak)
        with torch.no_grad():
            losses, gradients = self._graphs[key](theta, values, batch)
        return losses, gradients

    def _eager(
        self, theta: Tensor, rest: dict[str, Tensor], batch: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        def loss_of(
            blocks: dict[str, Tensor], rest: dict[str, Tensor], batch: Sequence[Tensor]
        ) -> Tensor:
            network: Network = self.stack.network(blocks, rest)
            return self.task(network, *batch)

        gradient = torch.empty_like(theta)
        with torch.enable_grad():
            blocks = {k: v.detach().requires_grad_() for k, v in self.stack.blocks(theta).items()}
            losses = (vmap(loss_of, randomness="different") if theta.ndim > 1 else loss_of)(
                blocks, rest, batch
            )
            # A member's loss depends on its own row only, so the sum's gradient holds them all.
            found = torch.autograd.grad(losses.sum(), list(blocks.values()), materialize_grads=True)
        # Straight into place: joining them would copy each a second time, since the gradient of a
        # linear layer's weight comes transposed.
        for target, block in zip(self.stack.blocks(gradient).values(), found, strict=True):
            target.copy_(block)
        return losses.detach(), gradient


def choose_chunk(
    stack: Stack, task: Task, batch: Sequence[Tensor], candidates: Sequence[int] | None = None
) -> Trial:
    """Time a step for several numbers of members in one graph; the stack is left as it is.

    Which is fastest depends on the machine: one batched product beats many small ones, while
    the grouped convolutions that a stack of convolutions turns into can be slower than a loop.
    Likewise the threads: where two cores are shared, two of them took 20 times as long for the
    small operations of 8 digits CNNs as one. The mean counts, not the best: so do hiccups.
    """
    total = len(stack)
    chunks = candidates or sorted({1, min(8, total), total})
    works = {chunk: Gradients(stack, task, chunk) for chunk in chunks}
    rest = {name: tensor.clone() for name, tensor in stack.rest.items()}
    on_cpu = stack.theta.device.type == "cpu"
    counts = sorted({1, torch.get_num_threads()}) if on_cpu else [torch.get_num_threads()]
    taken: dict[tuple[int, int], list[float]] = {}
    with torch.random.fork_rng(devices=[]):
        for chunk, work in list(works.items()):
            try:
                work(stack.theta, rest, batch)  # records
            except RuntimeError:  # what vmap cannot run may run one member at a time
                if chunk == min(chunks):
                    raise
                del works[chunk]
        for _ in range(_TRIAL_ROUNDS):  # by turns: the machine's speed drifts
            for threads in counts:
                for chunk, work in reversed(works.items()):
                    so_far = taken.setdefault((chunk, threads), [])
                    best = min((min(one) for one in taken.values() if one), default=float("inf"))
                    if so_far and min(so_far) > _HOPELESS * best:
                        continue
                    with num_threads(threads):
                        began = time.perf_counter()
                        work(stack.theta, rest, batch)
                        _synchronize(stack.theta.device)
                        so_far.append(time.perf_counter() - began)
    means = {key: sum(seconds) / len(seconds) for key, seconds in taken.items()}
    _, chosen_threads = min(means, key=lambda key: means[key])
    return Trial(
        {chunk: min(means[chunk, threads] for threads in counts) for chunk in works}, chosen_threads
    )


@contextmanager
def num_threads(number: int) -> Iterator[None]:
    """Torch's threads within one operation, within the block; 0 leaves them as they are."""
    before = torch.get_num_threads()
    if number in (0, before):
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --- Recording ---


def _recorded(
    function: Callable[..., tuple[Tensor, Tensor]],
    theta: Tensor,
    values: list[Tensor],
    batch: Sequence[Tensor],
) -> tuple[Callable[..., Any] | None, int]:
    """The function as a list of tensor operations, and its peak memory; None if they differ."""

    def copies() -> list[Tensor]:
        return [tensor.clone(memory_format=torch.preserve_format) for tensor in values]

    generator = torch.Generator("cpu").manual_seed(0)
    noise = torch.rand(theta.shape, generator=generator).to(theta)

    def altered(tensor: Tensor) -> Tensor:
        tensor = tensor.flip(1 if theta.ndim > 1 else 0)
        if tensor.is_floating_point():
            tensor = tensor * (0.5 + torch.rand(tensor.shape, generator=generator).to(tensor))
        return tensor

    # Elsewhere, and on other examples: what a graph has baked in shows itself.
    points = [
        (theta, batch),
        (theta * (0.5 + noise), [altered(tensor) for tensor in batch]),
    ]
    drawn = _python_randomness()
    with torch.random.fork_rng(devices=[]):
        try:
            graph = make_fx(function)(_like(theta), _likes(values), list(batch))
            # One draw, or one shape, would be that of every batch to come.
            if _python_randomness() != drawn or _has_shapes_of_values(graph):
                return None, 0
            _without_idle_nodes(graph, theta, copies(), list(batch))
            meter = _Meter(graph)
            meter.run(*_flat_arguments(theta, copies(), list(batch)))
            for where, examples in points:
                kept, moved = copies(), copies()
                torch.manual_seed(0)
                expected = function(where, kept, examples)
                torch.manual_seed(0)
                with torch.no_grad():
                    found = graph(where, moved, list(examples))
                if not all(map(_agree, [*expected, *kept], [*found, *moved])):
                    return None, 0
        except Exception:  # whatever tracing cannot see through, eager autograd may
            return None, 0
    return graph, meter.peak


def _python_randomness() -> int:
    """Tells whether Python's or NumPy's global generator has moved."""
    state = np.random.get_state(legacy=False)  # noqa: NPY002
    return hash((random.getstate(), repr(state)))


def _has_shapes_of_values(graph: fx.GraphModule) -> bool:
    """Whether the shape of something depends on values, as that of `x[x > 0]` does."""
    for node in graph.graph.nodes:
        if torch.Tag.dynamic_output_shape not in getattr(node.target, "tags", ()):
            continue
        if node.target != _aten.index.Tensor:
            return True
        found = [one.meta.get("tensor_meta") for one in node.args[1] if isinstance(one, fx.Node)]
        if any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in found):
            return True
    return False


def _like(tensor: Tensor) -> Tensor:
    copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype).to(tensor.device)
    return copy.copy_(tensor)


def _likes(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [_like(tensor) for tensor in tensors]


def _agree(expected: Tensor, found: Tensor) -> bool:
    if not expected.is_floating_point():
        return torch.equal(expected, found)
    scale = expected.abs().max() if expected.numel() else 0.0
    bound = float(_ROUNDING * torch.finfo(expected.dtype).eps * scale)
    return torch.allclose(expected, found, rtol=0, atol=bound, equal_nan=True)


def _flat_arguments(theta: Tensor, values: list[Tensor], batch: list[Tensor]) -> list[Tensor]:
    return [theta, *values, *batch]


class _Shapes(fx.Interpreter):
    """Runs a graph once, and notes the shape and strides of every tensor on its node."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            n.meta["layout"] = (result.shape, result.stride(), result.dtype)
        return result


class _Meter(fx.Interpreter):
    """Runs a graph once, and notes the most bytes that it held at a time beside its inputs."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.peak = 0
        self._inputs: set[int] = set()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "placeholder":
            if isinstance(result, Tensor):
                self._inputs.add(result.untyped_storage().data_ptr())
            return result
        live = {}
        for value in [*self.env.values(), result]:
            for tensor in value if isinstance(value, tuple | list) else [value]:
                if isinstance(tensor, Tensor):
                    storage = tensor.untyped_storage()
                    live[storage.data_ptr()] = storage.nbytes()
        held = sum(size for pointer, size in live.items() if pointer not in self._inputs)
        self.peak = max(self.peak, held)
        return result


def _without_idle_nodes(
    graph: fx.GraphModule, theta: Tensor, values: list[Tensor], batch: list[Tensor]
) -> None:
    """Drop views that change nothing and products with 1, a third of the nodes that vmap leaves."""
    _Shapes(graph).run(*_flat_arguments(theta, values, batch))
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
            continue
        source = node.args[0]
        layout = node.meta.get("layout")
        same = layout is not None and layout == source.meta.get("layout")
        if same and (node.target in _IDLE_VIEWS or _is_times_one(node)):
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()


_IDLE_VIEWS = {
    _aten.detach.default,
    _aten.expand.default,
    _aten.view.default,
    _aten._unsafe_view.default,
    _aten.transpose.int,
}


def _is_times_one(node: fx.Node) -> bool:
    """A product with 1 that is no copy for the sake of an operation in place."""
    source = node.args[0]
    if node.target != _aten.mul.Scalar or node.args[1] != 1 or not isinstance(source, fx.Node):
        return False
    schemas = [getattr(user.target, "_schema", None) for user in [*node.users, *source.users]]
    return not any(schema is not None and schema.is_mutable for schema in schemas)
